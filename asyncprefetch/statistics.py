"""The figures of a loader, and the verdict in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

# Share of its time that the consumer waits: below the first it does not matter, above the second it is the problem.
_LITTLE = 0.02
_MUCH = 0.2


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """One worker at one moment.

    Attributes:
        worker: its number, from 0.
        pid: its process id, or ``None`` before it said hello.
        state: ``"starting"``, ``"running"``, ``"stopping"``, ``"idle"``, ``"retired"``, ``"failed"``, ``"closed"``...
        shards: the global numbers of the shards that it hosts.
        restarts: how often it died and was started again.
        retries: how often a shard of it was retried for ``retry_on``.
        mapped: bytes of shared memory that its batches take: those buffered, those that the consumer holds, and room
            for the next ones. 0 where batches do not cross shared memory, and of a worker that is gone.
        counted: what its iterators counted for this loader, ``"documents skipped"`` for instance, by name. What is done
            again after a restart counts again.
    """

    worker: int
    pid: int | None
    state: str
    shards: tuple[int, ...]
    restarts: int
    retries: int
    mapped: int
    counted: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Statistics:
    """A loader at one moment.

    Attributes:
        state: ``"new"``, ``"active"``, ``"ended"``, ``"failed"``, ``"closing"`` or ``"closed"``.
        n_batches_to_prefetch: the bound on batches made and not delivered.
        delivered_by_shard: batches delivered by global shard number, over the shard's whole life, restores included.
        buffered: batches made and not delivered.
        requested: batches asked of workers and not received.
        seconds_active: since the workers were asked for, until the end of the stream.
        seconds_to_first: what the consumer waited for its first batch, in seconds; ``None`` before it.
        seconds_waiting: what it waited for all later ones together, in seconds.
        workers: the workers, by number.
    """

    state: str
    n_batches_to_prefetch: int
    delivered_by_shard: Mapping[int, int]
    buffered: int
    requested: int
    seconds_active: float
    seconds_to_first: float | None
    seconds_waiting: float
    workers: tuple[WorkerStatistics, ...]

    @property
    def delivered(self) -> int:
        """Batches delivered, over all shards, restores included."""
        return sum(self.delivered_by_shard.values())

    @property
    def mapped(self) -> int:
        """Bytes of shared memory that the batches of all workers take."""
        return sum(worker.mapped for worker in self.workers)

    @property
    def counted(self) -> Mapping[str, int]:
        """What the iterators of all workers counted for this loader, ``"documents skipped"`` for instance, by name."""
        return dict(sum((Counter(worker.counted) for worker in self.workers), Counter()))

    @property
    def restarts(self) -> int:
        """How often workers died and were started again."""
        return sum(worker.restarts for worker in self.workers)


def explain(statistics: Statistics) -> str:
    """What the figures say about where the time goes, in a few sentences."""
    first = statistics.seconds_to_first
    if first is None:
        return f"The loader is {statistics.state}; no batch was asked for yet."
    steady = max(statistics.seconds_active - first, 1e-9)
    share = min(statistics.seconds_waiting / steady, 1.0)
    text = (
        f"{statistics.delivered} batches delivered, {statistics.buffered} buffered of "
        f"{statistics.n_batches_to_prefetch} to prefetch. The first batch took {first:.2f} s; since then the consumer "
        f"waited for {share:.0%} of {steady:.1f} s. "
    )
    if share >= _MUCH:
        text += (
            "The producers are too slow for the consumer: use more shards and workers, or make the iterators faster; "
            "more prefetch does not help."
        )
    elif share >= _LITTLE:
        text += "The producers keep up on average but not always: more prefetch evens out their pauses."
    else:
        text += "The loader does not slow the consumer down."
    if statistics.counted:
        text += " Counted: " + ", ".join(f"{count} {name}" for name, count in statistics.counted.items()) + "."
    if statistics.restarts:
        text += f" Workers died and were started again {statistics.restarts} times: see the log."
    return text
