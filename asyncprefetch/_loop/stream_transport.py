"""The stream transport: a run is one call to a worker process, and its messages come over a socket as they are made.

Large arrays lie in memory that is shared with the worker (``shared_memory``). The socket carries the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import socket
import sys
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from typing import Any

from asyncprefetch._loop.lent_slots import LentSlots, OnSlot
from asyncprefetch._loop.loader_socket import LoaderSocket
from asyncprefetch._loop.run_credit import RunCredit
from asyncprefetch._loop.transport import Sink
from asyncprefetch._loop.worker_end import close_iterators, end_process, in_daemon_thread
from asyncprefetch._process.limits import advice
from asyncprefetch._process.process_executor import ProcessExecutor
from asyncprefetch._process.process_workers import ProcessWorkers
from asyncprefetch._wire.messages import Credit, Death, FromWorker, Item, Setup, Start, Stop
from asyncprefetch._wire.payloads import Framed
from asyncprefetch._wire.records import (
    IN_SLOT,
    ITEM,
    NO_SLOT,
    TENSORS,
    Record,
    pack_credit,
    pack_release,
    pack_stop,
    unpack_span,
)
from asyncprefetch._wire.shared_memory import Segment
from asyncprefetch._worker import stream_runner
from asyncprefetch._worker.library_threads import LibraryThreads

_LOG = logging.getLogger("asyncprefetch")

# The consumer may hold so many batches, or the prefetch number if that is larger, before it gets copies.
_MIN_HELD = 16


def is_supported() -> bool:
    """Whether this system and the running loop have what the transport needs."""
    loop = asyncio.get_running_loop()
    # Windows' default loop has no add_reader.
    return sys.platform == "linux" and type(loop).add_reader is not asyncio.AbstractEventLoop.add_reader


class StreamTransport:
    """Carries the runs of one worker process.

    Args:
        sink: what the messages go to.
        n_prefetch: how many batches may be made and not delivered.
        workers: the options for the process.
        threads: how many threads the libraries in the process use; ``None`` leaves them.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        n_prefetch: int,
        workers: ProcessWorkers,
        threads: LibraryThreads | None,
    ) -> None:
        self._sink: Sink | None = sink
        self._loop = asyncio.get_running_loop()
        max_held = max(n_prefetch, _MIN_HELD)
        # Beside those held: one for each batch ahead, as many that a snapshot looks at, and that which is being made.
        self._segment = Segment.create(2 * n_prefetch + max_held + 1)
        self._lent_slots = LentSlots(self._segment, max_held) if self._segment is not None else None
        if self._segment is None:
            _LOG.warning(
                "no shared memory can be had here (too little address space: ulimit -v?): batches cross the socket, "
                "which is slower"
            )
        with contextlib.ExitStack() as on_error:
            if self._segment is not None:
                on_error.callback(self._segment.retire)
            loader_socket, worker_socket = socket.socketpair()
            on_error.callback(worker_socket.close)
            on_error.callback(loader_socket.close)
            descriptors: list[socket.socket | int] = [worker_socket]
            if self._segment is not None:
                # A copy: the segment may be retired while the executor's thread sends the number.
                copy = os.dup(self._segment.descriptor)
                descriptors.append(copy)
                on_error.callback(os.close, copy)
            self._end = LoaderSocket(loader_socket, self._records, self._fails)
            on_error.pop_all()
        self._executor = ProcessExecutor(
            start_method=workers.start_method,
            env=workers.env,
            malloc=workers.malloc,
            threads=threads,
            initializer=stream_runner.attach,
            initargs=(self._segment.geometry if self._segment is not None else None, workers.protect),
            descriptors=descriptors,
        )
        self._protects = workers.protect
        self._worker = -1
        self._up = False
        self._credit = RunCredit()
        self._reason = ""  # why its process takes no more calls
        self._failed = False  # by an error that is neither the user's nor a death

    @property
    def drawing(self) -> tuple[int, int] | None:
        """Shard and next position of the oldest credit that is not used up."""
        return self._credit.drawing

    @property
    def mapped(self) -> int:
        """Bytes of memory that the slots take."""
        return self._segment.mapped if self._segment is not None else 0

    def launch(self, setup: Setup, start: Start) -> None:
        """Start the process, and its first run."""
        self._worker = setup.worker
        asyncio.wrap_future(self._executor.exited).add_done_callback(self._exited)
        self._call(stream_runner.set_up, setup)
        self.start(start)

    def start(self, start: Start) -> None:
        """Submit the run."""
        self._credit.begin({shard: begin.position for shard, begin in start.shards.items()})
        self._call(stream_runner.run, start)

    def credit(self, credit: Credit) -> None:
        """Keep the credit for the next flush."""
        self._credit.add(credit)

    def flush(self) -> None:
        """Send the credits, and the slots that are free again."""
        if self._credit.has_unsent:
            orders = [pack_credit(credit) for credit in self._credit.take()]
            if self._lent_slots is not None and self._lent_slots.lent:
                orders[:0] = map(pack_release, self._lent_slots.returned())
            self._end.write(b"".join(orders))

    def poll(self) -> None:
        """Read once."""
        self._end.poll()

    def stop(self, stop: Stop) -> None:
        """Ask for the states."""
        self._credit.end()
        self._end.write(pack_stop(stop))

    def detach(self) -> None:
        """Report nothing more to the sink."""
        self._sink = None

    def kill(self) -> None:
        """Kill the process, from any thread."""
        self._executor.kill()

    async def aclose(self) -> None:
        """Close the iterators in the worker, then end it; if it does not end in time, it is killed."""
        self.detach()
        try:
            self._end.end_orders()
            idle = self._up and await close_iterators(self._executor, stream_runner.close, self._worker)
            await end_process(self._executor, idle=idle)
        finally:
            self.kill()
            self._end.close()
            if self._segment is not None:
                await _finish(self._segment.retire)

    # ---------------------------------------------------------------------------------------------------- the process

    def _call(self, function: Callable[[Any], None], argument: Any) -> None:
        try:
            call = self._loop.run_in_executor(self._executor, function, argument)
        except Exception as error:
            self._fails(error)
        else:
            call.add_done_callback(self._returned)

    def _returned(self, call: asyncio.Future[None]) -> None:
        # The results are in the messages. But after a failed call no message will come.
        if not call.cancelled() and (error := call.exception()) is not None:
            self._fails(error)

    def _fails(self, error: BaseException) -> None:
        if not self._reason:
            self._reason = f"{type(error).__name__}: {error}"
            if not isinstance(error, BrokenExecutor):  # which says already what to do
                self._reason += advice(error)
                self._failed = True
                _LOG.error("a worker failed with an error of its own", exc_info=error)
        self._executor.kill()

    def _exited(self, exited: asyncio.Future[int | None]) -> None:
        if self._sink is None:
            return
        # Messages that it sent before it died still count.
        self._end.read_to_end()
        if self._sink is not None:
            # A worker that was killed here for its error has an exit code that says nothing about the error.
            code = None if exited.cancelled() or self._failed else exited.result()
            executor = self._executor
            reason = self._reason or "its process ended"
            self._sink.died(Death(reason, executor.pid, code, executor.oom_kills, protected=self._protects))

    # ---------------------------------------------------------------------------------------------------- its messages

    def _records(self, records: list[Record]) -> None:
        self._up = True
        messages: list[FromWorker] = []
        positions = self._credit.positions
        for (_, marks, run, shard, position, fingerprint, slot, extent), body in records:
            if marks == ITEM and slot == NO_SLOT:
                payload: Framed | OnSlot = Framed(body)
            elif marks:
                payload = self._payload(body, marks, slot, extent)
            else:
                message: FromWorker = pickle.loads(body)
                self._credit.received(message)
                messages.append(message)
                continue
            positions[shard] = position + 1
            messages.append(Item(run, shard, position, fingerprint, payload))
        if self._sink is not None:
            self._sink.received(messages)

    def _payload(self, body: bytes | bytearray, marks: int, slot: int, extent: int) -> Framed | OnSlot:
        has_tensors = bool(marks & TENSORS)
        if slot == NO_SLOT:
            return Framed(body, has_tensors)
        assert self._lent_slots is not None
        span = unpack_span(body) if marks & IN_SLOT else None
        return OnSlot(body, span, slot, extent, has_tensors, self._lent_slots)


async def _finish(function: Callable[[], None]) -> None:
    """Call it in a thread, or here if there can be no thread any more."""
    call = in_daemon_thread(function, "asyncprefetch-unmap")
    await asyncio.wait([call])
    if not call.cancelled() and call.exception() is not None:
        function()
