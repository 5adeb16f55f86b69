"""Counts that iterators make while they run, of skipped documents say. They go to the loader's statistics.

Each thread has counts of its own. Counts that were made before a loader calls its iterators are not the loader's: they
belong to the program, or to the parent from which this process was forked.
"""

from __future__ import annotations

import threading
from collections import Counter


class Counted(threading.local):
    """The counts of a thread.

    Attributes:
        by_name: since the last drain.
        pauses: how many :class:`Pause` last. While any does, nothing is counted.
    """

    def __init__(self) -> None:
        self.by_name: Counter[str] = Counter()
        self.pauses = 0


counted = Counted()


class Pause:
    """Nothing is counted in this thread until :meth:`end`: items that are drawn again were counted the first time.

    Args:
        wanted: if false, counting goes on.
    """

    def __init__(self, wanted: bool) -> None:
        self._lasts = wanted
        counted.pauses += wanted

    def end(self) -> None:
        """Count again. A second call does nothing."""
        counted.pauses -= self._lasts
        self._lasts = False


def add(name: str, count: int = 1) -> None:
    """Add to the count of this name."""
    if not counted.pauses:
        counted.by_name[name] += count


def pending() -> bool:
    """Whether this thread counted anything since the last drain."""
    return bool(counted.by_name)


def drain() -> dict[str, int]:
    """The counts of this thread since the last drain."""
    counts = dict(counted.by_name)
    counted.by_name.clear()
    return counts
