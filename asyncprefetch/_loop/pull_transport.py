"""The pull transport: each item, or piece of a replay, is one call to an executor of one worker.

It serves any ``concurrent.futures.Executor`` that has one worker and keeps to the order of the calls: a process, a thread,
the caller itself, an actor of a cluster. A few calls are kept ahead, so that the worker need not wait for the loop
between two items; a stop waits for these at most.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor
from typing import Any

from asyncprefetch._loop.shutdown import CLOSE_GRACE, close_iterators, end_process, in_daemon_thread
from asyncprefetch._loop.transport import Sink
from asyncprefetch._process.limits import memory_advice
from asyncprefetch._wire.messages import Credit, Death, FromWorker, Item, Replaying, Setup, Start, Stop, ToWorker
from asyncprefetch._worker.pull_runner import PullRunner
from asyncprefetch.executors import ProcessExecutor

_LOG = logging.getLogger("asyncprefetch")

# One call runs, one waits at the worker, one is on its way: with fewer the worker runs dry between two items.
_CALLS_AHEAD = 3

_keys = itertools.count()


class PullTransport:
    """Carries the runs of one worker over an executor, one call a message."""

    def __init__(self, executor: Executor, sink: Sink) -> None:
        self._executor = executor
        self._sink: Sink | None = sink
        self._loop = asyncio.get_running_loop()
        self._remote = PullRunner(f"{os.getpid()}-{next(_keys)}")
        self._draws: deque[Credit] = deque()  # up to one item further each; not submitted yet
        self._granted: dict[int, int] = {}  # by shard, up to which position there are draws
        self._positions: dict[int, int] = {}  # by shard, of the next item to come
        self._calls: deque[tuple[asyncio.Future[list[FromWorker]], ToWorker]] = deque()  # submitted, oldest first
        self._worker = -1
        self._up = False  # whether a call ever came back
        self._stopped = False  # whether a stop of this run was submitted
        self._dead = False  # no more calls are submitted
        self._last_drawing: tuple[int, int] | None = (
            None  # set with the first call that failed: nothing counts after it
        )
        self._lost = False
        self._reason = ""
        self._reported = False
        self._short_of_memory = False  # here; then the pool ends its process itself
        self._background: set[asyncio.Future[Any]] = set()

    @property
    def drawing(self) -> tuple[int, int] | None:
        """Shard and position of the oldest call that has not come back, or that failed first."""
        if self._lost:
            return self._last_drawing
        for _, message in self._calls:
            if isinstance(message, Credit):
                return message.shard, self._positions[message.shard]
        return None

    def open(self, setup: Setup, start: Start) -> None:
        """Submit the first calls."""
        self._worker = setup.worker
        if isinstance(self._executor, ProcessExecutor):
            # One that dies idle fails no call.
            asyncio.wrap_future(self._executor.exited).add_done_callback(self._exited)
        if getattr(self._executor, "starts_without_blocking", False):
            self._submit(setup)
            self.start(start)
        else:
            # The first submit to an executor that is not ours may start a process, and block for as long as that takes.
            first = self._in_thread(lambda: self._executor.submit(self._remote.handle, setup))
            first.add_done_callback(lambda done: self._opened(done, setup, start))

    def _opened(self, first: asyncio.Future[Any], setup: Setup, start: Start) -> None:
        if first.cancelled() or self._dead:
            return
        if (refusal := first.exception()) is not None:
            self._gone(refusal)
            return
        try:
            self._await(asyncio.wrap_future(first.result()), setup)
        except Exception as error:  # what it gave is no future
            self._gone(error)
        self.start(start)

    def start(self, start: Start) -> None:
        """Submit the start."""
        self._granted = {shard: begin.position for shard, begin in start.shards.items()}
        self._positions = dict(self._granted)
        self._stopped = False
        self._submit(start)

    def credit(self, credit: Credit) -> None:
        """Queue a draw for each item that the credit adds."""
        for upto in range(self._granted[credit.shard] + 1, credit.upto + 1):
            self._draws.append(Credit(credit.run, credit.shard, upto))
            self._granted[credit.shard] = upto
        self._pump()

    @property
    def mapped(self) -> int:
        """None: everything rides in frames."""
        return 0

    def flush(self) -> None:
        """Nothing: a draw is submitted as soon as it may be."""

    def poll(self) -> None:
        """Nothing: the loop tells of what came back."""

    def stop(self, stop: Stop) -> None:
        """Submit no more draws, and ask for the states."""
        self._stopped = True
        self._draws.clear()
        self._submit(stop)

    def detach(self) -> None:
        """Tell the sink nothing more."""
        self._sink = None
        self._draws.clear()

    def kill(self) -> None:
        """Kill the process; another executor is left alone. From any thread: it touches nothing of the transport."""
        if isinstance(self._executor, ProcessExecutor):
            self._executor.kill()

    async def aclose(self) -> None:
        """Close the iterators in the worker, then end it; what does not end in time is killed or left alone."""
        self.detach()
        try:
            await self._shut_down(idle=await self._close_iterators())
        finally:
            self._dead = True
            self.kill()
            for future in self._background:
                if not future.get_loop().is_closed():
                    future.cancel()

    async def _close_iterators(self) -> bool:
        """Whether the worker lives and closed its iterators in time."""
        if self._dead or not self._up:
            return False
        return await close_iterators(self._executor, self._remote.close, self._worker)

    async def _shut_down(self, idle: bool) -> None:
        if isinstance(self._executor, ProcessExecutor):
            await end_process(self._executor, idle=idle)
            return
        # A foreign executor may block in shutdown() until its call is over; it is not ours to kill.
        over = self._in_thread(lambda: self._executor.shutdown(wait=True, cancel_futures=True))
        over.add_done_callback(_log_error)
        done, _ = await asyncio.wait([over], timeout=CLOSE_GRACE)
        if not done:
            _LOG.warning("an executor is still busy; it was left to itself")

    def _in_thread(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        future = in_daemon_thread(function, "asyncprefetch-executor")
        self._background.add(future)
        future.add_done_callback(self._background.discard)
        return future

    def _pump(self) -> None:
        while self._draws and len(self._calls) < _CALLS_AHEAD and not self._dead:
            self._submit(self._draws.popleft())

    def _submit(self, message: ToWorker) -> None:
        if self._dead:
            return
        try:
            call = self._loop.run_in_executor(self._executor, self._remote.handle, message)
        except Exception as error:  # an executor that does not take calls is as good as gone, whatever it raises
            self._gone(error)
        else:
            self._await(call, message)

    def _await(self, call: asyncio.Future[list[FromWorker]], message: ToWorker) -> None:
        self._calls.append((call, message))
        call.add_done_callback(self._came_back)

    def _came_back(self, call: asyncio.Future[list[FromWorker]]) -> None:
        error = call.exception() if not call.cancelled() else BrokenExecutor("its executor was shut down")
        if self._lost:
            return  # a call before it failed, so the iterators are not where this one's answers say
        if error is not None:
            self._last_drawing, self._lost = self.drawing, True
            self._gone(error)
            return
        self._up = True
        _, message = self._calls.popleft()
        if self._sink is not None:
            answers = call.result()
            self._look_at(answers, message)
            self._sink.received(answers)
        self._pump()
        if self._dead and not self._calls:
            self._report_death()

    def _look_at(self, answers: list[FromWorker], message: ToWorker) -> None:
        for answer in answers:
            if isinstance(answer, Item):
                self._positions[answer.shard] = answer.position + 1
            elif isinstance(answer, Replaying) and isinstance(message, Credit) and not self._stopped:
                # The call was over before it came to its item. Others of the shard may be ahead of it now: they draw it.
                # Behind a stop there must be none: after the final sentinel the run has no items.
                self._draws.appendleft(message)

    def _gone(self, error: BaseException) -> None:
        """The worker takes no more calls. What it answered to earlier ones still counts, until one of them fails."""
        if not self._dead:
            self._dead = True
            self._draws.clear()
            self._reason = f"{type(error).__name__}: {error}"
            # Our executor, and a pool of concurrent.futures, which gives it as text.
            if isinstance(error.__cause__, MemoryError) or "MemoryError" in str(error.__cause__):
                self._reason, self._short_of_memory = f"no memory here for what it sent{memory_advice()}", True
            if not isinstance(error, BrokenExecutor | RuntimeError):
                _LOG.error("an executor failed with an error of its own", exc_info=error)
        if self._lost or not self._calls:
            self._report_death()

    def _exited(self, exited: asyncio.Future[int | None]) -> None:
        if self._sink is None:
            return
        self._gone(BrokenExecutor("its process ended"))
        if not self._lost and self._calls:
            # What was to come back has done so before this: a pool that lost a call never tells.
            self._last_drawing, self._lost = self.drawing, True
            self._report_death()

    def _report_death(self) -> None:
        if self._reported:
            return
        self._reported = True
        if isinstance(self._executor, ProcessExecutor):
            # The exit code is known only when the pool has reaped its process. Whatever broke the pool, end it here.
            self._executor.kill()
            exited = asyncio.wrap_future(self._executor.exited)
            exited.add_done_callback(lambda done: self._tell_death(None if done.cancelled() else done.result()))
        else:
            # Later: whoever is just asking for more must be done first.
            self._loop.call_soon(self._tell_death, None)

    def _tell_death(self, exit_code: int | None) -> None:
        if self._sink is None:
            return
        executor = self._executor
        if self._short_of_memory:
            exit_code = None  # it tells nothing
        if isinstance(executor, ProcessExecutor):
            self._sink.died(Death(self._reason, executor.pid, exit_code, executor.oom_kills))
        else:
            self._sink.died(Death(self._reason))


def _log_error(future: asyncio.Future[Any]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        _LOG.warning("shutting an executor down raised", exc_info=error)
