"""Executors of one worker, and the options for worker processes.

A loader takes any ``concurrent.futures.Executor`` that has one worker and runs calls in their order. ``ProcessExecutor`` is
the one that it uses by default; ``InlineExecutor`` is for tests.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

from asyncprefetch._process.not_copied import NotCopied
from asyncprefetch._process.process_executor import ProcessExecutor
from asyncprefetch._process.process_workers import ProcessWorkers, default_start_method

__all__ = ["InlineExecutor", "ProcessExecutor", "ProcessWorkers", "default_start_method"]

P = ParamSpec("P")
T = TypeVar("T")


class InlineExecutor(NotCopied, Executor):
    """Runs each call at once, in the thread that submits it.

    For tests: a whole loader runs in one process, in one deterministic order. A training loop gains nothing from it.
    """

    starts_without_blocking = True

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call ``fn`` now; the future is done when this returns."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future
