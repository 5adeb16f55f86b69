"""What a loader is started from and what a checkpoint takes of it: one value for both."""

from __future__ import annotations

from dataclasses import dataclass

from asyncprefetch._loop.shard_queue import Ready
from asyncprefetch._wire.messages import ShardStart


@dataclass(frozen=True, slots=True)
class ShardSnapshot:
    """One shard in a snapshot."""

    shard: int
    start: ShardStart
    ended: bool
    delivered: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that decides the rest of the stream. A value: nothing that happens later changes it.

    ``buffer`` is in order of delivery within each shard, and over all shards where order is not promised.
    """

    in_order: bool
    due: int
    shards: tuple[ShardSnapshot, ...]
    buffer: tuple[Ready, ...]
