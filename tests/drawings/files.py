"""The expected text of the drawings and of the generated sections of ``docs/architecture.md``."""

from __future__ import annotations

import re
from pathlib import Path

from tests.drawings import batch, credit, modules, states, turns

DOCS = Path(__file__).parents[2] / "docs"
_SECTIONS = {
    name: re.compile(
        rf"(<!-- {name}: written by python -m tests\.drawings -->\n).*?(<!-- end of {name} -->\n)", re.DOTALL
    )
    for name in ("modules", "states")
}


def wanted_files() -> dict[Path, str]:
    """Return the text of every generated file, by path."""
    named_tables = states.tables()
    drawings = {
        "turns.svg": turns.draw(),
        "credit.svg": credit.draw(),
        "batch.svg": batch.draw(),
        **{named.file: states.draw(named) for named in named_tables},
    }
    page = DOCS / "architecture.md"
    text = page.read_text("utf-8")
    for name, section in (("modules", modules.section()), ("states", states.section(named_tables))):
        text, found = _SECTIONS[name].subn(lambda match, section=section: f"{match[1]}\n{section}\n{match[2]}", text)
        if found != 1:
            raise SystemExit(f"{page} must have the markers of the {name} once, not {found} times")
    return {page: text, **{DOCS / "drawings" / name: svg for name, svg in drawings.items()}}
