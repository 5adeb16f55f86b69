"""The two ends of the socket between the loader and a worker: the loader's never waits, the worker's may."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
from collections.abc import Callable

from asyncprefetch._messages import Credit, Stop
from asyncprefetch.carriers.patience import Patience
from asyncprefetch.carriers.wire import Record, RecordReader, Release, unpack_orders

# What one turn of the loop reads at most: so that a flood of large frames leaves room for others.
_MAX_READ = 1 << 20
_READ_SIZE = 1 << 17

# The other side may be gone, and in a program that asked for it a signal would end this one.
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)


class LoaderEnd:
    """Reads records and writes orders on the loop, without ever waiting.

    Args:
        sock: the loader's end of the pair, owned from now on.
        on_records: called with the records of each read, in order.
        on_error: called when a record can't be taken in; nothing is read after that.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_records: Callable[[list[Record]], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._on_records = on_records
        self._on_error = on_error
        self._reader = RecordReader()
        self._buffer = memoryview(bytearray(_READ_SIZE))
        self._unsent = bytearray()
        self._open = True
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
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
        try:
            records = self._reader.feed(bytes(target[:size])) if room is None else self._reader.filled(size)
            if records:
                self._on_records(records)
        except Exception as error:  # no memory for a large record, say
            self._stop_reading()
            self._on_error(error)
            return False
        return size == len(target)

    def poll(self) -> None:
        """Read once if anything is there. Several times cheaper than to try in vain."""
        if self._open and self._poll.poll(0):
            self.read()

    def read_to_end(self) -> None:
        """Read all that is there. A record that is not complete is dropped."""
        while self.read():
            pass

    def write(self, data: bytes) -> None:
        """Send orders, at once or as soon as the worker has room for them."""
        if not self._open:
            return
        if not self._unsent:
            try:
                data = data[self._socket.send(data, _NO_SIGNAL) :]
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
            del self._unsent[: self._socket.send(self._unsent, _NO_SIGNAL)]
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
    """Reads orders and sends records, and may wait for either. Each record is sent as soon as it is made."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._socket = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._patience = Patience()
        self._rest = b""

    def receive(self, *, wait: bool) -> list[Credit | Stop | Release] | None:
        """The orders that have come; with ``wait`` at least one. ``None`` when no more can come."""
        if wait:
            self._patience.look(self._has_come)
        elif not self._has_come():
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

    def send(self, record: bytes) -> None:
        """Send a record."""
        try:
            self._socket.sendall(record, _NO_SIGNAL)
        except OSError:
            return  # the loader is gone, and this process ends with it: see executors
        except BaseException:
            # A handler of the user's raised in the middle of it, an alarm's, say, and nobody knows how much was sent.
            # A death can be made good, a record in pieces can't.
            os.kill(os.getpid(), signal.SIGKILL)

    def _has_come(self) -> bool:
        return bool(self._poll.poll(0))
