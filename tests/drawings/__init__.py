"""The drawings in ``docs/``, as SVG text. ``python -m tests.drawings`` writes them; a test fails when they are stale."""
