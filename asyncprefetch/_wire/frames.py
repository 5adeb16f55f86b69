"""The socket between a process executor and its worker: calls go to the worker, and one answer for each comes back.

A frame is a header and a body. The worker answers calls in their order, so an answer needs no number. The worker sends
``MORE`` before it waits for the rest of a call: this wakes the thread that sends the rest, without a descriptor of its own.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple, Protocol

_HEADER = struct.Struct("<BQ")
_CHUNK = 1 << 16


class Kind(enum.IntEnum):
    """The meaning of a frame's body."""

    BEGIN = 0  # to the worker, once: how to set itself up
    CALL = 1  # to the worker: function, arguments and keywords
    RESULT = 2  # from the worker: the value that a call returned
    ERROR = 3  # from the worker: the exception of a call, as data
    MORE = 4  # from the worker: a part of a call has come, and the worker waits for the rest
    UNUSABLE = 5  # from the worker, at most once: the exception that its set-up raised, as data; it ends after this


class Frame(NamedTuple):
    """A complete frame."""

    kind: int
    body: bytes | memoryview


class Source(Protocol):
    """A socket, as far as a reader needs it."""

    def recv_into(self, buffer: memoryview) -> int:
        """See ``socket.socket.recv_into``."""


def pack(kind: Kind, body: bytes = b"") -> list[bytes]:
    """The buffers to send. A short body is joined to its header; a long one is not copied."""
    header = _HEADER.pack(kind, len(body))
    return [header + body] if len(body) <= _CHUNK else [header, body]


class FrameReader:
    """Puts frames together from what a socket gives."""

    def __init__(self) -> None:
        self._chunk = memoryview(bytearray(_CHUNK))
        self._rest = b""  # the beginning of a frame that fits into a chunk
        self._long: tuple[int, memoryview] | None = None  # a longer one: its kind and its body
        self._filled = 0  # so much of that body has come

    @property
    def within_frame(self) -> bool:
        """Whether the beginning of a frame has come and its end has not."""
        return bool(self._rest) or self._long is not None

    def receive(self, source: Source) -> list[Frame] | None:
        """Receive once. Gives the frames that are complete now; ``None`` at the end of the stream.

        Raises:
            OSError: the socket has nothing at present, or has failed.
            MemoryError: a frame is too long for the memory that is left.
        """
        if self._long is not None:
            kind, body = self._long
            size = source.recv_into(body[self._filled :])
            if not size:
                return None
            self._filled += size
            if self._filled < len(body):
                return []
            self._long = None
            return [Frame(kind, body)]
        size = source.recv_into(self._chunk)
        if not size:
            return None
        return self._split(self._rest + self._chunk[:size])

    def _split(self, data: bytes) -> list[Frame]:
        frames: list[Frame] = []
        begin, self._rest = 0, b""
        while len(data) - begin >= _HEADER.size:
            kind, length = _HEADER.unpack_from(data, begin)
            body = begin + _HEADER.size
            end = body + length
            if end > len(data):
                if length <= _CHUNK:
                    break
                long = memoryview(bytearray(length))
                self._filled = len(data) - body
                long[: self._filled] = data[body:]
                self._long = kind, long
                return frames
            frames.append(Frame(kind, data[body:end]))
            begin = end
        self._rest = data[begin:]
        return frames
