"""How training reports its steps: one line that is redrawn, or plain lines for another program."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class Report(AbstractContextManager["Report"], Protocol):
    async def step(self, step: int, loss: float, buffered: int) -> None:
        """Step number ``step`` is done; ``buffered`` batches are ready for the next ones."""


class ProgressLine(Report):
    """Loss, batches per second and depth of the buffer, in one line of the terminal."""

    def __init__(self, what: str, steps: int) -> None:
        self._progress = Progress(
            TextColumn(f"{what:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(
                "loss {task.fields[loss]:.3f}   {task.fields[rate]:5.1f} batches/s   {task.fields[buffered]} ready"
            ),
        )
        self._task = self._progress.add_task("", total=steps, loss=float("nan"), rate=0.0, buffered=0)
        self._first: tuple[int, float] | None = None
        self._loss = float("nan")

    async def step(self, step: int, loss: float, buffered: int) -> None:
        now = time.monotonic()
        first_step, began = self._first = self._first or (step, now)
        rate = (step - first_step) / (now - began) if now > began else 0.0
        self._loss = loss if self._loss != self._loss else 0.95 * self._loss + 0.05 * loss
        self._progress.update(self._task, completed=step, loss=self._loss, rate=rate, buffered=buffered)

    def __enter__(self) -> ProgressLine:
        self._progress.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._progress.stop()


class Announcer(Report):
    """One line on standard output for each step: its number, its loss, the depth of the buffer.

    Each line waits for an answering line on standard input, so the reader lags by one step at most.
    """

    async def step(self, step: int, loss: float, buffered: int) -> None:
        print(step, loss, buffered, flush=True)
        await asyncio.to_thread(sys.stdin.readline)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        pass
