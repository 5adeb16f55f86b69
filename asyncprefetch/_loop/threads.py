"""Runs calls in threads, so that the loop is not blocked.

The calls have limits of their own, separate for each event loop. The application owns anyio's default limiter and the
loop's default executor. A web framework fills that limiter with its synchronous endpoints: a call that used it would wait
for these endpoints, and deadlock if they wait for the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import anyio.lowlevel
import anyio.to_thread

from asyncprefetch._process import limits

P = ParamSpec("P")
T = TypeVar("T")

MAX_CALLS = 40
"""How many calls to :func:`in_thread`, and to :func:`in_file_thread`, run at a time on one event loop. More calls wait."""

LimiterOfLoop = anyio.lowlevel.RunVar[anyio.CapacityLimiter]

_for_memory = LimiterOfLoop("asyncprefetch.in_thread")
# A file system that hangs holds its calls for as long as it hangs. With a limiter of their own they delay no state and no
# batch.
_for_files = LimiterOfLoop("asyncprefetch.in_file_thread")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that works in memory in a thread. If no thread can be started, call it here and block the loop.

    Cancellation: a call that has not begun is not made. A call that has begun completes in its thread.
    """
    return await _run(_for_memory, lambda: function(*args, **kwargs))


async def in_file_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that reads or writes files, like :func:`in_thread`."""
    return await _run(_for_files, lambda: function(*args, **kwargs))


async def _run(which: LimiterOfLoop, function: Callable[[], T]) -> T:
    begun = False

    def call() -> T:
        nonlocal begun
        begun = True
        return function()

    try:
        limits.check_threads()  # first, because anyio may have to be loaded, which needs memory too
        return await anyio.to_thread.run_sync(call, limiter=_limiter(which))
    except RuntimeError:
        if begun:
            raise
        return call()


def _limiter(which: LimiterOfLoop) -> anyio.CapacityLimiter:
    limiter = which.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(MAX_CALLS)
        which.set(limiter)
    return limiter
