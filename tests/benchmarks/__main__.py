"""The command line: measure, print the table, and write it with its chart and all samples."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks import environment, report
from tests.benchmarks.groups import GROUPS
from tests.benchmarks.measure import Effort, measure
from tests.benchmarks.peers import PEERS
from tests.benchmarks.rows import Group, measurements_of, one_of_each


def main() -> None:
    options = parse()
    groups = select(options.rows)
    if options.list:
        print(*(f"{group.id:<12}  {group.title}" for group in GROUPS), sep="\n")
        return
    if options.quick:
        effort = Effort(options.seconds or 0.1, 0.05, options.repeats or 1, quick=True)
        groups = one_of_each(groups)
    else:
        effort = Effort(options.seconds or 1.0, 0.3, options.repeats or 5)
    options.out.mkdir(parents=True, exist_ok=True)
    measurements = measurements_of(groups)
    print(f"{len(measurements)} measurements, {effort.repeats} times", file=sys.stderr)
    began = time.monotonic()
    outcomes = measure(measurements, effort, options.out, tell)
    print(f"done in {time.monotonic() - began:.0f} s", file=sys.stderr)

    sections = report.sections(groups, outcomes)
    packages = dict.fromkeys(["numpy", *(package for peer in PEERS.values() for package in peer.packages)])
    facts = environment.describe(packages)
    print(report.as_text(sections, facts))
    how = {"seconds": effort.seconds, "warm_up": effort.warm_up, "repeats": effort.repeats, "quick": effort.quick}
    (options.out / "benchmark.md").write_text(report.as_markdown(sections, facts), "utf-8")
    (options.out / "benchmark.json").write_text(
        report.as_json(sections, measurements, outcomes, facts, how) + "\n", "utf-8"
    )
    written = ["benchmark.md", "benchmark.json"]
    if find_spec("matplotlib") is None:
        print("no chart: matplotlib is not installed: pip install matplotlib")
    else:
        importlib.import_module("tests.benchmarks.chart").draw(sections, options.out / "benchmark.png")
        written.append("benchmark.png")
    print(f"in {options.out}: {', '.join(written)}")


def tell(text: str) -> None:
    """A line of progress, in one write: threads tell."""
    sys.stderr.write(f"{text}\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rows", metavar="A,B", default="", help="only these groups of rows (default: all)")
    parser.add_argument("--list", action="store_true", help="tell which groups there are")
    parser.add_argument("--seconds", type=float, help="timed, of each measurement (default: 1; quick: 0.1)")
    parser.add_argument("--repeats", type=int, help="turns (default: 5; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="show that everything runs; the figures mean nothing")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmark"), help="folder for the results (default: %(default)s)"
    )
    return parser.parse_args()


def select(names: str) -> Sequence[Group]:
    """The groups that are asked for, in the table's order."""
    asked = set(filter(None, names.split(",")))
    unknown = sorted(asked - {group.id for group in GROUPS})
    if unknown:
        raise SystemExit(f"no rows called {', '.join(unknown)}; there are {', '.join(g.id for g in GROUPS)}")
    return [group for group in GROUPS if not asked or group.id in asked]


if __name__ == "__main__":
    main()
