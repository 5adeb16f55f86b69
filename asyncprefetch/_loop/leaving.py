"""Transports of which nothing more is needed, until they are closed."""

from __future__ import annotations

import asyncio

from asyncprefetch._loop.transport import Transport


class Leaving:
    """Closes transports in tasks, and forgets none before it is closed: whoever cancels all tasks cancels these too."""

    def __init__(self) -> None:
        self._closings: dict[asyncio.Task[None], Transport] = {}

    def __bool__(self) -> bool:
        return bool(self._closings)

    def add(self, transport: Transport) -> None:
        """Close it, on the running loop."""
        closing = asyncio.get_running_loop().create_task(transport.aclose())
        self._closings[closing] = transport
        closing.add_done_callback(self._done)

    async def wait(self) -> None:
        """Wait for those that are here: there must be one."""
        await asyncio.wait(self._closings)

    def outlive_loop(self) -> None:
        """The loop was closed, and no task of it goes on: close them on the running one."""
        closings, self._closings = self._closings, {}
        for transport in closings.values():
            self.add(transport)

    def kill(self) -> None:
        """End their workers at once, from any thread."""
        for transport in list(self._closings.values()):
            transport.kill()

    def _done(self, closing: asyncio.Task[None]) -> None:
        transport = self._closings.pop(closing, None)
        if transport is not None and closing.cancelled():  # before it began, maybe
            self.add(transport)
