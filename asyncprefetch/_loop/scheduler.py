"""Which shard is due, and which shard gets credit: two orders of delivery with one interface.

A shard's batches *ahead* are those that were made, or may be made with the credit given, and were not delivered. Their
sum over all shards stays at or below the prefetch number. There is one exception: a due shard with no batch ahead always
gets one credit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence


class Scheduler(ABC):
    """The order of delivery over the shards of one loader, and how credit is dealt among them. It does no I/O.

    Attributes:
        active: the shards whose end was not reached by the consumer, in order. Read only.
        due: the shard whose turn it is. Where shards take no turns, any active shard. Read only; it means nothing when
            no shard is active.
    """

    def __init__(self, shards: Sequence[int], ahead: Mapping[int, int], n_prefetch: int) -> None:
        self.active = list(shards)
        self.due = self.active[0]
        self._ahead = {shard: ahead.get(shard, 0) for shard in shards}
        self._total = sum(self._ahead.values())
        self._n_prefetch = n_prefetch
        self._enabled: set[int] = set()
        self._not_begun = set(shards)  # shards whose first worker is not up yet

    @property
    def ahead(self) -> int:
        """Batches made or granted and not delivered, over all shards."""
        return self._total

    @property
    @abstractmethod
    def is_idle(self) -> bool:
        """Whether the consumer would wait for a batch that was neither made nor granted."""

    @abstractmethod
    def delivered(self, shard: int) -> None:
        """A batch of ``shard`` went to the consumer."""

    @abstractmethod
    def dropped(self, shard: int) -> None:
        """The consumer reached the end of ``shard``."""

    @abstractmethod
    def _next_grant(self, share: int) -> int | None:
        """The shard that gets the next credit. It has fewer than ``share`` batches ahead."""

    def enable(self, shard: int) -> None:
        """The shard's worker accepts credit from now on."""
        self._enabled.add(shard)
        self._not_begun.discard(shard)

    def disable(self, shard: int, unused: int) -> None:
        """The shard's worker accepts no more credit, and ``unused`` batches of the credit that it has lapse."""
        self._enabled.discard(shard)
        self._not_begun.discard(shard)
        self._shift(shard, -unused)

    def grant(self) -> list[tuple[int, int]]:
        """Deal out all the credit that the prefetch number allows: pairs of a shard and a number of batches."""
        if len(self.active) == 1 and (room := self._n_prefetch - self._total) > 0 and self._enabled:
            (shard,) = self.active
            if shard in self._enabled:
                self._shift(shard, room)
                return [(shard, room)]
        granted: list[tuple[int, int]] = []
        # The shards of the first worker that is up must not take the credit of those whose workers still start.
        share = -(-self._n_prefetch // len(self.active)) if self._not_begun and self.active else self._n_prefetch
        while (next_shard := self._next_grant(share)) is not None:
            self._shift(next_shard, 1)
            if granted and granted[-1][0] == next_shard:
                granted[-1] = next_shard, granted[-1][1] + 1
            else:
                granted.append((next_shard, 1))
        return granted

    def _drop(self, shard: int) -> int:
        """Take the shard out of those that are active. Gives the place that it had."""
        index = self.active.index(shard)
        del self.active[index]
        self._not_begun.discard(shard)
        return index

    def _shift(self, shard: int, by: int) -> None:
        self._ahead[shard] += by
        self._total += by


class InOrder(Scheduler):
    """Shards take strict turns, and an exhausted shard drops out at its turn. Credit is dealt in the order of the turns."""

    def __init__(self, shards: Sequence[int], ahead: Mapping[int, int], n_prefetch: int, due: int) -> None:
        super().__init__(shards, ahead, n_prefetch)
        self._due_index = self.active.index(due) if due in self.active else 0
        self.due = self.active[self._due_index]

    @property
    def is_idle(self) -> bool:
        return not self._ahead[self.due]

    def delivered(self, shard: int) -> None:
        self._shift(shard, -1)
        self._due_index = (self._due_index + 1) % len(self.active)
        self.due = self.active[self._due_index]

    def dropped(self, shard: int) -> None:
        index = self._drop(shard)
        if index < self._due_index:
            self._due_index -= 1
        if self._due_index >= len(self.active):
            self._due_index = 0
        if self.active:
            self.due = self.active[self._due_index]

    def _next_grant(self, share: int) -> int | None:
        size = len(self.active)
        if not size:
            return None
        if self._total >= self._n_prefetch:
            due = self.due
            return due if due in self._enabled and self._ahead[due] == 0 else None
        best, best_rank = None, 0
        for offset in range(size):
            shard = self.active[(self._due_index + offset) % size]
            rank = offset + self._ahead[shard] * size
            if shard in self._enabled and self._ahead[shard] < share and (best is None or rank < best_rank):
                best, best_rank = shard, rank
        return best


class AsReady(Scheduler):
    """Batches come as they are ready. Credit goes to the shard with the fewest batches ahead, in turn among equals."""

    def __init__(self, shards: Sequence[int], ahead: Mapping[int, int], n_prefetch: int) -> None:
        super().__init__(shards, ahead, n_prefetch)
        self._last = len(self.active) - 1

    @property
    def is_idle(self) -> bool:
        return not self._total

    def delivered(self, shard: int) -> None:
        self._shift(shard, -1)

    def dropped(self, shard: int) -> None:
        index = self._drop(shard)
        if index <= self._last:
            self._last -= 1
        if self.active:
            self.due = self.active[0]

    def _next_grant(self, share: int) -> int | None:
        if self._total >= self._n_prefetch:
            return None
        size = len(self.active)
        best = None
        for offset in range(1, size + 1):
            index = (self._last + offset) % size
            shard = self.active[index]
            ahead = self._ahead[shard]
            if shard in self._enabled and ahead < share and (best is None or ahead < self._ahead[self.active[best]]):
                best = index
        if best is None:
            return None
        self._last = best
        return self.active[best]
