"""Checks of the process's limits before something is started, where a failure later would do harm; and advice for errors."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys

if sys.platform != "win32":
    import resource

# So many descriptors the start of a process takes for a moment, that of the fork server included.
_DESCRIPTORS = 20

# What a thread takes at once; and what glibc reserves of the address space for what it allocates (an "arena"), if it can.
_OWN = 2 << 20
_ARENA = 64 << 20


def _stack_size() -> int:
    # As the C library reads it when the program begins. To ask threading for another size would set it.
    size = resource.getrlimit(resource.RLIMIT_STACK)[0]
    return 8 << 20 if size == resource.RLIM_INFINITY else min(size, 1 << 40)


def usable_cores() -> int:
    """How many cores this process may use at a time."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_STACK = _stack_size() if sys.platform != "win32" else 0


def check_threads(count: int = 1) -> None:
    """Check that so many threads can begin.

    ``Thread.start`` waits until the new thread has begun: forever, if that lacks the memory for its first steps (CPython's
    issue 140746). That can be only where the process has a limit of memory; elsewhere this costs two system calls.

    Raises:
        RuntimeError: too little memory is left; the text is that of ``Thread.start``.
    """
    if sys.platform == "win32":
        return
    limits = (resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    if all(limit == resource.RLIM_INFINITY for limit in limits):
        return
    # An arena that can't be had is no harm, and one that leaves nothing is.
    if _is_left(count * (_STACK + _OWN), count * _ARENA):
        return
    if _is_left(count * (_STACK + _OWN)) and not _is_left(_STACK, _ARENA):
        return
    size = count * (_STACK + _OWN + _ARENA) >> 20
    raise RuntimeError(f"can't start new thread: less than {size} MiB of memory are left")


def _is_left(used: int, reserved: int = 0) -> bool:
    """Whether so many bytes of memory can be had, and so many of address space in addition."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    try:
        with mmap.mmap(-1, used, flags):
            if reserved:
                mmap.mmap(-1, reserved, flags, prot=0).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def check_descriptors() -> None:
    """Check that there are enough to start a process: the fork server ends if a start finds none, and so do its workers.

    Raises:
        OSError: there are too few.
    """
    with contextlib.ExitStack() as taken:
        for _ in range(_DESCRIPTORS // 2):
            for end in os.pipe():
                taken.callback(os.close, end)


# What to do where the system has too little of something: words for the end of an error.
_FILES = "raise the limit of open files (ulimit -n), or use fewer workers"
_MEMORY = (
    "raise the limit of memory (ulimit -v and -d, or the container's), or use smaller batches, fewer workers or a smaller "
    "n_batches_to_prefetch"
)
_THREADS = "raise the limits of processes and memory (ulimit -u, -v and -d, or the container's), or use fewer workers"

# What to say of a worker that died before its first message.
NO_HELLO = (
    "It died before it could say hello. If this is a script, start the loader under `if __name__ == '__main__':`, since "
    "workers import the script; a program typed at a prompt or read from standard input must live in a file. Otherwise "
    "see what the worker wrote to standard error"
)

_BY_NUMBER = {
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENOMEM: _MEMORY,
    errno.EAGAIN: _THREADS,
}


def advice(error: BaseException) -> str:
    """Advice to add to ``error``; empty if there is none."""
    try:
        text = _advice(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # any method of the user's class may raise
        text = ""
    return f" ({text})" if text else ""


def _advice(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return _MEMORY
    if isinstance(error, OSError):
        return _BY_NUMBER.get(error.errno or 0, "")
    # Python has no class of its own for it.
    return _THREADS if isinstance(error, RuntimeError) and "can't start new thread" in str(error) else ""


def memory_advice() -> str:
    """Advice for a ``MemoryError`` that is known by its name only."""
    return f" ({_MEMORY})"
