"""Compare a run that is killed and resumed with an uninterrupted one: every batch, every loss, every weight."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import safetensors.numpy
from progress import ProgressLine

Weights = dict[str, npt.NDArray[Any]]

SECONDS_TO_VANISH = 10.0
"""How long the processes of a killed run may take to be gone."""


class ProofError(Exception):
    """A run failed, so there is nothing to compare."""


@dataclass(frozen=True)
class Step:
    """One step of training: a digest of its batch, and its loss."""

    step: int
    digest: str
    loss: float


class StepLog:
    """A file with one line for each step.

    Each line goes to the system at once, in one write, so SIGKILL loses nothing that was logged.
    """

    def __init__(self, path: Path, *, new: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if new else 0), 0o644)

    def write(self, step: Step) -> None:
        os.write(self._file, json.dumps(asdict(step)).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)

    @staticmethod
    def read(path: Path) -> list[Step]:
        return [Step(**json.loads(line)) for line in path.read_text().splitlines()]


async def prove(command: Sequence[str], out: Path, *, steps: int, kills: Sequence[int]) -> bool:
    """Run ``command`` undisturbed, and again with kills; print whether all batches and weights are the same.

    Args:
        command: trains for ``steps`` steps with ``--out FOLDER --announce``, and continues with ``--resume``. It
            prints a line for each step and waits for an answer.
        out: folder for both runs and the picture of their losses. Its old content is removed.
        steps: how many steps a run has.
        kills: the steps after which to kill, ascending.

    Raises:
        ProofError: a run failed by itself, or left a process alive.
    """
    began = time.monotonic()
    shutil.rmtree(out, ignore_errors=True)
    reference, killed = out / "uninterrupted", out / "killed-and-resumed"
    await run(command, reference, steps)
    for number, kill in enumerate(kills):
        await run(command, killed, steps, resume=number > 0, kill_after=kill)
    await run(command, killed, steps, resume=True)

    expected, got = StepLog.read(reference / "steps.jsonl"), StepLog.read(killed / "steps.jsonl")
    weights = [read_weights(folder, steps) for folder in (reference, killed)]
    differences = [*compare_steps(expected, got, steps), *compare_weights(*weights)]
    picture = await draw(out, kills)
    after = " and ".join(map(str, kills))
    if differences:
        print(f"NOT EXACT: {len(differences)} differences with kills after steps {after}", *differences[:10], sep="\n")
        return False
    print(
        f"exact: {len(got)} batches compared (kills after steps {after}; {len(got) - steps} steps trained twice) and "
        f"{sum(array.nbytes for array in weights[0].values())} bytes of weights, 0 differences, in "
        f"{time.monotonic() - began:.0f} s; losses: {picture}"
    )
    return True


def random_kills(steps: int, checkpoint_every: int) -> list[int]:
    """Two steps after the first checkpoint and before the last step."""
    return sorted(random.SystemRandom().sample(range(checkpoint_every + 1, steps), 2))


async def run(
    command: Sequence[str], out: Path, steps: int, *, resume: bool = False, kill_after: int | None = None
) -> None:
    """Train in a child process, to the end or until it is killed, somewhere in the step after ``kill_after``."""
    what = ("resumed" if resume else "new run") + ("" if kill_after is None else f", kill after {kill_after}")
    arguments = [*command, "--out", str(out), "--announce", *(["--resume"] if resume else [])]
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe, env=environment())
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        with ProgressLine(what, steps) as report:
            before = time.monotonic()
            async for line in child.stdout:
                step, loss, buffered = line.split()
                await report.step(int(step), float(loss), int(buffered))
                child.stdin.write(b"\n")  # lets it train one more step
                if int(step) == kill_after:
                    await asyncio.sleep(random.random() * (time.monotonic() - before))
                    child.kill()
                    break
                before = time.monotonic()
        # The workers inherited the pipe: it ends when the last worker has ended.
        async with asyncio.timeout(SECONDS_TO_VANISH):
            await child.stdout.read()
            code = await child.wait()
    except TimeoutError:
        raise ProofError(f"a process of the killed run is still alive after {SECONDS_TO_VANISH} s") from None
    finally:
        with suppress(ProcessLookupError):
            child.kill()
    if code != (0 if kill_after is None else -signal.SIGKILL):
        raise ProofError(f"the run ended with exit code {code}: {' '.join(arguments)}")


def environment() -> dict[str, str]:
    """The environment of this program, without the warning that Python gives after a killed program."""
    return {**os.environ, "PYTHONWARNINGS": "ignore:resource_tracker:UserWarning:multiprocessing.resource_tracker"}


def compare_steps(expected: list[Step], got: list[Step], steps: int) -> list[str]:
    """A line for each step whose batch or loss differs, or that is missing. A step may be logged twice."""
    numbers = list(range(1, steps + 1))
    by_number = {step.step: step for step in expected}
    differences = [] if list(by_number) == numbers else [f"the uninterrupted run logged the steps {list(by_number)}"]
    differences += [f"step {n} is missing" for n in numbers if n not in {step.step for step in got}]
    return differences + [
        f"step {step.step}: {by_number.get(step.step)} became {step}"
        for step in got
        if step != by_number.get(step.step)
    ]


def read_weights(out: Path, steps: int) -> Weights:
    """The model in the checkpoint after the last step: weights, and the averages of the optimizer."""
    return safetensors.numpy.load_file(out / f"step-{steps:08d}" / "model.safetensors")


def compare_weights(expected: Weights, got: Weights) -> list[str]:
    """A line for each array that differs in any bit."""
    return [
        f"weights {name} differ"
        for name in sorted(expected.keys() | got.keys())
        if name not in expected
        or name not in got
        or (expected[name].dtype, expected[name].shape) != (got[name].dtype, got[name].shape)
        or expected[name].tobytes() != got[name].tobytes()
    ]


async def draw(out: Path, kills: Sequence[int]) -> Path:
    """Draw the losses of both runs. Another program does it, because importing matplotlib takes long."""
    picture = out / "loss.png"
    script = Path(__file__).with_name("loss_curve.py")
    logs = [str(out / name / "steps.jsonl") for name in ("uninterrupted", "killed-and-resumed")]
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(script), *logs, "--kills", *map(str, kills), "--out", str(picture)
    )
    if await child.wait():
        raise ProofError(f"{script} failed")
    return picture
