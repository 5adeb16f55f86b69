"""The clock for the starts of workers: it runs more slowly while more workers start than there are cores.

Workers that start at the same time share the cores, so each of them gets a part of one. The clock counts that part: with
24 starting workers on 2 cores, 12 seconds pass while it counts one. It can't stop, so that a worker that hangs at its
start ends in bounded time.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable

from asyncprefetch._process.limits import usable_cores


class StartClock:
    """Counts the seconds of a core that each starting worker could have used.

    Args:
        cores: how many cores the workers share at this moment.
        time: the clock that does not change its pace.
    """

    def __init__(self, cores: Callable[[], int], time: Callable[[], float] = time.monotonic) -> None:
        self._cores = cores
        self._time = time
        self._read_at = time()
        self._counted = 0.0
        # Weak: a loader may be forgotten in the middle of a start, when its event loop has been closed.
        self._starting: weakref.WeakSet[object] = weakref.WeakSet()
        # Loaders on event loops in several threads share the clock. Reentrant, because an allocation within the lock may
        # collect a loader.
        self._lock = threading.RLock()

    def seconds(self) -> float:
        """The seconds counted so far."""
        with self._lock:
            now = self._time()
            self._counted += (now - self._read_at) * min(1.0, self._cores() / max(1, len(self._starting)))
            self._read_at = now
            return self._counted

    def set_starting(self, worker: object, *, starts: bool) -> None:
        """Say whether the worker is starting. Call it at each change; more calls do no harm."""
        with self._lock:
            self.seconds()  # until now the cores were shared by another number of workers
            (self._starting.add if starts else self._starting.discard)(worker)


# Shared by all loaders of the program, because their workers share the cores.
start_clock = StartClock(usable_cores)
