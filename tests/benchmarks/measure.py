"""Runs measurements: each in a fresh process of its own, in turns (A B C A B C), so that none has the quiet minute."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]

RAISED = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
"""glibc keeps what is freed: 32 MiB is the most that it takes for the first, the second is more than there is."""

GRACE = 2.0
"""Seconds for what a measuring process started to end by itself after it."""


@dataclass(frozen=True)
class Measurement:
    """One thing to measure, which may serve several rows.

    Attributes:
        name: unique.
        run: ``module.function`` in ``measurements``.
        parameters: of that function.
        quick: other parameters, where a run is only to show that everything works.
        packages: that it needs.
        raised: whether glibc's thresholds are raised in the whole process and in those that it starts.
        timed: whether it takes ``warm_up`` and ``seconds``.
        writes: whether it takes a ``folder`` for files of its own.
        limit: seconds after which it is taken to hang.
    """

    name: str
    run: str
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    quick: Mapping[str, Any] = field(default_factory=dict, hash=False)
    packages: tuple[str, ...] = ()
    raised: bool = False
    timed: bool = True
    writes: bool = False
    limit: float = 60.0


@dataclass(frozen=True)
class Effort:
    """How much time to spend: seconds a measurement, and how often each is repeated."""

    seconds: float
    warm_up: float
    repeats: int
    quick: bool = False


@dataclass
class Outcome:
    """What came of a measurement.

    Attributes:
        samples: by repeat, the figures, or ``None`` where it failed.
        problem: why there are none, or not all, in words; empty if nothing went wrong.
        given_up: whether it is of no use to try again.
    """

    samples: list[dict[str, float] | None] = field(default_factory=list)
    problem: str = ""
    given_up: bool = False


def measure(
    measurements: Sequence[Measurement], effort: Effort, out: Path, tell: Callable[[str], None]
) -> dict[str, Outcome]:
    """All measurements, as often as is asked for, by turns; what came of each, by name.

    Args:
        measurements: in the order of a turn.
        effort: how long.
        out: a folder for what they write. Not the system's for temporary files, which may be memory.
        tell: is called with a line for each that is done.
    """
    outcomes = {measurement.name: _expected(measurement) for measurement in measurements}
    turns = [(turn, measurement) for turn in range(effort.repeats) for measurement in measurements]

    def take_turn(turn: int, measurement: Measurement) -> None:
        outcome, began = outcomes[measurement.name], time.monotonic()
        if not outcome.given_up:
            _once(measurement, effort, out, outcome)
        if turn == 0 or not outcome.given_up:
            took = time.monotonic() - began
            tell(f"{turn + 1}/{effort.repeats} {took:5.1f} s  {measurement.name}  {outcome.problem}".rstrip())

    if not effort.quick:
        for turn in turns:
            take_turn(*turn)
        return outcomes
    # Where nothing is compared, two at a time.
    with ThreadPoolExecutor(max_workers=2) as threads:
        try:
            for done in [threads.submit(take_turn, *turn) for turn in turns]:
                done.result()
        finally:
            threads.shutdown(cancel_futures=True)
    return outcomes


def _expected(measurement: Measurement) -> Outcome:
    """Nothing yet; or, where packages are missing, what to do about it."""
    missing = [package for package in measurement.packages if find_spec(package) is None]
    if missing:
        return Outcome(problem=f"not installed: pip install {' '.join(missing)}", given_up=True)
    if measurement.raised and platform.libc_ver()[0] != "glibc":
        return Outcome(problem="not measured: the C library is not glibc", given_up=True)
    return Outcome()


def _once(measurement: Measurement, effort: Effort, out: Path, outcome: Outcome) -> None:
    parameters = dict(measurement.parameters)
    if effort.quick:
        parameters.update(measurement.quick)
    limit = measurement.limit
    if measurement.timed:
        parameters.update(warm_up=effort.warm_up, seconds=effort.seconds)
        limit += 20 * effort.seconds
    if measurement.writes:
        parameters["folder"] = str(out.resolve())
    spec = json.dumps({"run": measurement.run, "parameters": parameters})
    answer = _run_child(spec, environment(measurement.raised), limit)
    outcome.samples.append(answer.get("figures"))
    if "failed" in answer:
        # The figures are for others to read, and where this checkout lies is none of them.
        outcome.problem = f"failed: {answer['failed']}".replace(str(ROOT), ".")
    if "hung" in answer:
        outcome.problem = f"failed: {answer['hung']}"
        outcome.given_up = True


def environment(raised: bool) -> dict[str, str]:
    """The environment of a measuring process: the present one, with nothing of the allocator's but what is meant."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "ASYNCPREFETCH_")) and name != "GLIBC_TUNABLES"
    }
    return {**kept, **(RAISED if raised else {})}


def _run_child(spec: str, env: dict[str, str], limit: float) -> dict[str, Any]:
    """The answer of a child in a session of its own, of which nothing is left afterwards."""
    command = [sys.executable, "-m", "tests.benchmarks.child", spec]
    # Files, not pipes: a pipe is held open by whatever the child leaves behind.
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+", errors="replace") as errors:
        child = subprocess.Popen(
            command,
            stdout=output,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env=env,
            start_new_session=True,
        )
        try:
            child.wait(limit)
        except subprocess.TimeoutExpired:
            return {"hung": f"it was ended, for it had not finished in {limit:.0f} s"}
        finally:
            _end_group(child)
        lines = _lines(output)
        if child.returncode == 0 and lines:
            answer: dict[str, Any] = json.loads(lines[-1])
            return answer
        reason = (_lines(errors) or ["it said nothing"])[-1]
        return {"failed": f"exit code {child.returncode}: {reason[:200]}"}


def _lines(file: IO[str]) -> list[str]:
    file.seek(0)
    return file.read().split("\n")[:-1]


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """End what the child started, which is its group; first let it end by itself, if the child itself has."""
    until = time.monotonic() + (GRACE if child.poll() is not None else 0)
    while time.monotonic() < until and _runs(child.pid):
        time.sleep(0.005)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _runs(group: int) -> bool:
    """Whether a process of the group is left that has not ended; those that nobody has waited for yet have."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its_group = path.read_text("utf-8", "replace").rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                return True
    return False
