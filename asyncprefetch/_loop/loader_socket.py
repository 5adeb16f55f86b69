"""The loader's end of the socket to a worker. It never waits."""

from __future__ import annotations

import asyncio
import errno
import select
import socket
from collections.abc import Callable

from asyncprefetch._wire.records import Record, RecordReader
from asyncprefetch._wire.sockets import GONE, NO_SIGNAL, is_own

# What one turn of the loop reads at most: so that a flood of large frames leaves room for others.
_MAX_READ = 1 << 20
_READ_SIZE = 1 << 17


class LoaderSocket:
    """Reads records and writes orders on the loop, without ever waiting.

    Args:
        sock: the loader's end of the pair, owned from now on.
        on_records: called with the records of each read, in order.
        on_error: called when a record can't be taken in, or an order can't be sent, and nobody knows how much of it was;
            nothing is read or written after that.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_records: Callable[[list[Record]], None],
        on_error: Callable[[BaseException], None],
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
        except BaseException as error:
            if not is_own(error, errno.EAGAIN):
                if is_own(error, *GONE):  # and some of our orders were not read
                    self._stop_reading()
                else:
                    self._fail(error)
            return False
        if size == 0:
            self._stop_reading()
            return False
        try:
            records = self._reader.feed(bytes(target[:size])) if room is None else self._reader.filled(size)
            if records:
                self._on_records(records)
        except BaseException as error:  # no memory for a large record, say
            self._fail(error)
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
        try:
            if not self._unsent:
                try:
                    data = data[self._socket.send(data, NO_SIGNAL) :]
                except BlockingIOError as error:
                    if not is_own(error, errno.EAGAIN):
                        raise
            if data:
                waits = bool(self._unsent)
                self._unsent += data  # first: by this it is known that the loop may watch the socket
                if not waits:
                    self._loop.add_writer(self._socket, self._writable)
        except BaseException as error:
            if not is_own(error, *GONE):  # that is told by its end, not here
                self._fail(error)

    def close(self) -> None:
        """Read and write no more. A worker that waits for orders sees the end of them."""
        self._stop_reading()
        self._stop_writing()
        self._socket.close()

    def end_orders(self) -> None:
        """Tell the worker that no order will come: then a run of it ends."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except BaseException as error:
            # EBADF: it was closed here.
            if not is_own(error, errno.ENOTCONN, errno.EBADF, *GONE):
                self._fail(error)

    def _readable(self) -> None:
        for _ in range(_MAX_READ // _READ_SIZE):
            if not self.read():
                return

    def _writable(self) -> None:
        try:
            del self._unsent[: self._socket.send(self._unsent, NO_SIGNAL)]
        except BaseException as error:
            if not is_own(error, errno.EAGAIN):
                if is_own(error, *GONE):
                    self._stop_writing()
                else:
                    self._fail(error)
            return
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def _fail(self, error: BaseException) -> None:
        # What was read, or how much was sent, is not known any more. A new worker makes that good.
        self._stop_reading()
        self._stop_writing()
        self._on_error(error)
        if not isinstance(error, Exception):  # an interrupt ends the program
            raise error

    def _stop_reading(self) -> None:
        if self._open:
            self._open = False
            # An end that stays registered would be ready for ever.
            self._loop.remove_reader(self._socket)

    def _stop_writing(self) -> None:
        if self._unsent:
            self._unsent.clear()
            self._loop.remove_writer(self._socket)
