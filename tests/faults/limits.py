"""Initializers that take something away from a worker. Workers import this module: it imports little."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def leave_little_memory(worker: int) -> None:
    """Address space for what is in use, and 100 MB more."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)
