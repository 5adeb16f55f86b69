"""Refuses to copy an object that holds something that runs, a worker process for example.

A shallow copy would share the process with the original, and the first of the two that is dropped would end it. A deep copy
would start processes that no other code knows.
"""

from __future__ import annotations

from typing import ClassVar, NoReturn


class NotCopied:
    """A base class. ``copy.copy``, ``copy.deepcopy`` and ``pickle`` raise a ``TypeError`` for its objects."""

    _instead_of_a_copy: ClassVar[str] = "make a second one where you need it"

    def __reduce__(self) -> NoReturn:  # copy and pickle both call it
        raise TypeError(f"{self!r} can't be copied or pickled, because it owns what it runs: {self._instead_of_a_copy}")
