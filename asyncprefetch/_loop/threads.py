"""Runs a call in a thread, so that the loop is not blocked."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import anyio.to_thread

from asyncprefetch._process import limits

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function`` in a thread. Where no thread can be started, call it here, which blocks the loop."""
    begun = False

    def call() -> T:
        nonlocal begun
        begun = True
        return function(*args, **kwargs)

    try:
        limits.check_threads()
        return await anyio.to_thread.run_sync(call)
    except RuntimeError:
        if begun:
            raise
        return call()
