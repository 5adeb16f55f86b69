"""The worker's end of the socket to the loader. It may wait."""

from __future__ import annotations

import os
import select
import signal
import socket

from asyncprefetch._wire.messages import Credit, Stop
from asyncprefetch._wire.records import Release, unpack_orders
from asyncprefetch._wire.sockets import GONE, NO_SIGNAL, is_own
from asyncprefetch._worker.spin_wait import SpinWait


def die() -> None:
    """End this worker at once: another one is started at its last state."""
    os.kill(os.getpid(), signal.SIGKILL)


class WorkerSocket:
    """Reads orders and sends records, and may wait for either. Each record is sent as soon as it is made."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._socket = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._spin_wait = SpinWait()
        self._rest = b""

    def receive(self, *, wait: bool) -> list[Credit | Stop | Release] | None:
        """The orders that have come; with ``wait`` at least one. ``None`` when no more can come."""
        if wait:
            self._spin_wait.look(self._has_come)
        elif not self._has_come():
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
        """Send a record."""
        try:
            self._socket.sendall(record, NO_SIGNAL)
        except BaseException as error:
            if is_own(error, *GONE):
                return  # and this process ends with the loader: see executors
            # A handler of the user's raised in the middle of it, an alarm's, say, and nobody knows how much was sent.
            # A death can be made good, a record in pieces can't.
            die()

    def _has_come(self) -> bool:
        return bool(self._poll.poll(0))
