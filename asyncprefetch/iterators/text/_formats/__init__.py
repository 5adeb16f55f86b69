"""The file formats: one module for each, with one function ``read``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from asyncprefetch.iterators._document_error import DocumentError
from asyncprefetch.iterators._extras import require
from asyncprefetch.iterators.text._document import Document, Wanted
from asyncprefetch.iterators.text._files import Place, SourceFile
from asyncprefetch.iterators.text._formats import arrow, jsonl, parquet, text


class Read(Protocol):
    """Reads a file from a place in it."""

    def __call__(
        self, file: SourceFile, begin: Place, wanted: Wanted, /
    ) -> Iterator[tuple[Place, Document | DocumentError | None]]:
        """Yield each document of our shard, or the error for it, together with the place after it.

        The last pair is the first place of the next file, and ``None``. Its number of documents only depends on the file,
        not on ``begin`` and the shard: all shards must agree on it.

        Raises:
            DocumentError: the file has changed. Errors that are yielded may be skipped; errors that are raised never are,
                because then the stream would not be exact.
            OSError: the file can't be opened or read.
        """


@dataclass(frozen=True, slots=True)
class Format:
    """How files with one suffix are read."""

    read: Read
    package: str | None = None


_FORMATS = {
    ".arrow": Format(arrow.read, "pyarrow"),
    ".jsonl": Format(jsonl.read),
    ".jsonl.gz": Format(jsonl.read),
    ".jsonl.zst": Format(jsonl.read, "zstandard"),
    ".md": Format(text.read),
    ".parquet": Format(parquet.read, "pyarrow"),
    ".py": Format(text.read),
    ".txt": Format(text.read),
}

SUFFIXES = tuple(_FORMATS)
"""The suffixes of files that are taken from folders and globs."""


def is_known(name: str) -> bool:
    """Return whether there is a format for files with this name."""
    return name.lower().endswith(SUFFIXES)


def reader_of(name: str) -> Read:
    """Return the function that reads a file with a known name."""
    return _FORMATS[_suffix(name)].read


def require_packages(names: Iterable[str]) -> None:
    """Check that the packages that files with these names need are installed.

    Raises:
        ModuleNotFoundError: an optional package is missing; the message names the extra.
    """
    for suffix in sorted(set(map(_suffix, names))):
        package = _FORMATS[suffix].package
        if package is not None:
            require(package, "files", f"reading {suffix} files")


def _suffix(name: str) -> str:
    return next(suffix for suffix in SUFFIXES if name.lower().endswith(suffix))
