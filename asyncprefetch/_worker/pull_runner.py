"""The worker's side of the pull transport: a producer whose answers are what its calls return."""

from __future__ import annotations

from typing import Any

from asyncprefetch._wire.messages import FromWorker, ToWorker
from asyncprefetch._worker.outlet import Collecting
from asyncprefetch._worker.producer import Producer


class PullRunner:
    """A producer whose answers are what its calls return.

    An executor that shares memory with the loader calls this very object. Where a call is pickled, the object arrives
    as the one that its process keeps under the same key.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._answers = Collecting()
        self._producer = Producer(self._answers)

    def __reduce__(self) -> Any:
        return _worker_of_this_process, (self._key,)

    def handle(self, message: ToWorker) -> list[FromWorker]:
        """Do what ``message`` asks; the answers, in order."""
        self._producer.handle(message)
        return self._answers.take()

    def close(self) -> list[FromWorker]:
        """Close the iterators. Gives the last log records."""
        self._producer.close()
        _workers.pop(self._key, None)
        return self._answers.take()


_workers: dict[str, PullRunner] = {}


def _worker_of_this_process(key: str) -> PullRunner:
    return _workers.setdefault(key, PullRunner(key))
