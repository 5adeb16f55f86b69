"""The event loop that a loader needs."""

from __future__ import annotations

import asyncio

from asyncprefetch.errors import EventLoopError


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the asyncio loop that runs here.

    Raises:
        EventLoopError: none does. The caller runs under trio, say, or in no event loop at all.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise EventLoopError(
            "a loader needs an event loop of asyncio or uvloop, and none runs here: call it from a coroutine that "
            "asyncio.run() runs. A program written for anyio or trio can use it under anyio.run(main, backend='asyncio')"
        ) from None
