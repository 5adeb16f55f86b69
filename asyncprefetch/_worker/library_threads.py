"""How many threads the libraries of a worker use: those for linear algebra (BLAS), for OpenMP, and torch.

Each library starts as many threads as there are cores, in each process. Several workers would start several times as many
as the cores can run. A library that is loaded later reads its number from the environment, so a worker sets the
variables before it imports the main module. A forked worker has libraries that are loaded already: ``threadpoolctl`` sets
their numbers, if it is installed, and torch has a function for it.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from typing import Any, NamedTuple

_LOG = logging.getLogger("asyncprefetch.worker")

# What OpenBLAS, MKL, BLIS and Accelerate read. All but the last also read that of OpenMP, and so does torch.
VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class LibraryThreads(NamedTuple):
    """What a worker sets.

    Attributes:
        number: how many threads.
        forced: whether the number also replaces one that the user has set by other means.
    """

    number: int
    forced: bool


def checked_threads(threads: LibraryThreads | int | None) -> LibraryThreads | None:
    """Return what a worker sets, from the argument of an executor.

    Raises:
        ValueError: the number of threads is no int, or less than 1.
    """
    if threads is None or isinstance(threads, LibraryThreads):
        return threads
    if type(threads) is not int or threads < 1:
        raise ValueError(f"threads must be None or an int of at least 1, not {threads!r}")
    return LibraryThreads(threads, forced=True)


def set_variables(threads: LibraryThreads | None) -> LibraryThreads | None:
    """Set the number for libraries that are loaded later. Return what is to be set for the loaded ones, if anything is."""
    if threads is None:
        return None
    own = [name for name in VARIABLES if name in os.environ]
    if own and not threads.forced:
        _LOG.debug("threads of libraries: left as they are (%s)", ", ".join(own))
        return None
    _update(threads)
    return threads


def set_loaded(threads: LibraryThreads, *, forked: bool) -> None:
    """Set the number for the libraries that are loaded, after the main module was imported.

    Args:
        threads: the number.
        forked: whether the process was forked, so that libraries may have been loaded before ``set_variables``.
    """
    if threads.forced:
        _update(threads)  # the main module may have set others, for the program that trains
    # In a new interpreter they have read the variables. Another number is one that the main module has set.
    pools = _pools() if forked or threads.forced else {}
    changed = []
    for name, pool in pools.items():
        before = pool.get_num_threads()
        if before is None:  # threadpoolctl found no function for it
            continue
        if before != threads.number and (threads.forced or (threads.number < before and _is_default(before))):
            pool.set_num_threads(threads.number)
            changed.append(f"{name} had {before}")
    _LOG.debug("threads of libraries: %d%s", threads.number, f" ({', '.join(changed)})" if changed else "")


def _update(threads: LibraryThreads) -> None:
    os.environ.update(dict.fromkeys(VARIABLES, str(threads.number)))


def _pools() -> dict[str, Any]:
    """The loaded libraries by name; each has ``get_num_threads`` and ``set_num_threads``."""
    pools: dict[str, Any] = {}
    # First, because it asks OpenMP for its number, which is set below.
    torch = sys.modules.get("torch")
    if hasattr(torch, "set_num_threads") and hasattr(torch, "get_num_threads"):
        pools["torch"] = torch
    try:
        threadpoolctl = importlib.import_module("threadpoolctl")
    except ImportError:
        return pools
    try:
        with warnings.catch_warnings():
            # It warns of two OpenMP runtimes in one process. Each worker would write that to standard error.
            warnings.simplefilter("ignore")
            libraries = threadpoolctl.ThreadpoolController().lib_controllers
    except Exception:
        # A library that it can't look into costs speed, and is no reason to end the worker.
        _LOG.warning("threads of libraries: threadpoolctl failed, so the loaded libraries keep theirs", exc_info=True)
        return pools
    return pools | {library.filepath: library for library in libraries}


def _is_default(number: int) -> bool:
    """Whether a library has chosen the number itself. It takes all cores, or one of each two that share a real core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores // 2 <= number <= max(cores, os.cpu_count() or 1)
