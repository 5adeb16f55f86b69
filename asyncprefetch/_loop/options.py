"""How a loader runs, as one frozen value: nothing in it shapes the stream."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypedDict

from asyncprefetch._process.limits import usable_cores
from asyncprefetch._process.process_workers import ProcessWorkers
from asyncprefetch._wire.remote_errors import class_name

# Far more than any memory holds batches for, and little enough that the credit for all of it is dealt out in seconds: a
# checkpoint names the number too.
MOST_BATCHES_TO_PREFETCH = 1_000_000


Workers = ProcessWorkers | Callable[[int], Executor] | None
"""What makes a loader's workers: options for processes, or a function from the worker's number to an executor."""


class Resources(TypedDict, total=False):
    """The keywords that may differ between the loader that saved a state and the one that is built from it."""

    n_batches_to_prefetch: int
    num_workers: int | None
    max_restarts: int
    retry_on: type[BaseException] | tuple[type[BaseException], ...]
    stall_timeout: float | None
    start_timeout: float
    workers: Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The checked options; see ``AsyncPrefetcher`` for what each means."""

    n_batches_to_prefetch: int = 8
    num_workers: int | None = None
    max_restarts: int = 3
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = ()
    stall_timeout: float | None = None
    start_timeout: float = 60.0
    workers: Workers = None

    def __post_init__(self) -> None:
        _check_int("n_batches_to_prefetch", self.n_batches_to_prefetch, 1)
        if self.n_batches_to_prefetch > MOST_BATCHES_TO_PREFETCH:
            raise ValueError(
                f"n_batches_to_prefetch must be at most {MOST_BATCHES_TO_PREFETCH}, not {self.n_batches_to_prefetch}: "
                "so many batches may lie in memory at a time"
            )
        _check_int("max_restarts", self.max_restarts, 0)
        if self.num_workers is not None:
            _check_int("num_workers", self.num_workers, 1)
        _check_seconds("start_timeout", self.start_timeout)
        if self.stall_timeout is not None:
            _check_seconds("stall_timeout", self.stall_timeout)
        retry_on = self.retry_on if isinstance(self.retry_on, tuple) else (self.retry_on,)
        if not all(isinstance(cls, type) and issubclass(cls, BaseException) for cls in retry_on):
            raise TypeError(f"retry_on must be an exception class or a tuple of them, not {self.retry_on!r}")
        # A class is callable too, but would take the worker's number for another argument.
        if not (self.workers is None or isinstance(self.workers, ProcessWorkers)) and (
            isinstance(self.workers, type) or not callable(self.workers)
        ):
            raise TypeError(
                "workers must be a ProcessWorkers, or a function that takes the worker's number and returns an executor, "
                f"not {self.workers!r:.80}"
            )

    @property
    def process_workers(self) -> ProcessWorkers:
        """The options for worker processes."""
        return self.workers if isinstance(self.workers, ProcessWorkers) else ProcessWorkers()

    @property
    def retry_names(self) -> frozenset[str]:
        """The qualified names of the classes in ``retry_on``: what a worker's error is compared with."""
        retry_on = self.retry_on if isinstance(self.retry_on, tuple) else (self.retry_on,)
        return frozenset(map(class_name, retry_on))

    def workers_for(self, num_shards: int) -> int:
        """How many workers host so many shards.

        Raises:
            ValueError: more workers were asked for than there are shards.
        """
        if self.num_workers is None:
            return min(num_shards, usable_cores())
        if self.num_workers > num_shards:
            raise ValueError(
                f"num_workers={self.num_workers} with {num_shards} shard{'s' if num_shards > 1 else ''}: a worker hosts "
                "whole shards, so pass a sequence of at least so many base iterators, or fewer workers"
            )
        return self.num_workers

    def executor_for(self, worker: int) -> Executor | None:
        """The executor that the function ``workers`` returns; ``None`` if workers are processes of the loader.

        Raises:
            RuntimeError: the function raised.
            TypeError: the value that it returned is not an executor.
        """
        if self.workers is None or isinstance(self.workers, ProcessWorkers):
            return None
        try:
            executor = self.workers(worker)
        except Exception as error:
            raise RuntimeError(
                f"workers({worker}) raised {type(error).__name__}: {error}. The function takes the worker's number and "
                "returns a new executor"
            ) from error.with_traceback(None)
        if not isinstance(executor, Executor):
            raise TypeError(f"workers({worker}) must return a concurrent.futures.Executor, not {executor!r:.80}")
        return executor

    def pickled_initializer(self) -> bytes | None:
        """The initializer as it is sent to workers.

        Raises:
            TypeError: it can't be pickled.
        """
        initializer = self.process_workers.initializer
        return None if initializer is None else pickle_for_worker(initializer, "initializer")


def pickle_for_worker(value: Any, what: str) -> bytes:
    """``value`` pickled.

    Raises:
        TypeError: it can't be pickled; the message names ``what`` and says what to do.
    """
    try:
        return pickle.dumps(value, 5)
    except Exception as error:
        raise TypeError(
            f"{what} can't be sent to a worker process: {type(error).__name__}: {error}. Workers find functions and "
            "classes by their module: define them at the top level of one, not in a function or as a lambda"
        ) from error


def _check_int(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def _check_seconds(name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not value > 0:
        raise ValueError(f"{name} must be more than 0 seconds, not {value}")
