"""The worker's side of the pull transport: a producer whose messages are what its calls return.

The runner keeps the credit that it was given. Each call draws items on it for a time slice. An item is not on its way
before its call returns, so a slow item, or a death, holds up or loses the items that were drawn before it in the same
call. A slice therefore grows with the number of items that were drawn without a pause, and begins at one item.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from asyncprefetch._wire.calls import Answer, Call, Refusal
from asyncprefetch._wire.messages import Credit, FromWorker, Setup, Start, Stop
from asyncprefetch._worker.outlet import Collecting
from asyncprefetch._worker.producer import Producer

# A call draws for so many seconds, and makes so many bytes, before it returns. With Ray, whose calls are the most
# expensive, larger slices gain nothing; and a stop waits for the calls before it.
_SLICE_SECONDS = 0.005
_SLICE_BYTES = 64 << 10

# A call draws at most one item for so many that were drawn before it without a pause.
_STEADY_PER_ITEM = 8


class PullRunner:
    """A producer whose messages are what its calls return.

    An executor that shares memory with the loader calls this very object. Where a call is pickled, the object arrives
    as the one that its process keeps under the same key.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._answers = Collecting()
        self._producer = Producer(self._answers)
        self._credits: deque[Credit] = deque()  # the credits of this run, in the order in which they are used
        self._steady = 0  # items drawn since the last pause
        self._running = threading.Lock()  # an executor with several threads may make calls at the same time
        self._next_number = 0  # number of the next call

    def __reduce__(self) -> Any:
        return _runner_of_this_process, (self._key,)

    def handle(self, call: Call) -> Answer | Refusal:
        """Do what the call asks, then draw on the credit for one slice. Does nothing if another call is due."""
        if not self._running.acquire(blocking=False):
            return Refusal(call.number, self._next_number, running=True)
        try:
            if call.number != self._next_number:
                return Refusal(call.number, self._next_number, running=False)
            for message in call.messages:
                if not self._take(message):
                    break
            self._draw_slice()
            self._next_number += 1
            return Answer(call.number, self._answers.take(), more=bool(self._credits))
        finally:
            self._running.release()

    def close(self) -> list[FromWorker]:
        """Close the iterators. Returns the last log records."""
        with self._running:
            self._producer.close()
            _runners.pop(self._key, None)
            return self._answers.take()

    def _take(self, message: Setup | Start | Credit | Stop) -> bool:
        """Whether the messages after it can be done."""
        if isinstance(message, Credit):
            self._credits.append(message)
        else:
            self._credits.clear()
            self._producer.handle(message)
        return self._producer.is_set_up

    def _draw_slice(self) -> None:
        producer, credits, answers = self._producer, self._credits, self._answers
        left = max(1, self._steady // _STEADY_PER_ITEM)
        now = time.monotonic()
        until = now + _SLICE_SECONDS
        while credits:
            if not producer.missing(credits[0]):
                credits.popleft()
            elif left and now < until and answers.size < _SLICE_BYTES:
                began = now
                producer.draw(credits[0])
                now = time.monotonic()
                left -= 1
                self._steady = self._steady + 1 if now - began < _SLICE_SECONDS else 0
            else:
                return


_runners: dict[str, PullRunner] = {}


def _runner_of_this_process(key: str) -> PullRunner:
    return _runners.setdefault(key, PullRunner(key))
