"""The shards that one worker hosts, and which of them still need it."""

from __future__ import annotations

from collections.abc import Mapping

from asyncprefetch._loop.ledger import Ledger
from asyncprefetch._loop.retries import Retries
from asyncprefetch._wire.messages import ShardStart


class HostedShards:
    """What is known of the shards of one worker.

    Args:
        ledgers: the ledger of each shard, by its global number.
        retries: the shards that failed and are drawn again after a pause.
    """

    def __init__(self, ledgers: Mapping[int, Ledger], retries: Retries) -> None:
        self.ledgers = ledgers
        self.retries = retries
        self._failed_shards: set[int] = set()

    @property
    def ready(self) -> list[int]:
        """The shards that a run can serve now: not at their end, not failed, not pausing before a retry."""
        idle = self._failed_shards | self.retries.resting
        return [shard for shard, ledger in self.ledgers.items() if not ledger.ended and shard not in idle]

    @property
    def need_worker(self) -> bool:
        """Whether any shard can be served now, or after its pause."""
        return bool(self.ready or self.retries.resting)

    def starts(self) -> dict[int, ShardStart]:
        """Where the shards that a run can serve now begin in it."""
        return {shard: self.ledgers[shard].start() for shard in self.ready}

    def failed(self, shard: int) -> None:
        """The shard sends nothing more: its error was queued for the consumer."""
        self._failed_shards.add(shard)

    def give_up(self) -> list[int]:
        """Mark every shard that is not at its end as failed. Gives those that were not marked before."""
        given_up = [
            shard for shard, ledger in self.ledgers.items() if not ledger.ended and shard not in self._failed_shards
        ]
        self._failed_shards.update(given_up)
        return given_up
