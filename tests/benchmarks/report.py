"""The table: from samples to lines, and from lines to text, Markdown and JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.benchmarks.measure import Measurement, Outcome
from tests.benchmarks.rows import Goal, Group, Row

ALLOCATOR = (
    "allocator: glibc's mmap and trim thresholds. Raised, freed arrays stay with the process; by default large ones may "
    "go back to the kernel, and be faulted in again (page faults a batch tell)."
)


@dataclass(frozen=True)
class Line:
    """A row with its figures.

    Attributes:
        title, unit, allocator: as the row has them.
        median, low, high: of the figure over the repeats; ``None`` where there is none.
        ratio: median of the ratios to the reference, turn by turn.
        also: further figures, as text.
        goal: in words.
        reached: what is held to the goal, in words.
        share: how many times the goal is reached, from 1 where it is met; ``None`` where nothing is to be said.
        problem: what went wrong.
    """

    title: str
    unit: str
    allocator: str
    median: float | None
    low: float | None
    high: float | None
    ratio: float | None
    also: str
    goal: str
    reached: str
    share: float | None
    problem: str

    @property
    def verdict(self) -> str:
        """Met, or missed by how much."""
        if not self.goal:
            return ""
        if self.share is None:
            return "not measured"
        if self.share >= 1:
            return "met"
        return f"MISSED: {self.share:.0%} of it" if self.goal.startswith(">=") else f"MISSED: {1 / self.share:.2f} x it"


@dataclass(frozen=True)
class Section:
    """A group with its lines."""

    group: Group
    lines: tuple[Line, ...]


def sections(groups: Iterable[Group], outcomes: Mapping[str, Outcome]) -> list[Section]:
    """All rows with their figures."""
    return [Section(group, tuple(line(row, group, outcomes) for row in group.rows)) for group in groups]


def line(row: Row, group: Group, outcomes: Mapping[str, Outcome]) -> Line:
    """One row with its figures."""
    outcome = outcomes[row.measurement.name]
    values = [sample[row.figure] for sample in outcome.samples if sample]
    ratios = _ratios(row, outcome, outcomes)
    also = []
    for figure, text in row.also.items():
        seen = [sample[figure] for sample in outcome.samples if sample]
        if seen:
            also.append(text.format(statistics.median(seen)))
    goal = row.goal
    judged = None
    if goal is not None:
        over = ratios if goal.relative else values
        judged = statistics.median(over) if over else None
    problem = outcome.problem
    if values and problem:
        problem = f"{len(outcome.samples) - len(values)} of {len(outcome.samples)} turns {problem}"
    return Line(
        title=row.title,
        unit=row.unit,
        allocator=row.allocator,
        median=statistics.median(values) if values else None,
        low=min(values, default=None),
        high=max(values, default=None),
        ratio=statistics.median(ratios) if ratios else None,
        also=", ".join(also),
        goal="" if goal is None else _goal_in_words(goal, row.unit),
        reached="" if goal is None or judged is None else _with_unit(judged, "x" if goal.relative else row.unit),
        share=None if goal is None or judged is None else _share(goal, judged),
        problem=problem,
    )


def _ratios(row: Row, outcome: Outcome, outcomes: Mapping[str, Outcome]) -> list[float]:
    if row.reference is None:
        return []
    pairs = zip(outcome.samples, outcomes[row.reference.name].samples, strict=False)
    return [own[row.figure] / other[row.figure] for own, other in pairs if own and other]


def _share(goal: Goal, value: float) -> float:
    if goal.at_least is not None:
        return value / goal.at_least
    assert goal.at_most is not None
    # Growth and delays may also come out negative: then there is nothing of what is bounded.
    return goal.at_most / value if value > 0 else float("inf")


def _goal_in_words(goal: Goal, unit: str) -> str:
    sign, bound = (">=", goal.at_least) if goal.at_least is not None else ("<=", goal.at_most)
    assert bound is not None
    return f"{sign} {_with_unit(bound, 'x' if goal.relative else unit)}"


def _with_unit(value: float, unit: str) -> str:
    return f"{number(value)} {unit}"


def number(value: float) -> str:
    """Three digits that count, and commas for thousands."""
    size = abs(value)
    decimals = 0 if size >= 100 or value == int(value) else 1 if size >= 10 else 2 if size >= 0.1 else 3
    return f"{value:,.{decimals}f}"


# ---------------------------------------------------------------------------------------------------------- for the eye

HEADINGS = ("", "allocator", "median", "min to max", "ratio", "goal", "", "beside that")


def cells(line: Line) -> tuple[str, ...]:
    """A line as text, one string a column."""
    if line.median is None:
        return (line.title, line.allocator, "-", "", "", line.goal, line.verdict, line.problem or "not measured")
    assert line.low is not None
    assert line.high is not None
    return (
        line.title,
        line.allocator,
        f"{number(line.median)} {line.unit}",
        f"{number(line.low)} to {number(line.high)}",
        "" if line.ratio is None else f"{number(line.ratio)} x",
        line.goal,
        line.verdict,
        "; ".join(filter(None, [line.also, line.problem])),
    )


def as_text(sections: Sequence[Section], environment: Mapping[str, str]) -> str:
    """The table for a terminal."""
    table = [cells(line) for section in sections for line in section.lines]
    widths = [max(map(len, column)) for column in zip(HEADINGS, *table, strict=True)]
    parts = ["; ".join(f"{name} {value}" for name, value in environment.items())]
    for section in sections:
        parts.append(f"\n{section.group.title}{_ratio_note(section)}")
        for row in (HEADINGS, *map(cells, section.lines)):
            # Figures to the right, so that their digits stand below each other.
            padded = (
                cell.rjust(width) if i in (2, 3, 4) else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            parts.append("  " + "  ".join(padded).rstrip())
    return "\n".join([*parts, "", ALLOCATOR, tally(sections)])


def as_markdown(sections: Sequence[Section], environment: Mapping[str, str]) -> str:
    """The table for a document."""
    parts = ["; ".join(f"{name} {value}" for name, value in environment.items()) + "."]
    for section in sections:
        parts += ["", f"**{section.group.title}**{_ratio_note(section)}", ""]
        parts += ["| " + " | ".join(HEADINGS) + " |", "| --- | --- | ---: | ---: | ---: | --- | --- | --- |"]
        parts += ["| " + " | ".join(cells(line)) + " |" for line in section.lines]
    return "\n".join([*parts, "", ALLOCATOR, "", tally(sections), ""])


def _ratio_note(section: Section) -> str:
    return f" (ratio: to {section.group.reference})" if section.group.reference else ""


def tally(sections: Sequence[Section]) -> str:
    """How many goals were met."""
    shares = [line.share for section in sections for line in section.lines if line.goal]
    met = sum(share is not None and share >= 1 for share in shares)
    unknown = shares.count(None)
    return f"goals: {met} met, {len(shares) - met - unknown} missed, {unknown} not measured"


# ------------------------------------------------------------------------------------------------------ for a program


def as_json(
    sections: Sequence[Section],
    measurements: Iterable[Measurement],
    outcomes: Mapping[str, Outcome],
    environment: Mapping[str, str],
    options: Mapping[str, Any],
) -> str:
    """All samples, what they were measured with, and the lines that were made of them."""
    measured = {
        measurement.name: {
            "run": measurement.run,
            "parameters": dict(measurement.parameters),
            "allocator": "raised" if measurement.raised else "default",
            "samples": outcomes[measurement.name].samples,
            "problem": outcomes[measurement.name].problem,
        }
        for measurement in measurements
    }
    lines = {
        section.group.id: [
            {**asdict(line), "share": _finite(line.share), "verdict": line.verdict} for line in section.lines
        ]
        for section in sections
    }
    document = {"environment": environment, "options": options, "measurements": measured, "rows": lines}
    return json.dumps(document, indent=1)


def _finite(value: float | None) -> float | None:
    return None if value == float("inf") else value
