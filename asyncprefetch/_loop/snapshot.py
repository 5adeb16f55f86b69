"""All that decides the rest of a stream: a loader is started from it, and a checkpoint is made of it."""

from typing import NamedTuple

from asyncprefetch._loop.shard_queue import Ready
from asyncprefetch._wire.messages import ShardStart


class ShardSnapshot(NamedTuple):
    """One shard in a snapshot."""

    shard: int
    start: ShardStart
    ended: bool
    delivered: int


class Snapshot(NamedTuple):
    """All that decides the rest of the stream. A value: nothing that happens later changes it.

    Attributes:
        in_order: whether the shards take strict turns.
        due: the shard whose turn it is.
        shards: by global number.
        buffer: the batches that were made and not delivered, in order of delivery within each shard; over all shards where
            order is not promised.
    """

    in_order: bool
    due: int
    shards: tuple[ShardSnapshot, ...]
    buffer: tuple[Ready, ...]
