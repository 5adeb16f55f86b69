"""asyncprefetch: an asyncio-native prefetching data loader whose checkpoints are exact."""

from asyncprefetch._registry import register
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

__version__ = "0.1.0"
