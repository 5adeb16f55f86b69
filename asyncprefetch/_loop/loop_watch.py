"""Notices that an event loop shuts down, by the one public sign of it: the loop closes its asynchronous generators."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable


class LoopWatch:
    """Awaits ``on_shutdown()`` when the running loop shuts down, unless it was dismissed before.

    ``asyncio.run`` and its like cancel all tasks, then close the asynchronous generators that are still suspended: the
    last moment at which something can be awaited on the loop.
    """

    def __init__(self, on_shutdown: Callable[[], Awaitable[None]]) -> None:
        self._on_shutdown: Callable[[], Awaitable[None]] | None = on_shutdown
        self._generator = self._suspended()
        # It does not suspend before its first yield, so this needs no await; the loop comes to know it by this step.
        try:
            self._generator.asend(None).send(None)
        except StopIteration:
            return

    async def dismiss(self) -> None:
        """Watch no more. Also from within ``on_shutdown``."""
        if self._on_shutdown is not None:
            self._on_shutdown = None
            await self._generator.aclose()

    async def _suspended(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            on_shutdown, self._on_shutdown = self._on_shutdown, None
            if on_shutdown is not None:
                await on_shutdown()
