"""glibc's malloc in a worker: large arrays are not given back to the kernel at each free.

A producer that makes an array of a megabyte for each batch is up to three times faster with raised thresholds. The cost:
a worker keeps up to 256 MB of memory that it needed once. ``ProcessWorkers(malloc="default")`` leaves malloc as it is, and
so does an environment that sets the thresholds itself, by ``MALLOC_..._`` or ``GLIBC_TUNABLES``.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys

_LOG = logging.getLogger("asyncprefetch.worker")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

# The highest value that glibc takes: half of a heap of a thread's arena.
_MMAP_THRESHOLD = 32 << 20
_TRIM_THRESHOLD = 256 << 20


def raise_thresholds(setting: str) -> bool:
    """Set both thresholds for this process, unless ``setting`` is ``"default"``. Return whether they were set."""
    own = [name for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_") if name in os.environ]
    own += ["GLIBC_TUNABLES"] * ("glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""))
    if setting == "default" or own or sys.platform != "linux":
        _LOG.debug("malloc: thresholds left as they are%s", f" ({', '.join(own)})" if own else "")
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    raised = bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD))
    _LOG.debug(
        "malloc: mmap threshold %d MiB, trim threshold %d MiB%s",
        *(_MMAP_THRESHOLD >> 20, _TRIM_THRESHOLD >> 20, "" if raised else ": refused"),
    )
    return raised
