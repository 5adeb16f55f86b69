"""What lies between the receivers and the consumer: batches, ends and errors, in asyncio queues."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import JsonValue

from asyncprefetch import _items, _pickling


class Payload(Protocol):
    """A batch that nobody can change: each ``open()`` gives a new item."""

    @property
    def size(self) -> int:
        """About how many bytes have to be copied to open it."""

    def open(self) -> Any:
        """The item, on memory of its own."""


@dataclass(frozen=True, slots=True)
class Framed:
    """A batch as it came from a worker."""

    frame: bytes

    @property
    def size(self) -> int:
        return len(self.frame)

    def open(self) -> Any:
        return _pickling.loads(self.frame)


@dataclass(frozen=True, slots=True)
class Saved:
    """A batch as a checkpoint holds it."""

    structure: JsonValue
    leaves: tuple[bytes, ...]  # of the whole state: the structure names its own
    size: int

    def open(self) -> Any:
        return _items.decode(self.structure, self.leaves)


@dataclass(frozen=True, slots=True)
class Ready:
    """A batch that waits for delivery."""

    shard: int
    payload: Payload


@dataclass(frozen=True, slots=True)
class Ended:
    """The shard has no more batches."""

    shard: int


@dataclass(frozen=True, slots=True)
class Failure:
    """What is raised to the consumer when it comes to this place."""

    error: Exception


Entry = Ready | Ended | Failure


class Lane(asyncio.Queue[Entry]):
    """An asyncio queue that lets a snapshot look without taking, and the consumer put back what it could not use.

    Its bound is the credit that was given: putting never has to wait. It overrides the three methods that
    ``asyncio.Queue`` provides for this.
    """

    _entries: deque[Entry]

    def _init(self, maxsize: int) -> None:
        self._entries = deque()

    def _get(self) -> Entry:
        return self._entries.popleft()

    def qsize(self) -> int:
        """Entries in the lane."""
        return len(self._entries)

    def empty(self) -> bool:
        """Whether there is none."""
        return not self._entries

    def _put(self, item: Entry) -> None:
        self._entries.append(item)

    @property
    def head(self) -> Entry | None:
        """What the next get will give."""
        return self._entries[0] if self._entries else None

    def put_back(self, entry: Entry) -> None:
        """Undo the last get."""
        self._entries.appendleft(entry)

    def ready(self) -> Iterator[Ready]:
        """The batches in the lane, first to be delivered first."""
        return (entry for entry in self._entries if isinstance(entry, Ready))

    def clear(self) -> None:
        """Forget everything in the lane."""
        self._entries.clear()
