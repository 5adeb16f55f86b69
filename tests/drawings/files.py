"""What the drawings and the section of ``docs/architecture.md`` about the state tables should hold."""

from __future__ import annotations

import re
from pathlib import Path

from tests.drawings import batch, credit, states, turns

DOCS = Path(__file__).parents[2] / "docs"
_SECTION = re.compile(
    r"(<!-- states: written by python -m tests\.drawings -->\n).*?(<!-- end of states -->\n)", re.DOTALL
)


def wanted_files() -> dict[Path, str]:
    """The text of every written file, by path."""
    named_tables = states.tables()
    drawings = {
        "turns.svg": turns.draw(),
        "credit.svg": credit.draw(),
        "batch.svg": batch.draw(),
        **{named.file: states.draw(named) for named in named_tables},
    }
    page = DOCS / "architecture.md"
    begin_and_end = f"\\1\n{states.section(named_tables)}\n\\2"
    text, found = _SECTION.subn(begin_and_end, page.read_text("utf-8"))
    if found != 1:
        raise SystemExit(f"{page} must have the markers of the states once, not {found} times")
    return {page: text, **{DOCS / "drawings" / name: svg for name, svg in drawings.items()}}
