"""A list of all private modules of the package, with the first sentence of each docstring."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "asyncprefetch"
FOLDERS = ("_codec", "_wire", "_worker", "_process", "_loop", "_checkpoint")


def section() -> str:
    """Return a table for each folder, in Markdown."""
    return "\n".join(_table(PACKAGE / folder) for folder in FOLDERS)


def _table(folder: Path) -> str:
    rows = [
        f"| `{folder.name}/{path.name}` | {_first_sentence(path)} |\n"
        for path in sorted(folder.glob("*.py"))
        if path.stem != "__init__"
    ]
    return f"| module | |\n| --- | --- |\n{''.join(rows)}"


def _first_sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    paragraph = " ".join(text.partition("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")
    return paragraph.partition(". ")[0].rstrip(".") + "."
