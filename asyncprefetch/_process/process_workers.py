"""How a loader's worker processes are started and set up, as one value."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from asyncprefetch._process.limits import usable_cores
from asyncprefetch._worker.library_threads import LibraryThreads


def default_start_method() -> str:
    """``"forkserver"`` where there is one, else ``"spawn"``: neither copies the state of a process with threads."""
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessWorkers:
    """Options for the worker processes of a loader: ``AsyncPrefetcher(..., workers=ProcessWorkers(...))``.

    Args:
        start_method: a start method of multiprocessing; by default ``"forkserver"`` where there is one, else ``"spawn"``.
        initializer: called with the worker's number in each worker before anything else.
        env: environment variables, added to those of this process. With them each worker is a new interpreter, as with
            ``start_method="spawn"``, so they are in place before any module is imported.
        protect: find uses of an array after its yield. A worker ends at the line that reads or writes such memory, and
            writes that line to its standard error. For debugging; on Linux.
        malloc: ``"raised"`` raises glibc's malloc thresholds in the workers, so that large arrays are not given back to
            the kernel after each batch. ``"default"`` leaves them.
        threads: how many threads the libraries in a worker use, those for BLAS and OpenMP and torch. With ``"shared"``
            each worker of a loader has an equal part of the usable cores, at least one thread. If one of
            ``OMP_NUM_THREADS``, ``OPENBLAS_NUM_THREADS``, ``MKL_NUM_THREADS``, ``BLIS_NUM_THREADS`` and
            ``VECLIB_MAXIMUM_THREADS`` is set, all numbers stay. A number that the main module has set by a function of the
            library stays too; but a forked worker takes half of the cores or more for the library's own choice. An int
            is set whatever the variables and the main module say. ``"default"`` sets nothing. The initializer is called
            later and may set other numbers. A library that was loaded before its worker was forked needs the package
            ``threadpoolctl`` (extra ``threads``); torch does not.

    Raises:
        TypeError, ValueError: an argument is of a wrong type or value; the message says which and what to do.
    """

    start_method: str | None = None
    initializer: Callable[[int], object] | None = None
    env: Mapping[str, str] | None = None
    protect: bool = False
    malloc: Literal["raised", "default"] = "raised"
    threads: Literal["shared", "default"] | int = "shared"

    def __post_init__(self) -> None:
        methods = multiprocessing.get_all_start_methods()
        if self.start_method is not None and self.start_method not in methods:
            raise ValueError(f"start_method must be one of {', '.join(methods)} here, not {self.start_method!r}")
        if self.initializer is not None and not callable(self.initializer):
            raise TypeError(f"initializer must be a function that takes the worker's number, not {self.initializer!r}")
        if self.env is not None:
            if not isinstance(self.env, Mapping) or not all(
                isinstance(text, str) for pair in self.env.items() for text in pair
            ):
                raise TypeError("env must map strings to strings")
            if self.start_method == "fork":
                raise ValueError("env needs a new interpreter, and start_method='fork' makes none: use 'spawn'")
            object.__setattr__(self, "env", dict(self.env))  # a later change of the caller's is not for this value
        if not isinstance(self.protect, bool):
            raise TypeError(f"protect must be True or False, not {self.protect!r}")
        if self.malloc not in {"raised", "default"}:
            raise ValueError(f"malloc must be 'raised' or 'default', not {self.malloc!r}")
        if isinstance(self.threads, bool) or not isinstance(self.threads, int | str):
            raise TypeError(f"threads must be 'shared', 'default' or an int, not {self.threads!r}")
        if isinstance(self.threads, str) and self.threads not in {"shared", "default"}:
            raise ValueError(f"threads must be 'shared', 'default' or an int, not {self.threads!r}")
        if isinstance(self.threads, int) and self.threads < 1:
            raise ValueError(f"threads must be at least 1, not {self.threads}")


def threads_of(workers: ProcessWorkers, num_workers: int) -> LibraryThreads | None:
    """What each of ``num_workers`` workers sets for its libraries; ``None`` if it leaves them."""
    if workers.threads == "default":
        return None
    if workers.threads == "shared":
        return LibraryThreads(max(1, usable_cores() // num_workers), forced=False)
    return LibraryThreads(workers.threads, forced=True)
