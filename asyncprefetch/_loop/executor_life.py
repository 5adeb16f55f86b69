"""The life of an executor that the pull transport was given: how its death is known, and how it ends.

A :class:`ProcessExecutor` is a process of ours, whose exit is an event and which can be killed. Any other executor is only
asked to shut down; its own processes are its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor

from asyncprefetch._loop.executor_faults import Fault
from asyncprefetch._loop.worker_end import CLOSE_GRACE, end_process, in_daemon_thread
from asyncprefetch._process.process_executor import ProcessExecutor
from asyncprefetch._wire.messages import Death

_LOG = logging.getLogger("asyncprefetch")


class ExecutorLife:
    """One executor, from its first call to its end."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._process = executor if isinstance(executor, ProcessExecutor) else None

    @property
    def starts_without_blocking(self) -> bool:
        """Whether the first ``submit()`` may be called on the loop. One of another library may start a process."""
        return bool(getattr(self._executor, "starts_without_blocking", False))

    def watch(self, on_exit: Callable[[], None]) -> None:
        """Call ``on_exit`` when its process is gone, if it has one. A process that dies idle fails no call."""
        if self._process is not None:
            asyncio.wrap_future(self._process.exited).add_done_callback(lambda _: on_exit())

    def report_death(self, fault: Fault, report: Callable[[Death], None]) -> None:
        """Call ``report`` when all that can be known of the death is known."""
        process = self._process
        if process is None:
            report(Death(fault.reason, breaks_contract=fault.breaks_contract))
            return
        # The exit code is known when the process is reaped. Whatever failed, end it.
        process.kill()

        def exited(future: asyncio.Future[int | None]) -> None:
            exit_code = future.result() if fault.exit_code_counts and not future.cancelled() else None
            report(
                Death(fault.reason, process.pid, exit_code, process.oom_kills, breaks_contract=fault.breaks_contract)
            )

        asyncio.wrap_future(process.exited).add_done_callback(exited)

    def kill(self) -> None:
        """Kill the process; any other executor is left alone. From any thread."""
        if self._process is not None:
            self._process.kill()

    async def end(self, *, idle: bool) -> None:
        """Shut the executor down. A process is killed if it is not idle, or does not end in time.

        Another executor that does not end in time is left to itself.
        """
        if self._process is not None:
            await end_process(self._process, idle=idle)
            return
        # It may block in shutdown() until its call is over.
        over = in_daemon_thread(
            lambda: self._executor.shutdown(wait=True, cancel_futures=True), "asyncprefetch-executor"
        )
        over.add_done_callback(_log_error)
        done, _ = await asyncio.wait([over], timeout=CLOSE_GRACE)
        if not done:
            _LOG.warning("an executor is still busy; it was left to itself")


def _log_error(future: asyncio.Future[None]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        _LOG.warning("shutting an executor down raised", exc_info=error)
