"""Keeps the file that was asked for last, if several writes to one path end in another order.

A cancelled write goes on in its thread, and a slow disk may hold it up until a newer write is long done. Writes of
different processes to one file are not ordered.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from asyncprefetch.errors import CheckpointError

_numbers = itertools.count(1)


class Turn:
    """The place of one write among the writes of this process. It is taken when the turn is first entered.

    The task that asks for the write enters it, and so does the thread that writes. When the last of them has left, the turn
    is over. Neither entering nor leaving waits for a disk.
    """

    def __init__(self) -> None:
        self._number = 0
        self._entered = 0
        self._file: _File | None = None  # not known yet

    def __enter__(self) -> Self:
        """Take the place, or join the turn.

        Raises:
            CheckpointError: the turn is over. A later write may be done and forgotten, so nothing may be written.
        """
        with _book.lock:
            if not self._number:
                self._number = next(_numbers)
                _book.turns.add(self)
            elif not self._entered:
                raise CheckpointError("the write was cancelled before it began")
            self._entered += 1
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        with _book.lock:
            self._entered -= 1
            if not self._entered:
                _book.turns.discard(self)
                _book.forget_files()

    def at(self, target: Path) -> None:
        """Set the file that is written. All of its path is resolved but the last part: a link is replaced, not followed.

        Raises:
            OSError, ValueError: the path can't be resolved.
        """
        name = os.path.normcase(os.path.join(os.path.realpath(target.parent), target.name))
        with _book.lock:
            self._file = _book.files.setdefault(name, _File())

    def replace(self, temporary: Path, target: Path) -> None:
        """Rename ``temporary`` to ``target``, or remove it if the file at ``target`` was asked for later.

        Raises:
            OSError: it can't be renamed.
        """
        assert self._file is not None
        with self._file.lock:
            if self._file.newest <= self._number:
                os.replace(temporary, target)
                self._file.newest = self._number
                return
        with contextlib.suppress(OSError):
            os.unlink(temporary)


class _File:
    def __init__(self) -> None:
        self.lock = (
            threading.Lock()
        )  # held for the rename; one for each file, because the disk of another file may not respond
        self.newest = 0  # number of the turn that wrote the file


class _Book:
    """The turns that are not over, and their files."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        # Not held during system calls, since the loop waits for it too. Reentrant: a forgotten save may be collected, and
        # its turn left, at any allocation while it is held.
        self.lock = threading.RLock()
        self.turns: set[Turn] = set()
        self.files: dict[str, _File] = {}

    def forget_files(self) -> None:
        """Drop the files that no turn uses. A turn whose file is not known yet may use any."""
        used = [turn._file for turn in list(self.turns)]
        if None in used:
            return
        for name, file in list(self.files.items()):
            if file not in used:
                self.files.pop(name, None)


_book = _Book()
if hasattr(os, "register_at_fork"):
    # The writing threads do not exist in the child, and may have held a lock.
    os.register_at_fork(after_in_child=_book.reset)
