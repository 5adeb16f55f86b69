"""The calls to an executor: numbered, and their answers taken in the order of submission.

The futures of an executor may complete in any order. Those of Ray and Dask do, and on Python 3.14 so do asyncio's, which
wrap a future that is already done at once. Only the oldest call is looked at; a later one that is done waits for its
turn. The *worker* has to run the calls in order, and each of them once. The numbers show whether it did.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from asyncprefetch._loop.executor_faults import Fault, Outcome, fault_of, outcome_of, verdict
from asyncprefetch._loop.states import CALLS, CallsEvent, CallsState
from asyncprefetch._loop.worker_end import in_daemon_thread
from asyncprefetch._wire.calls import Answer, Call, Refusal
from asyncprefetch._wire.messages import ToWorker
from asyncprefetch._wire.transitions import advance

# After a call has failed, the other calls under way get so many seconds. Those before it may bring items, and those after
# it show what happened. An executor may also have lost them: then nothing more comes.
_GRACE_SECONDS = 0.5

Handler = Callable[[Call], Answer | Refusal]
"""What the worker runs for each call."""


@dataclass(slots=True, eq=False)
class _Submitted:
    """A call that is under way, or whose outcome waits for its turn."""

    call: Call
    outcome: Outcome | None = None


class CallQueue:
    """The calls of one worker, oldest first.

    Args:
        executor: makes the calls.
        handler: what its worker runs for each.
        on_answer: called with each answer, in the order of submission.
        on_fault: called once when a call has failed, after the answers to the calls before it.
    """

    def __init__(
        self,
        executor: Executor,
        handler: Handler,
        *,
        on_answer: Callable[[Answer], None],
        on_fault: Callable[[Fault], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._executor = executor
        self._handler = handler
        self._on_answer = on_answer
        self._on_fault = on_fault
        self._state = CallsState.TAKING
        self._calls: deque[_Submitted] = deque()
        self._next = 0  # number of the next call
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many calls were submitted and not answered."""
        return len(self._calls)

    @property
    def takes_calls(self) -> bool:
        """Whether calls are still submitted."""
        return self._state is CallsState.TAKING

    def submit(self, *messages: ToWorker) -> None:
        """Submit a call, unless one has failed. Where the executor refuses it, this is a call that has failed."""
        if not self.takes_calls:
            return
        submitted = self._add(messages)
        try:
            call = self._loop.run_in_executor(self._executor, self._handler, submitted.call)
        except Exception as error:
            self._refused(submitted, error)
        else:
            call.add_done_callback(lambda call: self._came_back(submitted, call))

    def submit_in_thread(self, *messages: ToWorker) -> None:
        """Submit the first call from a thread: ``submit()`` may start a process, and block for as long as that takes."""
        submitted = self._add(messages)
        submitting = in_daemon_thread(
            lambda: self._executor.submit(self._handler, submitted.call), "asyncprefetch-executor"
        )
        submitting.add_done_callback(lambda done: self._was_submitted(submitted, done))

    def fail(self, fault: Fault) -> None:
        """The worker is gone, and no call comes back any more."""
        if self._state is not CallsState.CLOSED:
            self._judge(fault)

    def close(self) -> None:
        """Submit no more calls, and report nothing more."""
        self._step(CallsEvent.CLOSE)
        self._calls.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _add(self, messages: tuple[ToWorker, ...]) -> _Submitted:
        submitted = _Submitted(Call(self._next, messages))
        self._next += 1
        self._calls.append(submitted)
        return submitted

    def _was_submitted(self, submitted: _Submitted, done: asyncio.Future[Future[Any]]) -> None:
        try:
            call = asyncio.wrap_future(done.result(), loop=self._loop)
        except Exception as error:  # submit() raised, or what it returned is no future
            self._refused(submitted, error)
        else:
            call.add_done_callback(lambda call: self._came_back(submitted, call))

    def _refused(self, submitted: _Submitted, error: Exception) -> None:
        # The outcome is stored at once: an exit that is reported next must not hide its cause. It is acted on later: a
        # caller that grants credit to several shards must be done first.
        submitted.outcome = fault_of(error)
        self._loop.call_soon(self._take)

    def _came_back(self, submitted: _Submitted, call: asyncio.Future[Any]) -> None:
        submitted.outcome = outcome_of(call, submitted.call.number)
        self._take()

    def _take(self) -> None:
        while self._calls and isinstance(answer := self._calls[0].outcome, Answer):
            self._calls.popleft()
            self._on_answer(answer)
        outcomes = [call.outcome for call in self._calls]
        if all(outcome is None or isinstance(outcome, Answer) for outcome in outcomes):
            return
        self._step(CallsEvent.FAIL)
        if None not in outcomes:
            self._judge()
        elif self._timer is None:
            self._timer = self._loop.call_later(_GRACE_SECONDS, self._judge)

    def _judge(self, fault: Fault | None = None) -> None:
        outcomes = [call.outcome for call in self._calls if call.outcome is not None]
        if fault is not None:
            outcomes.append(fault)
        self.close()
        self._on_fault(verdict(self._executor, outcomes))

    def _step(self, event: CallsEvent) -> None:
        self._state = advance(CALLS, self._state, event)
