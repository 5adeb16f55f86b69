"""Kills the workers when the program ends.

multiprocessing waits for its processes when the program ends, and a busy worker would hold the program forever. So would a
thread that waits for a busy worker: Python waits for its threads before it runs the hooks of ``atexit``.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing.util  # noqa: F401 - its hook for the end of the program is registered before ours, so ours runs first
import threading
import weakref
from typing import Protocol

from asyncprefetch._process import limits


class Killable(Protocol):
    """What has a worker that must not outlive the program."""

    def kill(self) -> None:
        """End the worker at once."""


_live: weakref.WeakSet[Killable] = weakref.WeakSet()
_has_come = threading.Event()
_watched = threading.Lock()  # taken once a program


def kill_at_end(executor: Killable) -> None:
    """Kill it when the program ends, if it still exists then."""
    _live.add(executor)


def has_come() -> bool:
    """Whether the program is ending: no worker may be started any more."""
    return _has_come.is_set()


def watch_main_thread() -> None:
    """Kill the workers when the main thread ends. The first call starts a thread for that."""
    if _watched.acquire(blocking=False):
        with contextlib.suppress(RuntimeError):  # no more threads, or the interpreter ends
            limits.check_threads()
            threading.Thread(target=_after_main_thread, name="asyncprefetch-end-watch", daemon=True).start()


def _after_main_thread() -> None:
    threading.main_thread().join()
    _kill_live()


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
