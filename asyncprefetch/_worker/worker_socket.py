"""The worker's end of the socket to the loader. Unlike the loader's end, it may wait."""

from __future__ import annotations

import os
import select
import signal
import socket
import time

from asyncprefetch._wire.messages import Credit, Stop
from asyncprefetch._wire.records import Release, unpack_orders
from asyncprefetch._wire.sockets import GONE, NO_SIGNAL, is_own

_SPIN = 0.00005  # seconds at most

# After a spin in vain so many waits go without one. After each further one it is twice as many, up to a limit.
_FIRST_PAUSE, _LAST_PAUSE = 8, 256


def die() -> None:
    """End this process at once. The loader starts another worker at the last state."""
    os.kill(os.getpid(), signal.SIGKILL)


class WorkerSocket:
    """Reads orders and sends records, and may wait for either. Each record is sent as soon as it is made."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._socket = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._spin_wait = SpinWait(self._poll)
        self._rest = b""

    def receive(self, *, wait: bool) -> list[Credit | Stop | Release] | None:
        """The orders that have come; with ``wait`` at least one. ``None`` when no more can come."""
        if wait:
            self._spin_wait.spin()
        elif not self._poll.poll(0):
            return []
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionError as error:
                if not is_own(error, *GONE):
                    raise
                return None
            if not data:
                return None
            orders, self._rest = unpack_orders(self._rest + data)
            if orders or not wait:
                return orders

    def send(self, record: bytes) -> None:
        """Send a record. If the loader is gone, the record is dropped: this process ends with it."""
        try:
            self._socket.sendall(record, NO_SIGNAL)
        except BaseException as error:
            if is_own(error, *GONE):
                return
            # A signal handler of the user's raised in the middle of the call, and it is not known how much was sent. The
            # loader can replace a worker that died, but it can't make sense of a partial record.
            die()


class SpinWait:
    """Polls for a moment before the worker goes to sleep, where that has paid off before.

    Sleeping and waking takes tens of microseconds, and a quick consumer has to wait for it. Where credit comes quickly,
    polling saves that time. Where it does not, one spin in many finds out when it does again.

    Args:
        poll: watches the socket.
    """

    def __init__(self, poll: select.poll) -> None:
        self._poll = poll
        self._pause = _FIRST_PAUSE
        self._skip = 0

    def spin(self) -> None:
        """Poll until there is something to read, for a moment at most; or not at all, if spins were in vain before."""
        if self._skip:
            self._skip -= 1
            return
        until = time.monotonic() + _SPIN
        while not self._poll.poll(0):
            if time.monotonic() > until:
                self._skip, self._pause = self._pause, min(2 * self._pause, _LAST_PAUSE)
                return
        self._pause = _FIRST_PAUSE
