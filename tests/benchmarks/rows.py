"""What a row of the table is, what it is measured by, and its goal. The rows themselves: ``groups``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.measure import Measurement
from tests.benchmarks.peers import PEERS

DEFAULT, RAISED, WORKERS_RAISED = "default", "raised", "raised in workers"
"""What a row says of the allocator: of glibc's thresholds, in the consuming process and in those that it starts."""


@dataclass(frozen=True)
class Goal:
    """What a row is to reach.

    Attributes:
        at_least, at_most: one of them, the bound.
        relative: whether what is held to it is the ratio to the row's reference, not the figure itself.
    """

    at_least: float | None = None
    at_most: float | None = None
    relative: bool = False


@dataclass(frozen=True)
class Row:
    """One line.

    Attributes:
        title: what it is.
        measurement: where it comes from.
        figure: which of the measurement's figures.
        unit: of that figure.
        allocator: the setting that it ran with.
        reference: the measurement whose same figure this one is divided by, turn by turn.
        goal: if it has one.
        also: further figures worth a look, each with the text to show it in.
    """

    title: str
    measurement: Measurement
    figure: str
    unit: str
    allocator: str = DEFAULT
    reference: Measurement | None = None
    goal: Goal | None = None
    also: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Rows that belong together.

    Attributes:
        id: by which the command line calls it.
        title: what they tell.
        reference: what the ratio's column is to be called.
        rows: the lines.
    """

    id: str
    title: str
    reference: str
    rows: tuple[Row, ...]


def stream(peer: str, size: str, make: str = "plain", prefetch: int = 8, **more: Any) -> Measurement:
    """A contender's throughput. ``more`` goes to ``throughput.stream``, but for ``raised`` and ``label``."""
    raised, label = more.pop("raised", False), more.pop("label", "")
    how = ", ".join(filter(None, [make.replace("_", " "), f"prefetch {prefetch}", "raised" if raised else "", label]))
    parameters = {"peer": peer, "make": make, "size": size, "prefetch": prefetch, **more}
    packages = tuple(dict.fromkeys((*PEERS[peer].packages, *(("torch",) if make == "tensors" else ()))))
    name = f"{size}, {PEERS[peer].title}: {how}"
    return Measurement(name, "throughput.stream", parameters, packages=packages, raised=raised)


def ours(name: str, run: str, size: str, make: str = "plain", prefetch: int = 8, **more: Any) -> Measurement:
    """Something measured of this library alone. ``more``: fields of the measurement, else parameters of the run."""
    fields = {key: more.pop(key) for key in ("quick", "timed", "writes", "limit") if key in more}
    parameters = {"make": make, "size": size, "prefetch": prefetch, **more}
    return Measurement(name, run, parameters, **fields)


def bare(size: str, raised: bool = False) -> Measurement:
    """The loop of a plain program."""
    how = "raised" if raised else "default"
    return Measurement(f"{size}, bare for: {how}", "bare.loop", {"size": size}, raised=raised)


def measurements_of(groups: Iterable[Group]) -> list[Measurement]:
    """What must be measured for these rows, each once, in the order in which they come."""
    needed: dict[str, Measurement] = {}
    for group in groups:
        for row in group.rows:
            for measurement in (row.measurement, row.reference):
                if measurement is not None:
                    needed.setdefault(measurement.name, measurement)
    return list(needed.values())


def one_of_each(groups: Iterable[Group]) -> list[Group]:
    """Rows enough to run every function, every contender, and every kind of batch, once."""
    chosen: dict[tuple[str, str, str], str] = {}
    kept = []
    for group in groups:
        rows = []
        for row in group.rows:
            measurement = row.measurement
            part = measurement.parameters.get
            kind = (measurement.run, part("peer", ""), part("make", ""))
            if chosen.setdefault(kind, measurement.name) == measurement.name:
                rows.append(row)
        if rows:
            kept.append(Group(group.id, group.title, group.reference, tuple(rows)))
    return kept
