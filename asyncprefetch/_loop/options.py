"""How a loader runs, as one frozen value: nothing in it shapes the stream."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypedDict

from asyncprefetch._wire.remote_errors import class_name

# Far more than any memory holds batches for, and little enough that the credit for all of it is dealt out in seconds: a
# checkpoint names the number too.
MOST_BATCHES_TO_PREFETCH = 1_000_000


class Resources(TypedDict, total=False):
    """The keywords that may differ between the loader that saved a state and the one that is built from it."""

    n_batches_to_prefetch: int
    num_workers: int | None
    max_restarts: int
    retry_on: type[BaseException] | tuple[type[BaseException], ...]
    stall_timeout: float | None
    start_timeout: float
    start_method: str | None
    worker_initializer: Callable[[int], object] | None
    worker_env: Mapping[str, str] | None
    executor_factory: Callable[[int], Executor] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The checked options; see ``AsyncPrefetcher`` for what each means."""

    n_batches_to_prefetch: int = 8
    num_workers: int | None = None
    max_restarts: int = 3
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = ()
    stall_timeout: float | None = None
    start_timeout: float = 60.0
    start_method: str | None = None
    worker_initializer: Callable[[int], object] | None = None
    worker_env: Mapping[str, str] | None = None
    executor_factory: Callable[[int], Executor] | None = None

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
        methods = multiprocessing.get_all_start_methods()
        if self.start_method is not None and self.start_method not in methods:
            raise ValueError(f"start_method must be one of {', '.join(methods)} here, not {self.start_method!r}")
        for name in ("worker_initializer", "executor_factory"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be a function that takes the worker's number, not {value!r}")
        if self.executor_factory is not None and (self.start_method is not None or self.worker_env is not None):
            raise ValueError(
                "start_method and worker_env are for the loader's own worker processes: with executor_factory, "
                "set them up in the factory"
            )
        env = self.worker_env or {}
        if not all(isinstance(text, str) for pair in env.items() for text in pair):
            raise TypeError("worker_env must map strings to strings")

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
            return min(num_shards, _usable_cpus())
        if self.num_workers > num_shards:
            raise ValueError(
                f"num_workers={self.num_workers} with {num_shards} shard{'s' if num_shards > 1 else ''}: a worker hosts "
                "whole shards, so pass a sequence of at least so many base iterators, or fewer workers"
            )
        return self.num_workers

    def executor_for(self, worker: int) -> Executor | None:
        """The executor that ``executor_factory`` gives; ``None`` without one.

        Raises:
            RuntimeError: the factory raised.
            TypeError: what it gave is no executor.
        """
        if self.executor_factory is None:
            return None
        try:
            executor = self.executor_factory(worker)
        except Exception as error:
            raise RuntimeError(f"executor_factory raised {type(error).__name__}: {error}") from error.with_traceback(
                None
            )
        if not isinstance(executor, Executor):
            raise TypeError(f"executor_factory must return a concurrent.futures.Executor, not {executor!r:.80}")
        return executor

    def pickled_initializer(self) -> bytes | None:
        """The initializer as it is sent to workers.

        Raises:
            TypeError: it can't be pickled.
        """
        if self.worker_initializer is None:
            return None
        return pickle_for_worker(self.worker_initializer, "worker_initializer")


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


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
