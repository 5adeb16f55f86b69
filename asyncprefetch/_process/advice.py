"""What to do where the system has too little of something: words to put behind an error."""

from __future__ import annotations

import errno

_FILES = "raise the limit of open files (ulimit -n), or use fewer workers"
_ROOM = "make room in /dev/shm, where the semaphores of multiprocessing lie, or mount a larger one"
_MEMORY = (
    "raise the limit of memory (ulimit -v and -d, or the container's), or use smaller batches, fewer workers or a smaller "
    "n_batches_to_prefetch"
)
_THREADS = "raise the limits of processes and memory (ulimit -u, -v and -d, or the container's), or use fewer workers"

_BY_NUMBER = {
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENOSPC: _ROOM,
    errno.ENOMEM: _MEMORY,
    errno.EAGAIN: _THREADS,
}


def advice(error: BaseException) -> str:
    """What to say behind ``error``; nothing, where there is nothing to do about it."""
    try:
        text = _advice(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # of the user's class, which may raise at whatever it is asked
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
    """What to say of a ``MemoryError`` that is known by its name only."""
    return f" ({_MEMORY})"
