"""What both ends of a worker's socket share: which errors are those of the socket, and not of the user's code."""

from __future__ import annotations

import errno
import socket

# If the other side is gone, the call fails. Without this flag a signal would end a program that has not ignored it.
NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)

GONE = (errno.EPIPE, errno.ECONNRESET)
"""The errors of a socket whose other side is gone."""


def is_own(error: BaseException, *numbers: int) -> bool:
    """Whether the socket's own call failed, with one of these error numbers.

    A signal handler of the user's runs within our calls. It may raise an ``OSError`` too: ``TimeoutError``, or
    ``BrokenPipeError`` with a number if it prints to a closed pipe. Such an error has frames below ours, and means nothing
    for the socket.
    """
    traceback = error.__traceback__
    return isinstance(error, OSError) and error.errno in numbers and (traceback is None or traceback.tb_next is None)
