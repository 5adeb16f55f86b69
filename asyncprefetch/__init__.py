"""asyncprefetch: an asyncio-native prefetching data loader with exact checkpoints.

The folder says which process the code runs in. The way of a batch, which is also the order in which to read them:

- ``iterators``: stateful, synchronous iterators. They run inside a worker.
- ``_worker``: what runs in a worker process. It draws an item when there is credit for it, pickles it at once, and sends it.
- ``_wire``: what crosses between the processes, and how: messages, records, items, shared memory.
- ``_loop``: what runs on the event loop. It gives credit, receives items, queues them, and delivers them in order.
- ``_process``: how a worker process is started and ended.
- ``_checkpoint``: a loader's state as data and as a file. ``_codec`` turns values into data and back.

``prefetcher`` holds the loader and its state as users see them. The public names are loaded when they are first used, so
that a worker process does not import what only the event loop needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncprefetch._codec.registry import register
    from asyncprefetch._process.process_workers import ProcessWorkers
    from asyncprefetch.arrays import empty, full, zeros
    from asyncprefetch.base import IteratorState, Position, StatefulIterator
    from asyncprefetch.batch import Batch
    from asyncprefetch.errors import (
        AsyncPrefetchError,
        CheckpointError,
        CheckpointWarning,
        EventLoopError,
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
    "EventLoopError",
    "IteratorState",
    "Position",
    "PrefetcherBusyError",
    "PrefetcherClosedError",
    "ProcessWorkers",
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

_MODULES = {
    "_codec.registry": ["register"],
    "_process.process_workers": ["ProcessWorkers"],
    "arrays": ["empty", "full", "zeros"],
    "base": ["IteratorState", "Position", "StatefulIterator"],
    "batch": ["Batch"],
    "errors": [name for name in __all__ if name.endswith(("Error", "Warning"))],
    "prefetcher": ["AsyncPrefetcher", "AsyncPrefetcherState"],
    "statistics": ["Statistics"],
}
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}
_SUBMODULES = ("arrays", "base", "batch", "errors", "executors", "iterators", "prefetcher", "statistics", "testing")


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES, "__version__"])
