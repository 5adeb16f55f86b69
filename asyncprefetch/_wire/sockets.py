"""What both ends of the socket between the loader and a worker share: how an error of the socket is told from another."""

from __future__ import annotations

import errno
import socket

# The other side may be gone, and in a program that asked for it a signal would end this one.
NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)

# By which a socket tells that the other side is gone.
GONE = (errno.EPIPE, errno.ECONNRESET)


def is_own(error: BaseException, *numbers: int) -> bool:
    """Whether the socket's own call failed by one of these numbers.

    A signal handler of the user's runs within our calls, and may raise an ``OSError`` too, ``TimeoutError`` say, or
    ``BrokenPipeError`` with a number when it prints to nobody. That has frames below ours, and tells nothing of the socket.
    """
    traceback = error.__traceback__
    return isinstance(error, OSError) and error.errno in numbers and (traceback is None or traceback.tb_next is None)
