"""Find and draw the transition tables of the package.

A table becomes a square. The states are on its diagonal. The event that leads from one state to another is where the row
of the first meets the column of the second. This needs no layout by hand, and no two lines share a place.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import asyncprefetch
from tests.drawings.svg import BAND, INK, LINE, PALE, PAPER, Drawing

Table = Mapping[Enum, Mapping[Enum, Enum]]

_WIDE, _HIGH, _BOX_HIGH, _MARGIN = 112, 46, 28, 16


@dataclass(frozen=True)
class Named:
    """A transition table of the package.

    Attributes:
        module: the file that defines the table, as a path below ``asyncprefetch/``.
        name: the table's name in that module.
        table: the transitions.
    """

    module: str
    name: str
    table: Table

    @property
    def states(self) -> type[Enum]:
        """The class of the table's states."""
        return type(next(iter(self.table)))

    @property
    def file(self) -> str:
        """The file name of the table's drawing."""
        return f"states-{self.name.lower().replace('_', '-')}.svg"


def tables() -> list[Named]:
    """Return every transition table by module and name: an upper-case mapping from states to events to states."""
    found = []
    for module in _private_modules():
        for name, value in vars(module).items():
            if name.isupper() and _is_table(value) and type(next(iter(value))).__module__ == module.__name__:
                path = module.__name__.removeprefix("asyncprefetch.").replace(".", "/") + ".py"
                found.append(Named(path, name.strip("_"), value))
    return found


def _private_modules() -> list[Any]:
    modules = []
    for info in pkgutil.walk_packages(asyncprefetch.__path__, "asyncprefetch."):
        folder = info.name.split(".")[1]
        if folder.startswith("_") and not folder.startswith("__"):
            try:
                modules.append(importlib.import_module(info.name))
            except ModuleNotFoundError as error:
                if error.name is None or error.name.startswith("asyncprefetch"):
                    raise  # an extra may be missing; a module of the package must exist
    return modules


def _is_table(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(state, Enum) and isinstance(row, Mapping) for state, row in value.items())
        and all(isinstance(after, Enum) for row in value.values() for after in row.values())
    )


def draw(named: Named) -> str:
    """Return the table as SVG."""
    states, table = list(named.states), named.table
    number = {state: i for i, state in enumerate(states)}
    wide = max(_WIDE, *(len(label) * 8 + 20 for label in _labels(table)))
    size = len(states)
    drawing = Drawing(
        wide * size + 2 * _MARGIN,
        _HIGH * size + 2 * _MARGIN,
        f"{named.states.__name__}: " + "; ".join(transitions(named)),
    )

    def centre(column: int, row: int) -> tuple[float, float]:
        return _MARGIN + wide * (column + 0.5), _MARGIN + _HIGH * (row + 0.5)

    for row in range(0, size, 2):
        drawing.rect(_MARGIN, _MARGIN + row * _HIGH, wide * size, _HIGH, fill=BAND, stroke="none", round_=0)
    arrows = {(number[a], number[b]) for a, row in table.items() for b in row.values() if a is not b}
    for a in range(size):
        columns = [b for source, b in arrows if source == a]
        for end in {max([a, *columns]), min([a, *columns])} - {a}:
            drawing.line(centre(a, a), centre(end, a), stroke=PALE)
    for b in range(size):
        rows = [a for a, target in arrows if target == b]
        x, y = centre(b, b)
        for begin in {max([b, *rows]), min([b, *rows])} - {b}:
            edge = y + _BOX_HIGH / 2 if begin > b else y - _BOX_HIGH / 2
            drawing.line(centre(b, begin), (x, edge), tip=True)
    for i, state in enumerate(states):
        x, y = centre(i, i)
        final = all(after is state for after in table[state].values())
        drawing.rect(
            x - wide / 2 + 5,
            y - _BOX_HIGH / 2,
            wide - 10,
            _BOX_HIGH,
            fill="#e4e7eb" if final else PAPER,
            stroke=INK,
            thick=2.5 if i == 0 else 1.5,
        )
        drawing.text(x, y, state.name, size=13, bold=True)
    for (a, b), label in _cells(table, number).items():
        x, y = centre(b, a)
        if a == b:
            drawing.text(x - 8, y + _BOX_HIGH / 2 + 8, f"{label} stays", size=10, anchor="end", fill=LINE)
            continue
        half = len(label) * 3.6 + 6
        background = BAND if a % 2 == 0 else PAPER
        drawing.rect(x - half, y - 9, 2 * half, 18, fill=background, stroke="none", round_=9)
        drawing.text(x, y, label, size=11)
    return drawing.svg()


def _cells(table: Table, number: Mapping[Enum, int]) -> dict[tuple[int, int], str]:
    cells: dict[tuple[int, int], str] = {}
    for state, row in table.items():
        for event, after in row.items():
            place = number[state], number[after]
            cells[place] = f"{cells[place]}, {event.name}" if place in cells else event.name
    return cells


def _labels(table: Table) -> list[str]:
    states = list(type(next(iter(table))))
    return [*_cells(table, {state: i for i, state in enumerate(states)}).values(), *(state.name for state in states)]


def transitions(named: Named) -> list[str]:
    """Return the table in words, with one line for each state."""
    return [
        f"{state.name}: " + (", ".join(f"{event.name} to {after.name}" for event, after in row.items()) or "the end")
        for state, row in named.table.items()
    ]


def section(named_tables: list[Named]) -> str:
    """Return the section of ``docs/architecture.md`` about the tables."""
    parts = []
    for named in named_tables:
        parts.append(f"**`{named.states.__name__}`**, the table `{named.name}` in `{named.module}`:\n")
        parts.append(f"![The transitions of {named.states.__name__}](drawings/{named.file})\n")
    return "\n".join(parts)
