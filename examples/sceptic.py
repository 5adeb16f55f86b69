"""Does a run that is killed and resumed do exactly what an uninterrupted one does? Run both, and compare everything."""

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
    """A run went wrong, so that there is nothing to compare."""


@dataclass(frozen=True)
class Step:
    """One step of training: which batch it took, bit for bit, and what came out."""

    step: int
    digest: str
    loss: float


class StepLog:
    """A file with one line a step.

    Each line goes to the system at once, in one write: SIGKILL takes nothing away of what was logged.
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
        command: trains for ``steps`` steps when given ``--out FOLDER --announce``, and goes on with ``--resume``. It
            prints a line a step, and waits for one in answer.
        out: folder for both runs and the picture of their losses; what it held is removed.
        steps: how many steps a run has.
        kills: the steps behind which to kill, ascending.

    Raises:
        ProofError: a run failed on its own, or left processes behind.
    """
    began = time.monotonic()
    shutil.rmtree(out, ignore_errors=True)
    reference, killed = out / "uninterrupted", out / "killed-and-resumed"
    await run(command, reference, steps)
    for number, kill in enumerate(kills):
        await run(command, killed, steps, resume=number > 0, kill_behind=kill)
    await run(command, killed, steps, resume=True)

    expected, got = StepLog.read(reference / "steps.jsonl"), StepLog.read(killed / "steps.jsonl")
    weights = [read_weights(folder, steps) for folder in (reference, killed)]
    differences = [*compare_steps(expected, got, steps), *compare_weights(*weights)]
    picture = await draw(out, kills)
    behind = " and ".join(map(str, kills))
    if differences:
        print(
            f"NOT EXACT: {len(differences)} differences after kills behind steps {behind}", *differences[:10], sep="\n"
        )
        return False
    print(
        f"exact: {len(got)} batches compared (kills behind steps {behind}; {len(got) - steps} steps trained twice) and "
        f"{sum(array.nbytes for array in weights[0].values())} bytes of weights, 0 differences, in "
        f"{time.monotonic() - began:.0f} s; losses: {picture}"
    )
    return True


def random_kills(steps: int, checkpoint_every: int) -> list[int]:
    """Two steps behind which a checkpoint is there and another step to be killed in."""
    return sorted(random.SystemRandom().sample(range(checkpoint_every + 1, steps), 2))


async def run(
    command: Sequence[str], out: Path, steps: int, *, resume: bool = False, kill_behind: int | None = None
) -> None:
    """Train in a child process, to the end or until it is killed, somewhere in the step behind ``kill_behind``."""
    what = ("resumed" if resume else "new run") + ("" if kill_behind is None else f", kill behind {kill_behind}")
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
                child.stdin.write(b"\n")  # it may go on, for one step
                if int(step) == kill_behind:
                    await asyncio.sleep(random.random() * (time.monotonic() - before))
                    child.kill()
                    break
                before = time.monotonic()
        # The workers inherited the pipe: it ends when the last of them has.
        async with asyncio.timeout(SECONDS_TO_VANISH):
            await child.stdout.read()
            code = await child.wait()
    except TimeoutError:
        raise ProofError(f"a process of the killed run is still alive after {SECONDS_TO_VANISH} s") from None
    finally:
        with suppress(ProcessLookupError):
            child.kill()
    if code != (0 if kill_behind is None else -signal.SIGKILL):
        raise ProofError(f"the run ended with exit code {code}: {' '.join(arguments)}")


def environment() -> dict[str, str]:
    """Ours, and without the warning with which Python tidies up behind a program that was killed."""
    return {**os.environ, "PYTHONWARNINGS": "ignore:resource_tracker:UserWarning:multiprocessing.resource_tracker"}


def compare_steps(expected: list[Step], got: list[Step], steps: int) -> list[str]:
    """A line for each step that took another batch, or had another loss, or is missing. A step may be there twice."""
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
    """The model in the checkpoint behind the last step: weights, and the averages of the optimizer."""
    return safetensors.numpy.load_file(out / f"step-{steps:08d}" / "model.safetensors")


def compare_weights(expected: Weights, got: Weights) -> list[str]:
    """A line for each array that is not the same to the last bit."""
    return [
        f"weights {name} differ"
        for name in sorted(expected.keys() | got.keys())
        if name not in expected
        or name not in got
        or (expected[name].dtype, expected[name].shape) != (got[name].dtype, got[name].shape)
        or expected[name].tobytes() != got[name].tobytes()
    ]


async def draw(out: Path, kills: Sequence[int]) -> Path:
    """The losses of both runs as a picture. Drawn by another program: importing matplotlib takes long."""
    picture = out / "loss.png"
    script = Path(__file__).with_name("loss_curve.py")
    logs = [str(out / name / "steps.jsonl") for name in ("uninterrupted", "killed-and-resumed")]
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(script), *logs, "--kills", *map(str, kills), "--out", str(picture)
    )
    if await child.wait():
        raise ProofError(f"{script} failed")
    return picture
