"""The consumer of all measurements: looks at each batch, holds it while the next is made, and keeps the time."""

from __future__ import annotations

import resource
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.benchmarks.batches import Batch, look_at, spin

if TYPE_CHECKING:
    from tests.benchmarks.peers import Stream

GLANCE = 0.005
"""Seconds between two looks at the clock."""


@dataclass(frozen=True)
class Moment:
    """Clocks and counters of the consuming process."""

    wall: float
    cpu: float
    thread_cpu: float
    faults: int

    @classmethod
    def now(cls) -> Moment:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        return cls(time.perf_counter(), time.process_time(), time.thread_time(), faults)


class WrongBatchError(Exception):
    """A stream is not the one that was asked for, so what it costs is of no interest."""


class Consumer:
    """Takes batches for a time: first without timing, until processes, pages and buffers are warm.

    Args:
        warm_up: seconds, from the first batch.
        seconds: that are timed.
        spin_seconds: what the consumer does with each batch.
    """

    def __init__(self, warm_up: float, seconds: float, spin_seconds: float = 0.0) -> None:
        self._warm_up, self._seconds, self._spin_seconds = warm_up, seconds, spin_seconds
        self._count = 0
        self._look_again_at = 1
        self._began_at = 0
        self._began: Moment | None = None
        self._last: float | None = None
        self._ended: Moment | None = None

    def take(self, batch: Batch) -> bool:
        """Look at a batch. True once the time is over."""
        count = self._count
        if count == 0:
            self._look = look_at(batch)
        if self._look(batch) != count:
            raise WrongBatchError(f"batch {count} is {self._look(batch)}")
        if self._spin_seconds:
            spin(self._spin_seconds)
        self._count = count = count + 1
        return count >= self._look_again_at and self._look_at_clock()

    def _look_at_clock(self) -> bool:
        now = time.perf_counter()
        if self._last is None:
            self._first = self._last = now
            self._last_count = self._count
            self._look_again_at = self._count + 1
            return False
        pace = (self._count - self._last_count) / max(now - self._last, 1e-9)
        self._last, self._last_count = now, self._count
        # A pace seen over a single batch says little: at most twice as far as has been come.
        self._look_again_at = self._count + max(1, min(int(pace * GLANCE), self._count))
        if self._began is None:
            if now - self._first >= self._warm_up:
                self._began, self._began_at = Moment.now(), self._count
            return False
        if now - self._began.wall < self._seconds:
            return False
        self._ended = Moment.now()
        return True

    @property
    def ended_at(self) -> float:
        """When the time was over, by ``time.perf_counter``."""
        assert self._ended is not None
        return self._ended.wall

    def figures(self) -> dict[str, float]:
        """What was seen in the time: batches a second, and what one cost the consuming process."""
        began, ended = self._began, self._ended
        assert began is not None
        assert ended is not None
        batches = self._count - self._began_at
        return {
            "batches": batches,
            "seconds": ended.wall - began.wall,
            "rate": batches / (ended.wall - began.wall),
            "cpu_us": (ended.cpu - began.cpu) / batches * 1e6,
            "thread_cpu_us": (ended.thread_cpu - began.thread_cpu) / batches * 1e6,
            "faults": (ended.faults - began.faults) / batches,
        }


async def consume(stream: Stream, consumer: Consumer) -> None:
    """``for`` or ``async for`` over a stream, until the consumer has enough."""
    if isinstance(stream, AbstractContextManager):
        with stream as batches:
            for batch in batches:
                if consumer.take(batch):
                    break
    else:
        async with stream as batches:
            async for batch in batches:
                if consumer.take(batch):
                    break
