"""Memory limits relative to the memory in use. Workers and small programs import this module, so it imports little."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator

_USED = {resource.RLIMIT_AS: "VmSize:", resource.RLIMIT_DATA: "VmData:"}


def leave_memory(megabytes: float, kind: int = resource.RLIMIT_AS) -> None:
    """Limit this process and each process that it starts to a given amount of memory beyond its present use."""
    with open("/proc/self/status") as status:
        [used] = [int(line.split()[1]) << 10 for line in status if line.startswith(_USED[kind])]
    resource.setrlimit(kind, (used + int(megabytes * (1 << 20)), resource.getrlimit(kind)[1]))


def leave_little_memory(worker: int) -> None:
    """Limit a worker to 100 MB beyond its use at the start. This is an initializer."""
    leave_memory(100)


@contextlib.contextmanager
def memory_left(megabytes: float) -> Iterator[None]:
    """Limit this process within a block to a given amount of memory beyond its present use."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    leave_memory(megabytes)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
