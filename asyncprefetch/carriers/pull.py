"""The pull carrier: each item is one call to an executor of one worker.

It serves any ``concurrent.futures.Executor`` that has one worker and keeps to the order of the calls: a process, a thread,
the caller itself, an actor of a cluster. A few calls are kept ahead, so that the worker need not wait for the loop
between two items; a stop waits for these at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import threading
from collections import deque
from concurrent.futures import BrokenExecutor, Executor
from typing import Any

from asyncprefetch._messages import Credit, Death, FromWorker, Setup, Start, Stop, ToWorker
from asyncprefetch._producer import Producer
from asyncprefetch.carriers import Sink
from asyncprefetch.executors import ProcessExecutor

_LOG = logging.getLogger("asyncprefetch")

# One call runs, one waits at the worker, one is on its way: with fewer the worker runs dry between two items.
_CALLS_AHEAD = 3

# Seconds for closing the iterators, and then for the process to end by itself. A worker that is too busy to close its
# iterators in time is not waited for again: a program that ends should end within two seconds.
_CLOSE_GRACE = 1.0

_keys = itertools.count()


class PullCarrier:
    """Carries the runs of one worker over an executor, one call a message."""

    def __init__(self, executor: Executor, sink: Sink) -> None:
        self._executor = executor
        self._sink: Sink | None = sink
        self._loop = asyncio.get_running_loop()
        self._producer = Producer(f"{os.getpid()}-{next(_keys)}")
        self._draws: deque[Credit] = deque()  # one item each; not submitted yet
        self._granted: dict[int, int] = {}  # by shard, up to which position there are draws
        self._calls: deque[tuple[asyncio.Future[list[FromWorker]], ToWorker]] = deque()  # submitted, oldest first
        self._up = False  # whether a call ever came back
        self._dead = False
        self._background: set[asyncio.Future[Any]] = set()

    @property
    def drawing(self) -> tuple[int, int] | None:
        """Shard and position of the oldest call that has not come back."""
        for _, message in self._calls:
            if isinstance(message, Credit):
                return message.shard, message.upto - 1
        return None

    def open(self, setup: Setup, start: Start) -> None:
        """Submit the first calls."""
        if getattr(self._executor, "starts_without_blocking", False):
            self._submit(setup)
            self.start(start)
        else:
            # The first submit to an executor that is not ours may start a process, and block for as long as that takes.
            first = self._loop.run_in_executor(None, self._executor.submit, self._producer.handle, setup)
            self._keep(self._opened(first, setup, start))

    async def _opened(self, first: asyncio.Future[Any], setup: Setup, start: Start) -> None:
        try:
            call = await first
        except Exception as error:
            self._gone(error)
            return
        if not self._dead:
            self._await(asyncio.wrap_future(call), setup)
            self.start(start)

    def start(self, start: Start) -> None:
        """Submit the start."""
        self._granted = {shard: begin.position for shard, begin in start.shards.items()}
        self._submit(start)

    def credit(self, credit: Credit) -> None:
        """Queue a draw for each item that the credit adds."""
        for upto in range(self._granted[credit.shard] + 1, credit.upto + 1):
            self._draws.append(Credit(credit.run, credit.shard, upto))
            self._granted[credit.shard] = upto
        self._pump()

    def stop(self, stop: Stop) -> None:
        """Submit no more draws, and ask for the states."""
        self._draws.clear()
        self._submit(stop)

    def kill(self) -> None:
        """Kill the process; of another executor, take no more notice."""
        self._dead = True
        self._sink = None
        self._draws.clear()
        if isinstance(self._executor, ProcessExecutor):
            self._executor.kill()

    async def aclose(self) -> None:
        """Close the iterators in the worker, then end it; what does not end in time is killed or left alone."""
        self._sink = None
        self._draws.clear()
        try:
            await self._shut_down(idle=await self._close_iterators())
        finally:
            self.kill()
            for task in self._background:
                task.cancel()
            # Cancelled just now: they are over as soon as the loop has gone round.
            await asyncio.gather(*self._background, return_exceptions=True)

    async def _close_iterators(self) -> bool:
        """Whether the worker lives and closed its iterators in time."""
        if self._dead or not self._up:
            return False
        try:
            closing = self._loop.run_in_executor(self._executor, self._producer.close)
        except RuntimeError:  # BrokenExecutor is one; so is what an executor raises that was shut down
            return False
        closing.add_done_callback(_consume)
        done, _ = await asyncio.wait([closing], timeout=_CLOSE_GRACE)
        return bool(done)

    async def _shut_down(self, idle: bool) -> None:
        if isinstance(self._executor, ProcessExecutor):
            executor = self._executor
            exited = asyncio.wrap_future(executor.exited)
            if idle:
                executor.shutdown(wait=False, cancel_futures=True)
                await asyncio.wait([exited], timeout=_CLOSE_GRACE)
            executor.kill()
            await exited
            return
        # A foreign executor may block in shutdown() until its call is over; it is not ours to kill.
        over = self._loop.create_future()
        threading.Thread(target=self._shut_down_foreign, args=(over,), daemon=True).start()
        done, _ = await asyncio.wait([over], timeout=_CLOSE_GRACE)
        if not done:
            _LOG.warning("an executor is still busy; it was left to itself")

    def _shut_down_foreign(self, over: asyncio.Future[None]) -> None:
        try:
            self._executor.shutdown(wait=True, cancel_futures=True)
        except Exception:
            _LOG.warning("shutting an executor down raised", exc_info=True)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            self._loop.call_soon_threadsafe(_resolve, over)

    def _pump(self) -> None:
        while self._draws and len(self._calls) < _CALLS_AHEAD and not self._dead:
            self._submit(self._draws.popleft())

    def _submit(self, message: ToWorker) -> None:
        if self._dead:
            return
        try:
            call = self._loop.run_in_executor(self._executor, self._producer.handle, message)
        except RuntimeError as error:
            self._gone(error)
        else:
            self._await(call, message)

    def _await(self, call: asyncio.Future[list[FromWorker]], message: ToWorker) -> None:
        self._calls.append((call, message))
        call.add_done_callback(self._came_back)

    def _came_back(self, call: asyncio.Future[list[FromWorker]]) -> None:
        if call.cancelled() or (error := call.exception()) is not None:
            self._gone(None if call.cancelled() else error)
            return
        self._up = True
        if self._calls and self._calls[0][0] is call:
            self._calls.popleft()
        self._pump()
        for message in call.result():
            if self._sink is not None:
                self._sink.received(message)

    def _gone(self, error: BaseException | None) -> None:
        """The worker takes no more calls: every call that is out fails, the first to tell is enough."""
        if self._dead:
            return
        self._dead = True
        self._draws.clear()
        reason = "its executor was shut down" if error is None else f"{type(error).__name__}: {error}"
        if error is not None and not isinstance(error, BrokenExecutor | RuntimeError):
            _LOG.error("an executor failed a call with an error of its own", exc_info=error)
        self._keep(self._report_death(reason))

    async def _report_death(self, reason: str) -> None:
        death = Death(reason)
        if isinstance(self._executor, ProcessExecutor):
            # The exit code is known only when the pool has reaped its process. Whatever broke the pool, end it here.
            self._executor.kill()
            exit_code = await asyncio.wrap_future(self._executor.exited)
            death = Death(reason, self._executor.pid, exit_code)
        if self._sink is not None:
            self._sink.died(death)

    def _keep(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _consume(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
