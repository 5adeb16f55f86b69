"""Which of several writes to one file was asked for last, in whatever order their threads come to the end.

A write that nobody waits for any more goes on in its thread, and its disk may hold it up until a newer one is long done.
What processes write to one file is not put in order.
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
    """The place of one write among those of this process, taken when it is first entered.

    It is entered by each that has a part in the write: by the one who asks for it, and by the thread that does it. When
    the last of them has left, it is over. To enter and to leave waits for no disk.
    """

    def __init__(self) -> None:
        self._number = 0
        self._entered = 0
        self._file: _File | None = None  # not known yet

    def __enter__(self) -> Self:
        """Take the place, or have a part in it.

        Raises:
            CheckpointError: it is over. What came later may be done and forgotten, so nothing may be written.
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
        """Say which file is written. Of its path all is resolved but the last part: a link is replaced, not followed.

        Raises:
            OSError, ValueError: the path can't be resolved.
        """
        name = os.path.normcase(os.path.join(os.path.realpath(target.parent), target.name))
        with _book.lock:
            self._file = _book.files.setdefault(name, _File())

    def replace(self, temporary: Path, target: Path) -> None:
        """Rename ``temporary`` to ``target``, or remove it if what is there was asked for later.

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
        self.lock = threading.Lock()  # held for the rename: of its own, for another file's disk may not answer
        self.newest = 0  # number of the turn whose file is there


class _Book:
    """The turns that are not over, and the files that they are about."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        # Held for no system call, as the loop waits for it too. Reentrant: a forgotten save may be collected, and its turn
        # left, at any allocation within.
        self.lock = threading.RLock()
        self.turns: set[Turn] = set()
        self.files: dict[str, _File] = {}

    def forget_files(self) -> None:
        """Drop what no turn can ask for any more. One whose file is not known yet may ask for any."""
        used = [turn._file for turn in list(self.turns)]
        if None in used:
            return
        for name, file in list(self.files.items()):
            if file not in used:
                self.files.pop(name, None)


_book = _Book()
if hasattr(os, "register_at_fork"):
    # The threads that write are not in the child, and may have held a lock.
    os.register_at_fork(after_in_child=_book.reset)
