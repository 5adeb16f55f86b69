"""Kills the workers when the program ends.

multiprocessing waits for its processes when the program ends, and a busy worker would hold the program forever. Python
waits for the program's threads first: a thread that uses a worker goes on after the main thread has ended.
"""

from __future__ import annotations

import atexit
import multiprocessing.util  # noqa: F401 - its hook for the end of the program is registered before ours, so ours runs first
import threading
import weakref
from typing import Protocol


class Killable(Protocol):
    """What has a worker that must not outlive the program."""

    def kill(self) -> None:
        """End the worker at once."""


_live: weakref.WeakSet[Killable] = weakref.WeakSet()
_has_come = threading.Event()


def kill_at_end(executor: Killable) -> None:
    """Kill it when the program ends, if it still exists then."""
    _live.add(executor)


def has_come() -> bool:
    """Whether the program is ending: no worker may be started any more."""
    return _has_come.is_set()


def _kill_live() -> None:
    _has_come.set()
    while True:
        try:
            executors = list(_live)
        except RuntimeError:  # another thread has just added one
            continue
        break
    for executor in executors:
        executor.kill()


atexit.register(_kill_live)
