"""The worker's side of the stream transport. A run is one call; during it, orders come and records go over a socket."""

from __future__ import annotations

import errno
import faulthandler
import logging
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from typing import Any

from asyncprefetch import arrays
from asyncprefetch._wire.item_pickler import ItemPickler
from asyncprefetch._wire.messages import Credit, FromWorker, Setup, Start, Stop
from asyncprefetch._wire.records import (
    IN_SLOT,
    ITEM,
    NO_SLOT,
    TENSORS,
    Release,
    pack_header,
    pack_message,
    pack_span,
)
from asyncprefetch._wire.shared_memory import Geometry, Segment
from asyncprefetch._worker.producer import Producer
from asyncprefetch._worker.slot_allocator import SlotAllocator
from asyncprefetch._worker.worker_socket import WorkerSocket, die

if sys.platform != "win32":
    import resource

_LOG = logging.getLogger("asyncprefetch.worker")

# Bytes. A longer frame is copied to the slot: the socket holds about 200 kB, and a busy loader does not read it.
_MAX_FRAME = 16 << 10

# Seconds between two looks for orders while there is credit.
_LOOK_EVERY = 0.0005


class StreamRunner:
    """The worker's end of a stream transport, for its whole life."""

    def __init__(self, sock: socket.socket, memory: int | None, geometry: Geometry | None, *, protect: bool) -> None:
        """Map the shared memory, if there is any: ``memory`` is its descriptor, ``None`` if it did not arrive."""
        self._socket = WorkerSocket(sock)
        self._allocator: SlotAllocator | None = None
        self._credits: deque[Credit] = deque()
        self._stop: Stop | None = None
        self._over = False  # no order can come any more
        self._looked_at = 0.0
        if geometry is not None:
            if memory is None:
                _LOG.warning("the shared memory did not arrive (too many open files?): batches cross the socket")
            else:
                try:
                    segment = Segment(memory, geometry)
                except (OSError, ValueError) as error:
                    _LOG.warning("the shared memory can't be mapped (%s): batches cross the socket", error)
                else:
                    self._allocator = SlotAllocator(segment, self._look, protect=protect)
                    if protect:
                        faulthandler.enable()  # names the line
                        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self._pickler = ItemPickler(self._allocator)
        self._send: Callable[[FromWorker], None] = self._send_over_socket
        self._producer = Producer(self)

    def set_up(self, setup: Setup) -> None:
        """Call the user's initializer, and say hello."""
        arrays.use(self._allocator)
        self._producer.handle(setup)

    def run(self, start: Start) -> None:
        """One run: until its final sentinel is sent, or until no order can come any more."""
        # Before the start is handled: that may run the user's code, which may take memory, and so receive orders.
        self._credits.clear()
        self._stop = None
        try:
            self._producer.handle(start)
        except BrokenExecutor:
            return  # the initializer failed, which was reported
        producer, credits = self._producer, self._credits
        while not self._over:
            if self._stop is not None:
                stop, self._stop = self._stop, None
                producer.handle(stop)
                if stop.run == start.run:
                    return
            elif not credits:
                self._receive(wait=True)
            elif producer.draw(credits[0]):
                if time.monotonic() - self._looked_at > _LOOK_EVERY:
                    self._receive(wait=False)
            else:
                credits.popleft()

    def close(self) -> list[FromWorker]:
        """Close the iterators. Returns the last log records: the loader does not read the socket any more."""
        last: list[FromWorker] = []
        self._send = last.append
        self._producer.close()
        return last

    def _look(self) -> None:
        """Receive the orders that have come: slots that were released can be used before memory is taken."""
        try:
            self._receive(wait=False)
        except BaseException:
            # This is called within the user's code, which may catch what its signal handler raises here, and go on. Orders
            # that were received would be lost then. The loader can replace a worker that died.
            die()

    def _receive(self, *, wait: bool) -> None:
        orders = self._socket.receive(wait=wait)
        self._looked_at = time.monotonic()
        if orders is None:
            self._over = True
            return
        released = False
        for order in orders:
            match order:
                case Credit():
                    self._credits.append(order)
                case Release(slot):
                    assert self._allocator is not None
                    self._allocator.release(slot)
                    released = True
                case Stop():
                    self._stop = order
        if released and self._allocator is not None:
            # Keep one slot for each item that may be made now, and one for the item in progress.
            keep = sum(map(self._producer.missing, self._credits)) + (not self._allocator.has_current)
            self._allocator.trim(keep)

    # ---------------------------------------------------------------------------------------- the producer's outlet

    def item(self, where: tuple[int, int, int], item: Any) -> None:
        """Send an item: see :class:`~asyncprefetch._worker.outlet.Outlet`."""
        allocator = self._allocator
        slot, extent = NO_SLOT, 0
        try:
            frame, fingerprint, has_tensors = self._pickler.encode(item)
            marks = ITEM | TENSORS if has_tensors else ITEM
            if allocator is not None:
                if len(frame) > _MAX_FRAME and (offset := allocator.place_bytes(frame)) is not None:
                    frame, marks = pack_span(offset, len(frame)), marks | IN_SLOT
                if (sealed := allocator.seal()) is not None:
                    slot, extent = sealed
        except BaseException:
            if allocator is not None:
                allocator.discard()
            raise
        self._socket.send(pack_header(len(frame), marks, *where, fingerprint, slot, extent) + frame)

    def send(self, message: FromWorker) -> None:
        """Send any other message."""
        self._send(message)

    def _send_over_socket(self, message: FromWorker) -> None:
        self._socket.send(pack_message(message))


_worker: StreamRunner | None = None


def attach(geometry: Geometry | None, protect: bool, descriptors: list[int]) -> None:
    """Called once, when the process begins.

    Args:
        geometry: how the shared memory is cut; ``None`` without shared memory.
        protect: whether memory is protected after its yield.
        descriptors: the worker's end of the socket, and the shared memory.
    """
    global _worker  # noqa: PLW0603 - a process is the worker of one loader
    sock, memory = (*descriptors, None)[:2]
    if sock is None:
        raise OSError(errno.EMFILE, "the socket to the loader did not arrive: too many open files")
    _worker = StreamRunner(socket.socket(fileno=sock), memory, geometry, protect=protect)


def set_up(setup: Setup) -> None:
    """See :meth:`StreamRunner.set_up`."""
    assert _worker is not None
    _worker.set_up(setup)


def run(start: Start) -> None:
    """See :meth:`StreamRunner.run`."""
    assert _worker is not None
    _worker.run(start)


def close() -> list[FromWorker]:
    """See :meth:`StreamRunner.close`."""
    assert _worker is not None
    return _worker.close()
