"""The asyncio queue of a shard, and its entries: batches, the end, and errors."""

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from asyncprefetch._loop.snapshot import Ready


class Ended(NamedTuple):
    """The shard has no more batches."""

    shard: int


class Failure(NamedTuple):
    """An error, raised to the consumer when it reaches this place in the queue."""

    error: Exception


Entry = Ready | Ended | Failure


class ShardQueue(asyncio.Queue[Entry]):
    """An asyncio queue whose entries can be looked at without taking them.

    Credit bounds it, so a put never has to wait. The three methods that it overrides are those that ``asyncio.Queue``
    names as its extension points.

    Attributes:
        entries: the entries, the next one first. At most one consumer waits for an entry, in ``get()``; where entries
            are present, others may be taken from here or appended here directly.
    """

    entries: deque[Entry]

    def _init(self, maxsize: int) -> None:
        self.entries = deque()

    def _get(self) -> Entry:
        return self.entries.popleft()

    def _put(self, item: Entry) -> None:
        self.entries.append(item)

    def qsize(self) -> int:
        """The number of entries."""
        return len(self.entries)

    def empty(self) -> bool:
        """Whether there is no entry."""
        return not self.entries

    def ready(self) -> Iterator[Ready]:
        """The batches in the queue, in order of delivery."""
        return (entry for entry in self.entries if isinstance(entry, Ready))
