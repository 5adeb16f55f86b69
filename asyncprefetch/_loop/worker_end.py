"""How a transport ends its worker: the iterators are closed first, then the process ends, each in bounded time."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from typing import TypeVar

from asyncprefetch._loop import worker_logs
from asyncprefetch._process import limits
from asyncprefetch._process.call_errors import as_data
from asyncprefetch._process.process_executor import ProcessExecutor
from asyncprefetch._wire.messages import FromWorker, Log

T = TypeVar("T")

_LOG = logging.getLogger("asyncprefetch")

# Seconds for closing the iterators, and again for the process to end by itself. A worker that is too busy to close its
# iterators in time gets no further time: a program that ends should end within two seconds.
CLOSE_GRACE = 1.0

# Seconds for a killed process to be gone. In an uninterruptible sleep (a file system that hangs) it does not end even then.
_KILL_GRACE = 2.0


async def close_iterators(executor: Executor, close: Callable[[], Iterable[FromWorker]], worker: int) -> bool:
    """Call ``close`` in the worker, and handle the log records that it returns.

    Returns:
        Whether it succeeded, and in time.
    """
    try:
        closing = asyncio.get_running_loop().run_in_executor(executor, close)
    except Exception:  # the executor is broken or was shut down, or has an error of its own
        return False
    closing.add_done_callback(consume)
    done, _ = await asyncio.wait([closing], timeout=CLOSE_GRACE)
    if not done or closing.cancelled() or closing.exception() is not None:
        return False
    for message in closing.result():
        if isinstance(message, Log):
            worker_logs.handle(worker, message.record)
    return True


async def end_process(executor: ProcessExecutor, *, idle: bool) -> None:
    """Wait until the process is gone. An idle process may end by itself; any other is killed.

    A process that does not end even then is left to itself, with a warning in the log.
    """
    exited = asyncio.wrap_future(executor.exited)
    if idle:
        executor.shutdown(wait=False, cancel_futures=True)
        await asyncio.wait([exited], timeout=CLOSE_GRACE)
    executor.kill()
    warned = False
    while not exited.done():
        # A start in progress can't be interrupted (the fork server may be importing). It ends in the kill.
        starting = executor.pid is None
        await asyncio.wait([exited], timeout=_KILL_GRACE)
        if starting and not exited.done() and not warned:
            warned = True
            _LOG.warning("the start of a worker process has not returned; a loader that is being closed waits for it")
        if not starting and not exited.done():
            _LOG.warning("worker process %s was killed and has not ended; it is left to itself", executor.pid)
            return


def in_daemon_thread(function: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Call a function that may block for long, in a thread that does not keep the program from its exit."""
    result: Future[T] = Future()

    def run() -> None:
        if result.set_running_or_notify_cancel():
            try:
                result.set_result(function())
            except BaseException as error:  # SystemExit and the like would mean something else on the loop
                result.set_exception(as_data(error))

    future = asyncio.wrap_future(result)
    try:
        limits.check_threads()
        threading.Thread(target=run, name=name, daemon=True).start()
    except Exception as error:  # no more threads or memory
        result.set_exception(error)
    return future


def consume(future: asyncio.Future[T]) -> None:
    """Take the error of a future, so that asyncio does not report it as unretrieved."""
    if not future.cancelled():
        future.exception()
