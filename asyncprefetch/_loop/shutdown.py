"""The end of a loader: every worker is ended and waited for, whatever is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from asyncprefetch._loop.transport import Transport
from asyncprefetch._loop.worker_handle import WorkerHandle


class Shutdown:
    """Ends the workers of one loader, and knows when none is left.

    Args:
        handles: the loader's workers.
        on_begin: called before anything is closed.
        on_end: called when everything is closed.
    """

    def __init__(
        self, handles: Sequence[WorkerHandle], *, on_begin: Callable[[], None], on_end: Callable[[], None]
    ) -> None:
        self._handles = handles
        self._on_begin = on_begin
        self._on_end = on_end
        self._transports = _TransportsBeingClosed()
        self.close_transport = self._transports.add
        self._change: asyncio.Future[None] | None = None  # done when the state of a handle may have changed
        self._closing: asyncio.Task[None] | None = None
        self._ended = False
        self._watch: LoopWatch | None = None

    @property
    def holds_worker(self) -> bool:
        """Whether a worker is left, or a transport that is not closed."""
        return bool(self._transports) or any(handle.holds_worker for handle in self._handles)

    def watch_loop(self, on_shutdown: Callable[[], Awaitable[None]]) -> None:
        """Await ``on_shutdown()`` when the running loop shuts down while workers are left."""
        self._watch = LoopWatch(on_shutdown)

    def changed(self) -> None:
        """The state of a handle may have changed."""
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    async def settle(self) -> None:
        """Wait until no worker is left, and dismiss the loop watch."""
        while self.holds_worker:
            if self._transports:
                await self._transports.wait()
            else:
                if self._change is None or self._change.done():
                    self._change = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._change)
        if self._watch is not None:
            await self._watch.dismiss()

    async def aclose(self) -> None:
        """End every worker and wait until it is gone. A cancellation is held back until then, a few seconds at most."""
        cancelled: asyncio.CancelledError | None = None
        while not (closing := self.begin()).done():
            try:
                await asyncio.wait([closing])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        if not closing.cancelled():  # a cancellation may come in its last step
            closing.result()

    def begin(self) -> asyncio.Task[None]:
        """The task that closes everything. A program that cancels all its tasks may have cancelled it: then a new one."""
        if self._closing is None or (self._closing.cancelled() and not self._ended):
            self._closing = asyncio.get_running_loop().create_task(self._close())
        return self._closing

    def outlive_loop(self) -> None:
        """The loop was closed before everything was, and its tasks never go on: close everything on the running loop."""
        self._change = self._closing = None
        self._transports.outlive_loop()

    def kill(self) -> None:
        """End every worker at once, from any thread, with or without a running loop."""
        for handle in self._handles:
            handle.kill()
        self._transports.kill()

    async def _close(self) -> None:
        self._on_begin()
        cut_off = False
        try:
            closed = asyncio.gather(*(handle.aclose() for handle in self._handles))
            self.changed()
            await closed
            await self.settle()
        except (asyncio.CancelledError, GeneratorExit):  # the loop ends: a caller that waits begins a new close
            cut_off = True
            raise
        finally:
            self.kill()  # the processes must not outlive the loop
            if not cut_off:
                self._ended = True
                self._on_end()


class _TransportsBeingClosed:
    """Closes transports in tasks, and keeps each until it is closed: a program may cancel these tasks with all others."""

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
        """Wait for one of those that are being closed. There must be one."""
        await asyncio.wait(self._closings)

    def outlive_loop(self) -> None:
        """The loop was closed, and its tasks never go on: close the transports on the running loop."""
        closings, self._closings = self._closings, {}
        for transport in closings.values():
            self.add(transport)

    def kill(self) -> None:
        """End their workers at once, from any thread."""
        for transport in list(self._closings.values()):
            transport.kill()

    def _done(self, closing: asyncio.Task[None]) -> None:
        transport = self._closings.pop(closing, None)
        if transport is not None and closing.cancelled():  # perhaps before it began
            self.add(transport)


class LoopWatch:
    """Awaits ``on_shutdown()`` when the running loop shuts down, unless it was dismissed before.

    ``asyncio.run`` and its like cancel all tasks, then close the asynchronous generators that are still suspended. That is
    the one public sign of a loop's end, and the last moment at which something can be awaited on the loop.
    """

    def __init__(self, on_shutdown: Callable[[], Awaitable[None]]) -> None:
        self._on_shutdown: Callable[[], Awaitable[None]] | None = on_shutdown
        self._generator = self._suspended()
        # It does not suspend before its first yield, so this needs no await; the loop learns of it by this step.
        try:
            self._generator.asend(None).send(None)
        except StopIteration:
            return

    async def dismiss(self) -> None:
        """Watch no more. It may be called from within ``on_shutdown``."""
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
