"""The loader's end of the socket to a worker. It never waits."""

from __future__ import annotations

import asyncio
import errno
import select
import socket
from collections.abc import Callable

from asyncprefetch._wire.records import Record, RecordReader
from asyncprefetch._wire.sockets import GONE, NO_SIGNAL, is_own

# One turn of the loop reads at most so many bytes, so that a flood of large frames does not starve other callbacks.
_MAX_READ = 1 << 20
_READ_SIZE = 1 << 17


class LoaderSocket:
    """Reads records and writes orders on the loop. It never waits.

    Args:
        sock: the loader's end of the pair, owned from now on.
        on_records: called with the records of each read, in order.
        on_error: called when a record can't be received or an order can't be sent, and how much of it went through is
            unknown. Nothing is read or written after that.
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
        """Read once. Complete records reach ``on_records`` before this returns.

        Returns:
            Whether more may be there to read.
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
        """Read once if anything has arrived. To ask first is several times cheaper than a read in vain."""
        if self._open and self._poll.poll(0):
            self.read()

    def read_to_end(self) -> None:
        """Read all that has arrived. An incomplete record is dropped."""
        while self.read():
            pass

    def write(self, data: bytes) -> None:
        """Send orders, at once or as soon as the socket has room for them."""
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
                self._unsent += data  # first: it says that the loop may be watching the socket
                if not waits:
                    self._loop.add_writer(self._socket, self._writable)
        except BaseException as error:
            if not is_own(error, *GONE):  # the transport learns of the death by the process, not here
                self._fail(error)

    def close(self) -> None:
        """Stop reading and writing. A worker that waits for orders sees their end."""
        self._stop_reading()
        self._stop_writing()
        self._socket.close()

    def end_orders(self) -> None:
        """Send no more orders. The worker sees their end, and its run ends."""
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
        # How much was read or sent is unknown from here on. Only a new worker can continue.
        self._stop_reading()
        self._stop_writing()
        self._on_error(error)
        if not isinstance(error, Exception):  # an interrupt ends the program
            raise error

    def _stop_reading(self) -> None:
        if self._open:
            self._open = False
            # A socket at its end is always readable: registered, it would call back without end.
            self._loop.remove_reader(self._socket)

    def _stop_writing(self) -> None:
        if self._unsent:
            self._unsent.clear()
            self._loop.remove_writer(self._socket)
