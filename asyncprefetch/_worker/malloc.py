"""Keeps glibc from giving a worker's large arrays back to the kernel at each free, to be fetched anew for the next batch.

A producer that makes an array of a megabyte a batch gains up to three times by it. What it costs: a worker keeps up to
256 MB of what it once needed. ``ASYNCPREFETCH_MALLOC=default`` in the worker's environment leaves everything as it is,
and so does whoever set the thresholds on his own, by ``MALLOC_..._`` or ``GLIBC_TUNABLES``.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys

_LOG = logging.getLogger("asyncprefetch.worker")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

# As large as glibc takes it: half of a heap of a thread's arena.
_MMAP_THRESHOLD = 32 << 20
_TRIM_THRESHOLD = 256 << 20


def raise_thresholds() -> bool:
    """Set both thresholds for this process. Gives whether they were: not where it was asked not to, nor without glibc."""
    setting = os.environ.get("ASYNCPREFETCH_MALLOC", "raised")
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
