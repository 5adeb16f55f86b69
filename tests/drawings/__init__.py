"""The drawings of ``docs/``, as SVG text. ``python -m tests.drawings`` writes them; a test says when they are stale."""
