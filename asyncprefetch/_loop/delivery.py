"""The consumer's end: lanes of batches, ends and errors, and the order in which they are delivered."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from asyncprefetch._loop import error_reports
from asyncprefetch._loop.ledger import Ledger
from asyncprefetch._loop.scheduler import AsReady, InOrder, Scheduler
from asyncprefetch._loop.shard_queue import Ended, Entry, Failure, Ready, ShardQueue
from asyncprefetch._loop.snapshot import Snapshot
from asyncprefetch._loop.threads import in_thread

# With batches always at hand nothing would ever suspend, and every other task would starve.
_MAX_SECONDS_WITHOUT_YIELD = 0.0005

# Room for more is told of at once, but for a consumer that takes batch after batch in less than so many seconds: then when
# a quarter of what may be prefetched is free.
_MAX_SECONDS_UNTOLD = 0.0005

# A batch of more bytes is opened in a thread: copying so many holds the loop up.
_LARGE = 1 << 20


NOTHING = object()
"""What is given where no batch is at hand: any item may be ``None``."""


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """In place of an item that can't be made from its payload."""

    error: BaseException


class Delivery:
    """Between the receivers and the consumer: an asyncio queue a shard, or one for all where order is not promised.

    Args:
        origin: what was made before, and is delivered first.
        ledgers: what is known of each shard, kept by others.
        n_prefetch: the bound on batches made and not delivered.
        on_room: called when deliveries made room for more.
        on_want: called before the consumer waits: a batch that has come meanwhile may be put.
    """

    def __init__(
        self,
        origin: Snapshot,
        ledgers: Mapping[int, Ledger],
        n_prefetch: int,
        *,
        on_room: Callable[[], None],
        on_want: Callable[[], None],
    ) -> None:
        self.buffered = dict.fromkeys(ledgers, 0)
        for ready in origin.buffer:
            self.buffered[ready.shard] += 1
        shards = list(ledgers)
        self.scheduler: Scheduler = (
            InOrder(shards, self.buffered, n_prefetch, origin.due)
            if origin.in_order
            else AsReady(shards, self.buffered, n_prefetch)
        )
        self.failure: Exception | None = None  # what the consumer was told, and is told again
        self.seconds_to_first: float | None = None
        self.seconds_waiting = 0.0
        self._origin_due = origin.due
        self._ledgers = ledgers
        self._on_room = on_room
        self._on_want = on_want
        self._yielded_at = self._told_at = time.monotonic()
        self._closed = False
        self._untold = 0  # deliveries since room was told of
        self._telling: asyncio.Handle | None = None
        self._max_untold = max(1, n_prefetch // 4)
        shared = ShardQueue()
        self._queues = {shard: ShardQueue() if origin.in_order else shared for shard in shards}
        for ready in origin.buffer:
            self._queues[ready.shard].put_nowait(ready)
        for shard, ledger in ledgers.items():
            if ledger.ended:
                self._queues[shard].put_nowait(Ended(shard))

    @property
    def due(self) -> int:
        """The shard whose turn it is, or was last."""
        return self.scheduler.due if self.scheduler.active else self._origin_due

    def delivered(self, shard: int) -> int:
        """How many batches of a shard were delivered, over its whole life."""
        return self._ledgers[shard].position - self.buffered[shard]

    def ready(self) -> tuple[Ready, ...]:
        """The batches that were made and not delivered, for a snapshot."""
        return tuple(
            Ready(ready.shard, ready.payload.reading()) for lane in self._each_queue() for ready in lane.ready()
        )

    def put(self, shard: int, entry: Entry) -> None:
        """Queue an entry of a shard; once closed, forget it: a loader that is kept would keep its memory."""
        if self._closed:
            return
        if isinstance(entry, Ready):
            self.buffered[shard] += 1
        self._queues[shard].add(entry)

    def put_failure(self, error: Exception) -> None:
        """Queue an error for whichever shard is due."""
        for lane in self._each_queue():
            lane.put_nowait(Failure(error))

    def forget_waiters(self) -> None:
        """Before it is closed on another loop than the one on which somebody waited, which was closed itself."""
        lanes = {lane: ShardQueue() for lane in self._each_queue()}
        self._queues = {shard: lanes[lane] for shard, lane in self._queues.items()}

    def close(self, error: Exception) -> None:
        """Forget all batches; who waits for one gets ``error``."""
        self._closed = True
        if self._telling is not None:
            self._telling.cancel()
        for lane in self._each_queue():
            lane.clear()
        self.put_failure(error)

    def _each_queue(self) -> list[ShardQueue]:
        return list(dict.fromkeys(self._queues.values()))

    def next_nowait(self, check: Callable[[int, Any], None]) -> Any:
        """The next item, after ``check(shard, item)``, if it is a batch at hand that opens at once; else ``NOTHING``."""
        now = time.monotonic()
        if now - self._yielded_at > _MAX_SECONDS_WITHOUT_YIELD or self.failure is not None or not self.scheduler.active:
            return NOTHING
        lane = self._queues[self.scheduler.due]
        entry = lane.head
        if entry is None:
            self._look()
            entry = lane.head
        if type(entry) is not Ready or entry.payload.size > _LARGE:
            return NOTHING
        item = _open(entry)
        return NOTHING if type(item) is _Unreadable else self._deliver(lane, entry, item, check, now)

    async def next(self, check: Callable[[int, Any], None]) -> Any:
        """The next item, after ``check(shard, item)``. Cancelled, or if the check raises, it has taken nothing.

        Raises:
            StopAsyncIteration: every shard's end was reached.
            AsyncPrefetchError: what stands in the place of the next item; again at every further call.
        """
        if time.monotonic() - self._yielded_at > _MAX_SECONDS_WITHOUT_YIELD:
            await asyncio.sleep(0)
            self._yielded_at = time.monotonic()
        while True:
            if self.failure is not None:
                # A copy: with a traceback, what is kept would keep the consumer's frames, and all that they hold, alive.
                raise copy.copy(self.failure) from self.failure.__cause__
            if not self.scheduler.active:
                raise StopAsyncIteration
            lane = self._queues[self.scheduler.due]
            if lane.empty():
                await self._wait(lane)
            entry = lane.head
            match entry:
                case Ready():
                    # It stays in the lane until nothing can go wrong any more, and is taken without an await.
                    large = entry.payload.size > _LARGE
                    item = await in_thread(_open, entry) if large else _open(entry)
                    if lane.head is entry:  # else the loader was closed meanwhile
                        return self._deliver(lane, entry, item, check, time.monotonic())
                case Ended():
                    lane.take()
                    self.scheduler.dropped(entry.shard)
                    self._tell_room(time.monotonic())
                    self._on_want()
                case Failure():
                    self.failure = entry.error

    def _look(self) -> None:
        """See to it that whoever makes batches may, and whether one has come that the loop does not know of yet."""
        if self._untold:
            self._tell_room(time.monotonic())
        self._on_want()

    async def _wait(self, lane: ShardQueue) -> None:
        if self._untold:
            self._tell_room(time.monotonic())
        began = time.monotonic()
        try:
            # Cancelled, it took nothing; else there is no await between the get and the putting back.
            lane.put_back(await lane.get())
        finally:
            self._yielded_at = time.monotonic()
            self.seconds_waiting += self._yielded_at - began

    def _deliver(self, lane: ShardQueue, entry: Ready, item: Any, check: Callable[[int, Any], None], now: float) -> Any:
        shard = entry.shard
        if type(item) is _Unreadable:
            self.failure = error_reports.unreadable_error(item.error, shard, self.delivered(shard))
            raise copy.copy(self.failure) from item.error
        check(shard, item)
        lane.take()
        if self.seconds_to_first is None:
            self.seconds_to_first, self.seconds_waiting = self.seconds_waiting, 0.0
        self.buffered[shard] -= 1
        self.scheduler.delivered(shard)
        self._untold += 1
        following = self._queues[self.scheduler.due] if self.scheduler.active else lane
        # With no batch at hand the consumer will wait next: it is told then, at the latest.
        if self._untold >= self._max_untold or now - self._told_at > _MAX_SECONDS_UNTOLD or following.head is None:
            self._tell_room(now)
        elif self._telling is None:
            # A consumer that does something else now should not leave room untold.
            self._telling = asyncio.get_running_loop().call_soon(self._tell_late)
        return item

    def _tell_late(self) -> None:
        self._telling = None
        if self._untold:
            self._tell_room(time.monotonic())

    def _tell_room(self, now: float) -> None:
        self._untold, self._told_at = 0, now
        self._on_room()


def _open(entry: Ready) -> Any:
    try:
        return entry.payload.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # CancelledError, SystemExit and the like mean something else to who awaits the item
        return _Unreadable(error)
