"""Where batches come from: one module a contender, all with the same interface.

``stream(source, prefetch)`` is a context manager, synchronous or not, that gives an iterator of the same kind over the
batches of ``source``; what was started ends with it, or with the process. A module imports its library at its top, so
it is imported only where its contender is measured.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.batches import Batch
from tests.benchmarks.workloads import FilledState

Stream = AbstractContextManager[Iterator[Batch]] | AbstractAsyncContextManager[AsyncIterator[Batch]]


@dataclass(frozen=True)
class Peer:
    """A contender.

    Attributes:
        title: as the table names it.
        module: in this package.
        packages: what it imports, by the names under which pip installs them, which here are also those of the modules.
    """

    title: str
    module: str
    packages: tuple[str, ...] = ()


PEERS = {
    "bare": Peer("bare for, same process", "bare"),
    "warm": Peer("filling warm arrays", "warm"),
    "manager": Peer("Manager queue", "manager_queue"),
    "torch": Peer("torch DataLoader", "torch_dataloader", ("torch",)),
    "torchdata": Peer("torchdata StatefulDataLoader", "stateful_dataloader", ("torchdata", "torch")),
    "nodes": Peer("torchdata.nodes Prefetcher (a thread)", "nodes_prefetcher", ("torchdata", "torch")),
    "nodes-process": Peer("torchdata.nodes, 1 process", "nodes_process", ("torchdata", "torch")),
    "grain": Peer("grain mp_prefetch", "grain_prefetch", ("grain",)),
    "spdl": Peer("spdl", "spdl_subprocess", ("spdl",)),
    "spdl-pool": Peer("spdl + segment pool", "spdl_pool", ("spdl",)),
    "asyncprefetch": Peer("asyncprefetch", "ours"),
}


def open_stream(peer: str, source: FilledState, prefetch: int, **options: Any) -> Stream:
    """Import a contender, and have it stream."""
    module = importlib.import_module(f"{__name__}.{PEERS[peer].module}")
    stream: Stream = module.stream(source, prefetch, **options)
    return stream
