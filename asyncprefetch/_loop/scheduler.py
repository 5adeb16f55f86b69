"""Which shard is due, and who gets credit: two orders behind one interface.

*Ahead* of a shard are its batches that are made, or may be made by credit given, and are not delivered. The sum over
all shards stays at or below the prefetch number; only a due shard that has nothing ahead is given one credit more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence


class Scheduler(ABC):
    """The order of delivery and the dealing of credit over the shards of one loader."""

    def __init__(self, shards: Sequence[int], ahead: Mapping[int, int], n_prefetch: int) -> None:
        self._order = list(shards)
        self._ahead = {shard: ahead.get(shard, 0) for shard in shards}
        self._total = sum(self._ahead.values())
        self._n_prefetch = n_prefetch
        self._open: set[int] = set()

    @property
    def active(self) -> Sequence[int]:
        """The shards whose end was not delivered yet, in order."""
        return self._order

    @property
    def ahead(self) -> int:
        """Batches made or granted and not delivered, over all shards."""
        return self._total

    @property
    @abstractmethod
    def due(self) -> int:
        """The shard whose turn it is; where any will do, one of them."""

    @abstractmethod
    def delivered(self, shard: int) -> None:
        """A batch of ``shard`` went to the consumer."""

    @abstractmethod
    def dropped(self, shard: int) -> None:
        """The consumer came to the end of ``shard``."""

    @abstractmethod
    def _next_grant(self) -> int | None: ...

    def open(self, shard: int) -> None:
        """The shard can use credit from now on."""
        self._open.add(shard)

    def close(self, shard: int, unused: int) -> None:
        """The shard can use no credit any more, and gives ``unused`` batches of it back."""
        self._open.discard(shard)
        self._shift(shard, -unused)

    def grant(self) -> list[int]:
        """Deal out all the credit that may be: a list of shards, one batch for each mention."""
        if len(self._order) == 1 and (room := self._n_prefetch - self._total) > 0 and self._open:
            (shard,) = self._order
            if shard in self._open:
                self._shift(shard, room)
                return [shard] * room
        granted: list[int] = []
        while (next_shard := self._next_grant()) is not None:
            self._shift(next_shard, 1)
            granted.append(next_shard)
        return granted

    def _shift(self, shard: int, by: int) -> None:
        self._ahead[shard] += by
        self._total += by


class InOrder(Scheduler):
    """Strict turns; an exhausted shard drops out at its turn. Credit is dealt as batches fall due."""

    def __init__(self, shards: Sequence[int], ahead: Mapping[int, int], n_prefetch: int, due: int) -> None:
        super().__init__(shards, ahead, n_prefetch)
        self._turn = self._order.index(due) if due in self._order else 0

    @property
    def due(self) -> int:
        return self._order[self._turn]

    def delivered(self, shard: int) -> None:
        self._shift(shard, -1)
        self._turn = (self._turn + 1) % len(self._order)

    def dropped(self, shard: int) -> None:
        index = self._order.index(shard)
        del self._order[index]
        if index < self._turn:
            self._turn -= 1
        if self._turn >= len(self._order):
            self._turn = 0

    def _next_grant(self) -> int | None:
        size = len(self._order)
        if not size:
            return None
        if self._total >= self._n_prefetch:
            due = self.due
            return due if due in self._open and self._ahead[due] == 0 else None
        best, best_rank = None, 0
        for offset in range(size):
            shard = self._order[(self._turn + offset) % size]
            rank = offset + self._ahead[shard] * size
            if shard in self._open and (best is None or rank < best_rank):
                best, best_rank = shard, rank
        return best


class AsReady(Scheduler):
    """Batches come as they are ready. Credit is dealt evenly: to whoever has least ahead, in turn among equals."""

    def __init__(self, shards: Sequence[int], ahead: Mapping[int, int], n_prefetch: int) -> None:
        super().__init__(shards, ahead, n_prefetch)
        self._last = len(self._order) - 1

    @property
    def due(self) -> int:
        return self._order[0]

    def delivered(self, shard: int) -> None:
        self._shift(shard, -1)

    def dropped(self, shard: int) -> None:
        index = self._order.index(shard)
        del self._order[index]
        if index <= self._last:
            self._last -= 1

    def _next_grant(self) -> int | None:
        if self._total >= self._n_prefetch:
            return None
        size = len(self._order)
        best = None
        for offset in range(1, size + 1):
            index = (self._last + offset) % size
            shard = self._order[index]
            if shard in self._open and (best is None or self._ahead[shard] < self._ahead[self._order[best]]):
                best = index
        if best is None:
            return None
        self._last = best
        return self._order[best]
