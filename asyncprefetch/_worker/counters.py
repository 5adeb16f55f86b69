"""What iterators count while they run, documents passed over for instance: on its way to the loader's statistics.

A thread's counts are its own. What is pending when a loader calls its iterators is of somebody else: of the program, or of
the parent that this process was forked from.
"""

from __future__ import annotations

import threading
from collections import Counter


class _Counted(threading.local):
    def __init__(self) -> None:
        self.by_name: Counter[str] = Counter()
        self.pauses = 0


class Pause:
    """Nothing is counted in this thread from now on: what is drawn again was counted when it was drawn first.

    Args:
        wanted: whether it is one at all.
    """

    def __init__(self, wanted: bool) -> None:
        self._lasts = wanted
        _counted.pauses += wanted

    def end(self) -> None:
        """Count again. Idempotent."""
        _counted.pauses -= self._lasts
        self._lasts = False


_counted = _Counted()


def add(name: str, count: int = 1) -> None:
    """Count so many of what ``name`` says."""
    if not _counted.pauses:
        _counted.by_name[name] += count


def pending() -> bool:
    """Whether this thread counted anything since the last drain."""
    return bool(_counted.by_name)


def drain() -> dict[str, int]:
    """What this thread counted since the last call."""
    counted = dict(_counted.by_name)
    _counted.by_name.clear()
    return counted
