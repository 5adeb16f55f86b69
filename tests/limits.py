"""Limits of memory, from what is in use. Workers and small programs import this module: it imports little."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator

_USED = {resource.RLIMIT_AS: "VmSize:", resource.RLIMIT_DATA: "VmData:"}


def leave_memory(megabytes: float, kind: int = resource.RLIMIT_AS) -> None:
    """Let this process, and each that it starts, have so much more than this one has now."""
    with open("/proc/self/status") as status:
        [used] = [int(line.split()[1]) << 10 for line in status if line.startswith(_USED[kind])]
    resource.setrlimit(kind, (used + int(megabytes * (1 << 20)), resource.getrlimit(kind)[1]))


def leave_little_memory(worker: int) -> None:
    """As the initializer of a worker: 100 MB more."""
    leave_memory(100)


@contextlib.contextmanager
def memory_left(megabytes: float) -> Iterator[None]:
    """Leave so much within a block."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    leave_memory(megabytes)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
