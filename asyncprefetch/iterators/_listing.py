"""Which files a user means by a path, a folder or a glob, in a fixed order, and what to call them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import blake2b
from pathlib import Path

SUFFIXES = (".jsonl", ".md", ".py", ".txt")
"""The files that are taken from folders and globs."""


class DocumentError(ValueError):
    """A document can't be read: a file is missing, has changed, or holds what it must not.

    Attributes:
        file: the file's name in the listing, or the path that was given; empty if the error is about no single one.
        row: the line of a ``.jsonl`` file, counted from 0; ``None`` if the error is about a file as a whole.
    """

    def __init__(self, message: str, *, file: str = "", row: int | None = None) -> None:
        super().__init__(message)
        self.file = file
        self.row = row


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of documents: where it lies, what it is called in every place where its folder may lie, its bytes."""

    path: str
    name: str
    size: int


def list_files(paths: Sequence[str], exclude: Sequence[str]) -> list[SourceFile]:
    """The files that ``paths`` mean, each once, sorted by name.

    A name is relative to the one folder that holds all that was given, and has slashes on every system.

    Raises:
        DocumentError: one of ``paths`` doesn't exist, or means no file of a known suffix.
    """
    roots: dict[str, list[str]] = {}
    for given in paths:
        root, names = _expand(given, exclude)
        if not names:
            raise DocumentError(f"{given!r} holds no file ({', '.join(SUFFIXES)}) that is not excluded", file=given)
        roots.setdefault(os.path.abspath(root), []).extend(names)
    base = os.path.commonpath(roots)
    found: dict[str, SourceFile] = {}
    for root, names in roots.items():
        prefix = "" if root == base else os.path.relpath(root, base).replace(os.sep, "/") + "/"
        for name in names:
            found[prefix + name] = SourceFile(path := os.path.join(root, name), prefix + name, os.path.getsize(path))
    return [found[name] for name in sorted(found)]


def describe(files: Sequence[SourceFile]) -> str:
    """A listing in one line: the number of files, their bytes, and a digest of all names and sizes."""
    digest = blake2b(digest_size=16)
    for file in files:
        digest.update(f"{file.name}\0{file.size}\0".encode("utf-8", "surrogateescape"))
    return f"{len(files)} files, {sum(file.size for file in files)} bytes, digest {digest.hexdigest()}"


def _expand(given: str, exclude: Sequence[str]) -> tuple[str, list[str]]:
    """The folder to which names are relative, and the names, with slashes, of its files that are not excluded."""
    if os.path.isdir(given):
        return given, [name for name in _walk(given, exclude) if _known(name)]
    if os.path.isfile(given):
        if not _known(given):
            raise DocumentError(f"{given!r} is not one of {', '.join(SUFFIXES)}", file=given)
        root, matches = os.path.dirname(given), [given]
    else:
        parts = Path(given).parts
        fixed = next((i for i, part in enumerate(parts) if any(c in part for c in "*?[")), None)
        if fixed is None:
            raise DocumentError(f"{given!r} does not exist", file=given)
        root = str(Path(*parts[:fixed]))
        matches = [path for path in glob.iglob(given, recursive=True) if _known(path) and os.path.isfile(path)]
    names = (Path(path).relative_to(root) for path in matches)
    return root, [name.as_posix() for name in names if not any(_excluded(part, exclude) for part in name.parts)]


def _walk(folder: str, exclude: Sequence[str], prefix: str = "") -> Iterator[str]:
    # As in a glob, names that begin with a dot (.git, .venv) are left out, and linked folders are not entered.
    with os.scandir(folder) as entries:
        kept = [entry for entry in entries if not entry.name.startswith(".") and not _excluded(entry.name, exclude)]
    for entry in kept:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, exclude, f"{prefix}{entry.name}/")
        elif entry.is_file():
            yield prefix + entry.name


def _known(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _excluded(name: str, exclude: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in exclude)
