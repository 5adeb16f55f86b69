"""asyncprefetch: an asyncio-native prefetching data loader whose checkpoints are exact.

The way of a batch, which is also the order in which to read the modules:

``iterators`` (stateful, synchronous; run inside a worker) -> ``_producer`` (draws an item when there is credit for it)
-> ``_pickling`` (pickles it at once) -> ``transports`` (bring it to the loop: ``stream`` over a socket and shared memory,
``pull`` over any executor) -> ``_receiver`` (keeps what is known of its shard, and puts it into an asyncio queue)
-> ``_delivery`` (delivers in the order of ``_scheduler``) -> ``prefetcher`` (the loader and its state, for users)
-> ``checkpoint`` (the state as a file). ``_core`` ties them together.
"""

from asyncprefetch._codec.registry import register
from asyncprefetch.arrays import empty, full, zeros
from asyncprefetch.base import IteratorState, Position, StatefulIterator
from asyncprefetch.batch import Batch
from asyncprefetch.errors import (
    AsyncPrefetchError,
    CheckpointError,
    CheckpointWarning,
    PrefetcherBusyError,
    PrefetcherClosedError,
    ProducerError,
    ProducerStalledError,
    WorkerDiedError,
)
from asyncprefetch.prefetcher import AsyncPrefetcher, AsyncPrefetcherState
from asyncprefetch.statistics import Statistics

__all__ = [
    "AsyncPrefetchError",
    "AsyncPrefetcher",
    "AsyncPrefetcherState",
    "Batch",
    "CheckpointError",
    "CheckpointWarning",
    "IteratorState",
    "Position",
    "PrefetcherBusyError",
    "PrefetcherClosedError",
    "ProducerError",
    "ProducerStalledError",
    "StatefulIterator",
    "Statistics",
    "WorkerDiedError",
    "empty",
    "full",
    "register",
    "zeros",
]

__version__ = "0.1.0"
