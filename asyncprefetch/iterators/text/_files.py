"""A file of documents, local or at a URL of fsspec: how it is opened, checked, and named in errors."""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

from asyncprefetch.iterators._document_error import DocumentError

HEAD = 1 << 16
"""How many bytes at the beginning of a file identify it."""

_BUFFER = 1 << 18  # lines are read several times faster with this buffer than with the default one

_WIDE_MARKS = (  # the mark of UTF-16 in little endian is the beginning of that of UTF-32
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of documents.

    Attributes:
        path: its path on this machine, or in its filesystem of fsspec.
        name: its name relative to the folder that was given. It stays the same when the folder is moved.
        size: its size in bytes when the files were listed.
        filesystem: the filesystem of fsspec; ``None``: a local file.
    """

    path: str
    name: str
    size: int
    filesystem: Any = field(default=None, compare=False)

    @property
    def local(self) -> bool:
        """Whether the file is on this machine."""
        return self.filesystem is None

    @property
    def shown(self) -> str:
        """Its name in messages."""
        return self.path if self.local else str(self.filesystem.unstrip_protocol(self.path))


class Place(NamedTuple):
    """The place in the files where the next document is searched: the position fields of a ``DocumentFileState``."""

    document: int
    file: int
    offset: int = 0
    skip: int = 0
    row: int = 0
    size: int = 0
    head: str = ""
    batch: int = 0


class _Remote(io.RawIOBase):
    """A file of fsspec that remembers the exception it raised: its readers replace the exception by others.

    A file that ends before its size is an error too; otherwise the rest would be lost silently.
    """

    def __init__(self, file: SourceFile) -> None:
        self._file = file
        self._raw = file.filesystem.open(file.path, "rb")
        self.failure: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n = int(self._remembering(self._raw.readinto, buffer))
        if not n and len(buffer):
            self._remembering(self._check_end)
        return n

    def readall(self) -> bytes:
        data = bytes(self._remembering(self._raw.read))
        self._remembering(self._check_end)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return int(self._remembering(self._raw.seek, offset, whence))

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()

    def _check_end(self) -> None:
        end = self._raw.tell()
        if end < self._file.size:
            raise OSError(f"{self._file.shown} has {self._file.size} bytes, and its filesystem gave {end}")

    def _remembering(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except Exception as error:
            self.failure = error
            raise


def open_file(file: SourceFile) -> io.BufferedReader:
    """Open a file at its first byte.

    Raises:
        DocumentError: its size has changed since the files were listed.
        OSError: it can't be opened.
    """
    raw: Any = io.FileIO(file.path) if file.local else _Remote(file)
    opened: io.BufferedReader = io.BufferedReader(raw, _BUFFER)
    if opened.seek(0, os.SEEK_END) != file.size:
        opened.close()
        raise _other_size(file)
    opened.seek(0)
    return opened


def failure_of(opened: io.BufferedReader | None) -> Exception | None:
    """Return the exception that a remote file raised, if any, even if a reader has replaced it."""
    raw = getattr(opened, "raw", None)
    return raw.failure if isinstance(raw, _Remote) else None


def check_size(opened: io.BufferedReader, file: SourceFile) -> None:
    """Check that a local file still has its size: reading a mapped file after its end would kill the process.

    Raises:
        DocumentError: the size has changed.
    """
    if file.local and os.fstat(opened.fileno()).st_size != file.size:
        raise _other_size(file)


def hash_head(data: bytes) -> str:
    """Return the hash of the first bytes of a file; ``data`` is its beginning."""
    return blake2b(memoryview(data)[:HEAD], digest_size=16).hexdigest()


def check_head(opened: io.BufferedReader, file: SourceFile, begin: Place) -> str:
    """Return the hash of the beginning of a file that was just opened.

    Raises:
        DocumentError: the file is not the one in which ``begin`` is a place.
    """
    head = hash_head(opened.read(HEAD))
    opened.seek(0)
    if begin.size and begin.size != file.size:
        raise refuse(file, None, f"its size is not the {begin.size} bytes that it had at the checkpoint")
    if begin.head and begin.head != head:
        raise refuse(
            file,
            None,
            "its size is that of the checkpoint, but its first bytes differ. "
            "Restore the file, or start without the checkpoint",
        )
    return head


def _other_size(file: SourceFile) -> DocumentError:
    return refuse(file, None, f"its size is not the {file.size} bytes that it had when the files were listed")


def refuse(file: SourceFile, row: int | None, reason: str) -> DocumentError:
    """Return the error for a row, or for a whole file."""
    return DocumentError(f"{name_place(file.shown, row)}: {reason}", file=file.name, row=row)


def name_wide_mark(data: bytes) -> str | None:
    """Return what is wrong with text that begins with the byte order mark of UTF-16 or UTF-32; ``None``: it does not."""
    for mark, encoding in _WIDE_MARKS:
        if data.startswith(mark):
            return (
                f"it begins with the byte order mark of {encoding}: use encoding={encoding.lower()!r} for such files, "
                "convert the file to UTF-8, or exclude it with exclude="
            )
    return None


def undecoded(file: SourceFile, row: int | None, error: UnicodeDecodeError) -> DocumentError:
    """Return the error for bytes that are not text in the encoding of the file."""
    encoding = error.encoding.upper()
    advice = "convert the file to UTF-8, exclude it with exclude=, or use encoding_errors='replace'"
    return refuse(file, row, f"not {encoding} ({error}): {advice}")


def name_place(file: str, row: int | None) -> str:
    """Return the name of a row, or of a whole file, for messages."""
    if row is None:
        return file
    line = f" (line {row + 1})" if ".jsonl" in file.lower() else ""
    return f"{file}, row {row}{line}"
