"""The two ends of the socket between the loader and a worker: the loader's never waits, the worker's may."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
import time
from collections.abc import Callable

from asyncprefetch._messages import Credit, FromWorker, Stop
from asyncprefetch.carriers.wire import Header, RecordReader, Release, pack_order, pack_record, unpack_orders

# What one turn of the loop reads at most: so that a flood of large frames leaves room for others.
_MAX_READ = 1 << 20
_READ_SIZE = 1 << 17

# A worker may keep records back for so long, in seconds and in bytes, while it makes the next item: a system call costs
# as much as a small item does.
_MAX_HELD_SECONDS = 0.0002
_MAX_HELD_BYTES = 1 << 16
# The thread that sends what is held by a draw that takes long looks so often, and rests after so many idle rounds.
_FLUSH_INTERVAL = 0.0005
_IDLE_ROUNDS = 20


class LoaderEnd:
    """Reads records and writes orders on the loop, without ever waiting.

    Args:
        sock: the loader's end of the pair, owned from now on.
        on_records: called with the records of each read, in order.
    """

    def __init__(
        self, sock: socket.socket, on_records: Callable[[list[tuple[Header, bytes | bytearray]]], None]
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._on_records = on_records
        self._reader = RecordReader()
        self._buffer = memoryview(bytearray(_READ_SIZE))
        self._unsent = bytearray()
        self._open = True
        self._loop.add_reader(sock, self._readable)

    def read(self) -> bool:
        """Read once what is there, if anything is. Gives whether there may be more.

        Records reach ``on_records`` before this returns.
        """
        if not self._open:
            return False
        room = self._reader.room
        target = self._buffer if room is None else room
        try:
            size = self._socket.recv_into(target)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:  # the worker is gone, and some of our orders were not read
            size = 0
        if size == 0:
            self._stop_reading()
            return False
        records = list(self._reader.feed(bytes(target[:size])) if room is None else self._reader.filled(size))
        if records:
            self._on_records(records)
        return size == len(target)

    def read_to_end(self) -> None:
        """Read all that is there. A record that is not complete is dropped."""
        while self.read():
            pass

    def write(self, orders: list[Credit | Stop | Release]) -> None:
        """Send orders, at once or as soon as the worker has room for them."""
        data = b"".join(map(pack_order, orders))
        if not self._open:
            return
        if not self._unsent:
            try:
                data = data[self._socket.send(data) :]
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                return  # the worker is gone: that is told by its end, not here
        if data:
            if not self._unsent:
                self._loop.add_writer(self._socket, self._writable)
            self._unsent += data

    def close(self) -> None:
        """Read and write no more. A worker that waits for orders sees the end of them."""
        self._stop_reading()
        if self._unsent:
            self._unsent.clear()
            self._loop.remove_writer(self._socket)
        self._socket.close()

    def end_orders(self) -> None:
        """Tell the worker that no order will come: then a run of it ends."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def _readable(self) -> None:
        for _ in range(_MAX_READ // _READ_SIZE):
            if not self.read():
                return

    def _writable(self) -> None:
        try:
            del self._unsent[: self._socket.send(self._unsent)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._unsent.clear()
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def _stop_reading(self) -> None:
        if self._open:
            self._open = False
            # An end that stays registered would be ready for ever.
            self._loop.remove_reader(self._socket)


class WorkerEnd:
    """Reads orders and sends records, in the thread that draws; a second thread sends what a long draw holds up."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._socket = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._rest = b""
        self._lock = threading.Lock()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._held_since = 0.0
        self._flusher: threading.Thread | None = None
        self._resting = threading.Event()
        self._wake = threading.Event()

    def receive(self, *, wait: bool) -> list[Credit | Stop | Release] | None:
        """The orders that have come; with ``wait`` at least one. ``None`` when no more can come."""
        if not wait and not self._poll.poll(0):
            return []
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionError:
                return None
            if not data:
                return None
            orders, self._rest = unpack_orders(self._rest + data)
            if orders or not wait:
                return orders

    def send(self, message: FromWorker) -> None:
        """Send a message, after all that is held."""
        with self._lock:
            self._held += pack_record(message)
            self._flush()

    def hold(self, message: FromWorker, now: float) -> None:
        """Send a message within a fraction of a millisecond: with others, if more are made as quickly."""
        with self._lock:
            header, body = pack_record(message)
            if not self._held:
                self._held_since = now
            self._held += (header, body)
            self._held_bytes += len(header) + len(body)
            if now - self._held_since > _MAX_HELD_SECONDS or self._held_bytes > _MAX_HELD_BYTES:
                self._flush()
        if self._flusher is None:
            self._flusher = threading.Thread(target=self._flush_late, name="asyncprefetch-flush", daemon=True)
            self._flusher.start()
        elif self._resting.is_set():
            self._wake.set()

    def flush(self) -> None:
        """Send what is held. To be called before anything that may wait."""
        if self._held:
            with self._lock:
                self._flush()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _flush(self) -> None:
        data = b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        try:
            self._socket.sendall(data)
        except OSError:
            return  # the loader is gone, and this process ends with it: see executors

    def _flush_late(self) -> None:
        idle = 0
        while True:
            time.sleep(_FLUSH_INTERVAL)
            idle += 1
            if self._held:
                idle = 0
                with self._lock:
                    if self._held and time.monotonic() - self._held_since > _MAX_HELD_SECONDS:
                        self._flush()
            if idle > _IDLE_ROUNDS:
                self._wake.clear()
                self._resting.set()
                if not self._held:  # else it was held before this thread said that it rests
                    self._wake.wait()
                self._resting.clear()
                idle = 0
