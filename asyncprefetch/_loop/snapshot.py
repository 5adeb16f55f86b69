"""All that decides the rest of a stream: a loader is started from it, and a checkpoint is made of it."""

from typing import NamedTuple

from asyncprefetch._wire.messages import ShardStart
from asyncprefetch._wire.payloads import Payload


class Ready(NamedTuple):
    """A batch that was made and not delivered."""

    shard: int
    payload: Payload


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
        shards: the snapshot of each shard.
        buffer: the batches that were made and not delivered, in order of delivery within each shard; over all shards where
            order is not promised.
    """

    in_order: bool
    due: int
    shards: tuple[ShardSnapshot, ...]
    buffer: tuple[Ready, ...]
