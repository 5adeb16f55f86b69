"""The pull transport: a worker's messages are what its calls return.

It serves any ``concurrent.futures.Executor`` that has one worker and makes the calls in order: a process, a thread, the
caller itself, an actor of a cluster. Each call brings the credit that was granted since the last one, and draws on the
worker's credit for a time slice. A few calls are kept ahead, so that the worker does not wait for the loop between two
slices. A stop waits for these at most.
"""

from __future__ import annotations

import itertools
import os
from concurrent.futures import Executor

from asyncprefetch._loop.call_queue import CallQueue
from asyncprefetch._loop.executor_faults import Fault
from asyncprefetch._loop.executor_life import ExecutorLife
from asyncprefetch._loop.run_credit import RunCredit
from asyncprefetch._loop.states import PULL, PullEvent, PullState
from asyncprefetch._loop.transport import Sink
from asyncprefetch._loop.worker_end import close_iterators
from asyncprefetch._wire.calls import Answer
from asyncprefetch._wire.messages import Credit, Death, Setup, Start, Stop
from asyncprefetch._wire.transitions import advance
from asyncprefetch._worker.pull_runner import PullRunner

# One call runs, one waits at the worker, one is on its way: with fewer the worker runs dry between two slices.
_CALLS_AHEAD = 3

_keys = itertools.count()


class PullTransport:
    """Carries the runs of one worker over an executor."""

    def __init__(self, executor: Executor, sink: Sink) -> None:
        self._executor = executor
        self._sink: Sink | None = sink
        self._state = PullState.NEW
        self._worker = -1
        self._runner = PullRunner(f"{os.getpid()}-{next(_keys)}")
        self._life = ExecutorLife(executor)
        self._credits = RunCredit()
        self._calls = CallQueue(executor, self._runner.handle, on_answer=self._answered, on_fault=self._faulted)

    @property
    def drawing(self) -> tuple[int, int] | None:
        """Shard and position of the oldest item that was asked of the worker and has not come."""
        return self._credits.drawing

    @property
    def mapped(self) -> int:
        """Zero: every item is a frame of bytes."""
        return 0

    def launch(self, setup: Setup, start: Start) -> None:
        """Submit the first call, which sets the worker up and begins the first run."""
        self._worker = setup.worker
        self._step(PullEvent.LAUNCH)
        self._life.watch(lambda: self._calls.fail(Fault("BrokenExecutor: its process ended")))
        self._begin(start)
        if self._life.starts_without_blocking:
            self._calls.submit(setup, start)
        else:
            self._calls.submit_in_thread(setup, start)

    def start(self, start: Start) -> None:
        """Submit the start of a further run."""
        self._begin(start)
        self._calls.submit(start)

    def credit(self, credit: Credit) -> None:
        """Keep the credit for the next call."""
        self._credits.add(credit)

    def flush(self) -> None:
        """Submit a call with the new credit, unless enough calls are under way."""
        if self._credits.has_unsent and self._can_call:
            self._calls.submit(*self._credits.take())

    def poll(self) -> None:
        """Do nothing: the loop calls back when a call is done."""

    def stop(self, stop: Stop) -> None:
        """Submit no more draws, and ask for the states."""
        self._credits.end()
        self._calls.submit(stop)

    def detach(self) -> None:
        """Report nothing more to the sink."""
        self._sink = None
        self._credits.end()

    def kill(self) -> None:
        """Kill the process; another executor is left alone. From any thread: it touches nothing of the transport."""
        self._life.kill()

    async def aclose(self) -> None:
        """Close the iterators in the worker, then end it. What does not end in time is killed or left alone."""
        self.detach()
        try:
            lives = self._state is PullState.UP and self._calls.takes_calls
            closed = lives and await close_iterators(self._executor, self._runner.close, self._worker)
            await self._life.end(idle=closed)
        finally:
            self._step(PullEvent.CLOSE)
            self._calls.close()
            self._life.kill()

    @property
    def _can_call(self) -> bool:
        return self._calls.takes_calls and len(self._calls) < _CALLS_AHEAD

    def _begin(self, start: Start) -> None:
        self._credits.begin({shard: begin.position for shard, begin in start.shards.items()})

    def _answered(self, answer: Answer) -> None:
        self._step(PullEvent.ANSWER)
        if self._sink is None:
            return
        for message in answer.messages:
            self._credits.received(message)
        self._sink.received(answer.messages)
        self.flush()
        # While the worker has credit left, keep calls ahead. Otherwise a further call would find nothing to draw.
        while self._can_call and answer.more and self._credits.goes_on:
            self._calls.submit()

    def _faulted(self, fault: Fault) -> None:
        self._step(PullEvent.FAULT)
        if self._sink is not None:
            self._life.report_death(fault, self._report)

    def _report(self, death: Death) -> None:
        if self._sink is not None:
            self._step(PullEvent.REPORT)
            self._sink.died(death)

    def _step(self, event: PullEvent) -> None:
        self._state = advance(PULL, self._state, event)
