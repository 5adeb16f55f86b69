"""Whether the process's limits leave room for what is about to be started, where to find out later would be too late."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import threading
from pathlib import Path

if sys.platform != "win32":
    import resource

# Of a thread: its stack where no limit says how large that is, the address space that glibc reserves for what it
# allocates (an "arena"), and what it takes at once.
_STACK = 8 << 20
_ARENA = 64 << 20
_OWN = 2 << 20

# So many descriptors the start of a process takes for a moment, that of the fork server included.
_DESCRIPTORS = 20


def check_threads(count: int = 1) -> None:
    """See that so many threads can begin.

    ``Thread.start`` waits until the new thread has begun: for ever, if that lacks the memory for its first steps (CPython's
    issue 140746). That can be only where the process has a limit of memory; elsewhere this costs two system calls.

    Raises:
        RuntimeError: as from ``Thread.start`` where it can tell.
    """
    if sys.platform == "win32":
        return
    if (
        resource.RLIM_INFINITY
        == resource.getrlimit(resource.RLIMIT_AS)[0]
        == resource.getrlimit(resource.RLIMIT_DATA)[0]
    ):
        return
    size = count * (_stack_size() + _ARENA + _OWN)
    try:
        mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)).close()
    except OSError:
        raise RuntimeError(f"can't start new thread: less than {size >> 20} MiB of memory are left") from None


def _stack_size() -> int:
    size = threading.stack_size() or resource.getrlimit(resource.RLIMIT_STACK)[0]
    return _STACK if size == resource.RLIM_INFINITY else size


def address_space_left() -> int | None:
    """Bytes; ``None`` where there is no limit (RLIMIT_AS)."""
    if sys.platform != "linux":
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    return max(limit - used, 0)


def check_descriptors() -> None:
    """See that there are enough to start a process: without one in its midst, the fork server ends, and all it serves.

    Raises:
        OSError: there are too few.
    """
    with contextlib.ExitStack() as taken:
        for _ in range(_DESCRIPTORS // 2):
            for end in os.pipe():
                taken.callback(os.close, end)
