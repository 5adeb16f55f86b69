"""What lies between the receivers and the consumer: batches, ends and errors, in asyncio queues."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from asyncprefetch._wire.payloads import Payload


class Ready(NamedTuple):
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


class ShardQueue(asyncio.Queue[Entry]):
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

    def add(self, entry: Entry) -> None:
        """Put, at a fraction of the cost where others are waiting already: there is one getter at most."""
        if self._entries:
            self._entries.append(entry)
        else:
            self.put_nowait(entry)

    def take(self) -> Entry:
        """Get what is there, at a fraction of the cost: nobody waits for room or for the queue to be worked off."""
        return self._entries.popleft()

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
