"""The table as bars: what each contender reaches, and how far each goal is met."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from tests.benchmarks.report import Line, Section, number

OURS, LIMIT, PEER = "tab:orange", "0.7", "tab:blue"
MET, MISSED = "tab:green", "tab:red"
MOST = 20.0
"""Where the bars of goals end: far beyond one, by how much says little."""


def draw(sections: Sequence[Section], out: Path) -> None:
    """A panel a batch size, and one for all goals."""
    rates = [section for section in sections if section.group.title.startswith("Throughput,")]
    goals = [(section, line) for section in sections for line in section.lines if line.share is not None]
    heights = [len(section.lines) for section in rates] + ([len(goals)] if goals else [])
    if not heights:
        return
    figure, panels = pyplot.subplots(
        len(heights),
        figsize=(11, 1.2 * len(heights) + 0.24 * sum(heights)),
        height_ratios=[height + 2 for height in heights],
        layout="constrained",
        squeeze=False,
    )
    panels = panels[:, 0]
    for axes, section in zip(panels, rates, strict=False):
        draw_rates(axes, section)
    if goals:
        draw_goals(panels[-1], goals)
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def draw_rates(axes: Axes, section: Section) -> None:
    """Medians as bars, the spread as a line on each, and in words what has no figures."""
    lines = section.lines
    known = [line for line in lines if line.median]
    floor = min((line.low or 1 for line in known), default=1) / 2
    for place, line in enumerate(lines):
        if not line.median or line.low is None or line.high is None:
            axes.text(floor, place, f" {line.problem}", va="center", fontsize=8, style="italic", color="0.4")
            continue
        axes.barh(place, line.median, color=color_of(line))
        axes.hlines(place, line.low, line.high, color="black", linewidth=1)
        ratio = "" if line.ratio is None else f"  ({number(line.ratio)} x)"
        axes.text(max(line.median, line.high), place, f" {number(line.median)}{ratio}", va="center", fontsize=8)
    axes.set_xscale("log")
    top = max((line.high or 1 for line in known), default=10)
    axes.set_xlim(floor, top * (top / floor) ** 0.2)
    label_rows(axes, [f"{line.title} [{line.allocator}]" for line in lines])
    axes.set(title=section.group.title, xlabel=f"batches/s, logarithmic (ratio: to {section.group.reference})")


def draw_goals(axes: Axes, goals: Sequence[tuple[Section, Line]]) -> None:
    """How many times each goal is reached; below 1 it is missed."""
    shares = [min(line.share or 0, MOST) for _, line in goals]
    for place, ((_, line), share) in enumerate(zip(goals, shares, strict=True)):
        axes.barh(place, share - 1, left=1, color=MET if share >= 1 else MISSED)
        text = f" {line.reached} (goal {line.goal})"
        axes.text(max(share, 1), place, text, va="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(min(0.5, *(share / 1.5 for share in shares if share > 0)), MOST * 8)
    axes.axvline(1, color="black", linewidth=1)
    label_rows(axes, [f"{section.group.id}: {line.title}" for section, line in goals])
    axes.set(title="Goals", xlabel="times the goal, logarithmic: right of 1 it is met")


def label_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Names to the left, in the table's order from above."""
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def color_of(line: Line) -> str:
    """Ours, a limit, or a peer."""
    if line.title.startswith("asyncprefetch"):
        return OURS
    return LIMIT if line.title.startswith(("bare", "filling")) else PEER
