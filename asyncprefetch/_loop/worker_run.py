"""One run of a worker, and the credit that its shards have in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from asyncprefetch._loop.ledger import Ledger
from asyncprefetch._loop.scheduler import Scheduler
from asyncprefetch._wire.messages import Credit, ShardStart


class Run:
    """The shards of one run that can still send items, and up to which position each may send.

    Args:
        number: of the run. Messages of other runs are dropped by it.
        starts: where each shard begins.
        ledgers: what is known of each shard.
        scheduler: learns which shards accept credit, and how much of it lapses.
    """

    def __init__(
        self, number: int, starts: Mapping[int, ShardStart], ledgers: Mapping[int, Ledger], scheduler: Scheduler
    ) -> None:
        self.number = number
        self._upto = {shard: start.position for shard, start in starts.items()}
        self._ledgers = ledgers
        self._scheduler = scheduler

    @property
    def shards(self) -> Collection[int]:
        """The shards that have not ended or failed in this run."""
        return self._upto.keys()

    @property
    def owes(self) -> bool:
        """Whether credit was given that is not used up. A worker without credit is not stalled."""
        return any(upto > self._ledgers[shard].position for shard, upto in self._upto.items())

    def accept_credit(self) -> None:
        """The worker is ready: its shards may be given credit."""
        for shard in self._upto:
            self._scheduler.enable(shard)

    def refuse_credit(self) -> None:
        """The worker was asked to stop: it uses what it has, or lets it lapse, and gets no more."""
        for shard in self._upto:
            self._scheduler.disable(shard, 0)

    def give(self, shard: int, batches: int) -> Credit:
        """The message that lets the shard send so many batches more."""
        self._upto[shard] += batches
        return Credit(self.number, shard, self._upto[shard])

    def end_shard(self, shard: int) -> None:
        """The shard sends nothing more in this run. Its unused credit lapses."""
        upto = self._upto.pop(shard)
        self._scheduler.disable(shard, upto - self._ledgers[shard].position)

    def end(self) -> None:
        """The run is over, or its worker is gone."""
        for shard in list(self._upto):
            self.end_shard(shard)
