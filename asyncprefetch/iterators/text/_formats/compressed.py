"""Compressed files: the contents before damage are read, and the damage is reported after them.

The readers of ``gzip`` and ``zstandard`` raise at damage and drop what they have decompressed since their last return. The
reader here ends at the damage instead, as at the end of a file. :func:`damage_of` then returns what is wrong.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asyncprefetch.iterators._extras import load
from asyncprefetch.iterators.text._files import SourceFile

_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class _Compression:
    """A compression. Its files consist of frames, one after the other. Gzip calls a frame a member.

    Attributes:
        frame: the name of a frame in messages.
        new: returns a decompressor of one frame.
        error: the error that it raises for damage, and for a lack of memory.
        shortage: the part of its text that shows a lack of memory.
        piece: how many bytes are decompressed at a time. They may expand to 32 MiB at most.
        padded: whether zeros may follow a frame.
    """

    frame: str
    new: Callable[[], Any]
    error: type[Exception]
    shortage: str
    piece: int
    padded: bool


def decompress(opened: io.BufferedReader, file: SourceFile) -> io.BufferedReader:
    """Return the contents of a file: ``opened`` itself if the file's name is not that of a compressed file.

    Raises:
        ModuleNotFoundError: the package for this compression is not installed.
    """
    name = file.name.lower()
    if name.endswith(".gz"):
        # At most 1,032 bytes come from one byte, and 31 stands for a header of gzip.
        gzip = _Compression("member of gzip", lambda: zlib.decompressobj(31), zlib.error, "Error -4 ", 1 << 14, True)
        return io.BufferedReader(_Frames(opened, gzip), _CHUNK)
    if name.endswith(".zst"):
        package = load("zstandard", "files", "reading .zst files")
        zstd = _Compression(
            "frame of zstd",
            # The largest window is that of zstd --long=31.
            lambda: package.ZstdDecompressor(max_window_size=1 << 31).decompressobj(),
            package.ZstdError,
            "not enough memory",
            1 << 10,  # four bytes may expand to 131,072
            False,
        )
        return io.BufferedReader(_Frames(opened, zstd), _CHUNK)
    return opened


def damage_of(contents: io.BufferedReader) -> str | None:
    """Return the damage at which the contents of a compressed file ended; ``None``: they are complete so far."""
    raw = contents.raw
    return raw.damage if isinstance(raw, _Frames) else None


class _Frames(io.RawIOBase):
    """The contents of a compressed file. They end at its end, or at the first damage. ``damage`` then says what it is.

    Which bytes come before the damage depends on the file alone, not on the sizes of the reads.

    Raises:
        MemoryError: the memory does not suffice.
        OSError: the file can't be read.
    """

    def __init__(self, opened: io.BufferedReader, compression: _Compression) -> None:
        self.damage: str | None = None
        self._opened = opened
        self._compression = compression
        self._frame: Any = None  # the decompressor of the current frame; None: between two frames
        self._start = 0  # the first byte of that frame in the file
        self._input = memoryview(b"")
        self._read = 0  # the byte of the file after the input
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output and self.damage is None and self._fill():
            self._step()
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size

    def _fill(self) -> bool:
        """Read more of the file if there is no input. Return whether there is input. Note an end within a frame."""
        if not self._input:
            self._input = memoryview(self._opened.read(max(1, _CHUNK // 4)))
            self._read += len(self._input)
            if not self._input and self._frame is not None:
                self.damage = f"it ends within a {self._compression.frame}"
        return len(self._input) > 0

    def _step(self) -> None:
        """Decompress one piece of the input, or skip zeros."""
        if self._frame is None:
            if self._compression.padded and self._start < self._read - len(self._input) and self._input[0] == 0:
                self._input = memoryview(bytes(self._input).lstrip(b"\0"))
                return
            self._frame = self._compression.new()
            self._start = self._read - len(self._input)
        piece = self._input[: self._compression.piece]
        try:
            self._output = memoryview(self._frame.decompress(piece))
        except self._compression.error as error:
            if self._compression.shortage in str(error):
                raise MemoryError(str(error)) from error
            self._output = memoryview(self._before_damage(piece))
            self.damage = str(error)
            return
        rest = 0
        if self._frame.eof:
            rest = len(self._frame.unused_data)
            self._frame = None
        self._input = self._input[len(piece) - rest :]

    def _before_damage(self, piece: memoryview) -> bytes:
        """Return what a damaged piece holds before its damage. The decompressor drops that when it raises.

        So another one gets the frame again, and the damaged piece byte by byte.
        """
        frame, left = self._compression.new(), self._read - len(self._input) - self._start
        self._opened.seek(self._start)
        while left and (data := self._opened.read(min(left, self._compression.piece))):
            frame.decompress(data)
            left -= len(data)
        parts = []
        try:
            for i in range(len(piece)):
                parts.append(frame.decompress(piece[i : i + 1]))
        except self._compression.error:
            pass  # the same error again
        return b"".join(parts)
