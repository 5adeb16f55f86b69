"""The consumer's end: the queues between the workers and the consumer, and the order in which batches leave them.

All logic is in :meth:`Delivery.peek` and :meth:`Delivery.take`, which never wait. :meth:`Delivery.wait` adds the waiting.
Nothing is awaited between a peek and the take that follows it, so a call that is cancelled has taken nothing.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from asyncprefetch._loop import error_reports
from asyncprefetch._loop.ledger import Ledger
from asyncprefetch._loop.scheduler import AsReady, InOrder, Scheduler
from asyncprefetch._loop.shard_queue import Ended, Entry, Failure, ShardQueue
from asyncprefetch._loop.snapshot import Ready, Snapshot
from asyncprefetch._loop.threads import in_thread

# A consumer that always finds a batch at hand would never suspend, and every other task would starve.
_MAX_SECONDS_WITHOUT_TURN = 0.0005

# Return credit at once, unless the consumer takes less than so many seconds a batch. Then return it once per quarter window,
# and after so many seconds at the latest: a worker may need it, even if the consumer waits for the batch of another worker.
_MAX_SECONDS_UNRETURNED = 0.0005

# A batch of more bytes is loaded in a thread: copying them would block the loop for long.
_LARGE = 1 << 20


NOTHING = object()
"""In place of an item where the consumer has to wait: any item may be ``None``."""


class _Unreadable(NamedTuple):
    """In place of an item whose payload can't be loaded."""

    error: BaseException


class Delivery:
    """An asyncio queue for each shard, or one for all where order is not promised, and the order of delivery.

    Args:
        origin: what was made before. Its buffered batches are delivered first.
        ledgers: what is known of each shard. The worker handles keep them up to date.
        n_prefetch: the bound on batches made and not delivered.
        on_room: called when deliveries made room for more batches, so that credit can be given.
        poll: called with the due shard when its queue is empty: receive what has arrived without waiting for the loop.
    """

    def __init__(
        self,
        origin: Snapshot,
        ledgers: Mapping[int, Ledger],
        n_prefetch: int,
        *,
        on_room: Callable[[], None],
        poll: Callable[[int], None],
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
        self.failure: Exception | None = None  # raised to the consumer at this and every further call
        self.seconds_to_first: float | None = None
        self.seconds_waiting = 0.0
        self._origin_due = origin.due
        self._ledgers = ledgers
        self._on_room = on_room
        self._poll = poll
        self._loaded: Ready | None = None  # the entry whose item is loaded and not taken
        self._item: Any = None  # that item
        self._turned_at = self._returned_at = time.monotonic()
        self._turn: asyncio.Handle | None = None  # pending as long as the loop has not turned since a delivery
        self._unreturned = 0  # deliveries whose credit was not returned
        self._timer: asyncio.Handle | None = None  # returns the credit of a consumer that waits
        self._max_unreturned = max(1, n_prefetch // 4)
        self._closed = False
        shared = ShardQueue()
        self._queues = {shard: ShardQueue() if origin.in_order else shared for shard in shards}
        for ready in origin.buffer:
            self._queues[ready.shard].put_nowait(ready)
        for shard, ledger in ledgers.items():
            if ledger.ended:
                self._queues[shard].put_nowait(Ended(shard))

    @property
    def due(self) -> int:
        """The shard whose turn it is; after the end, the one that was due when the loader began."""
        return self.scheduler.due if self.scheduler.active else self._origin_due

    def delivered(self, shard: int) -> int:
        """The number of batches of a shard that were delivered, over the shard's whole life."""
        return self._ledgers[shard].position - self.buffered[shard]

    def ready(self) -> tuple[Ready, ...]:
        """The batches that were made and not delivered, for a snapshot."""
        return tuple(
            Ready(ready.shard, ready.payload.reading()) for queue in self._each_queue() for ready in queue.ready()
        )

    # ------------------------------------------------------------------------------------------------ from the workers

    def put(self, shard: int, entry: Entry) -> None:
        """Queue an entry of a shard. Once closed, drop it: a closed loader must not keep the memory of batches."""
        if self._closed:
            return
        if type(entry) is Ready:
            self.buffered[shard] += 1
        queue = self._queues[shard]
        if queue.entries:
            queue.entries.append(entry)  # only the first entry can have a waiting consumer
        else:
            queue.put_nowait(entry)

    def put_failure(self, error: Exception) -> None:
        """Queue an error for every shard, so that the consumer gets it whichever shard is due."""
        for queue in self._each_queue():
            queue.put_nowait(Failure(error))

    # ----------------------------------------------------------------------------------------------- from the consumer

    def peek(self) -> Any:
        """The next item, loaded, or ``NOTHING`` if the consumer has to wait for something first: see :meth:`wait`.

        Raises:
            StopAsyncIteration: every shard's end was reached.
            AsyncPrefetchError: the error in the place of the next item; again at every further call.
        """
        while True:
            if self.failure is not None:
                # A copy: the kept error must not hold the consumer's frames, and all that they refer to, by its traceback.
                raise copy.copy(self.failure) from self.failure.__cause__
            if not self.scheduler.active:
                raise StopAsyncIteration
            entries = self._queues[self.scheduler.due].entries
            if not entries:
                self._poll(self.scheduler.due)
                if not entries:
                    return NOTHING
            entry = entries[0]
            if isinstance(entry, Ready):
                if self._loaded is not entry:
                    if self._must_turn() or entry.payload.size > _LARGE:
                        return NOTHING
                    self._keep(entry, _load(entry))
                    if self._loaded is not entry:
                        continue  # its payload can't be loaded, and that is the failure
                return self._item
            if isinstance(entry, Failure):
                self.failure = entry.error
            else:
                entries.popleft()
                self.scheduler.dropped(entry.shard)
                self._return_credit(time.monotonic())

    @property
    def shard(self) -> int:
        """The shard of the item that :meth:`peek` has given."""
        assert self._loaded is not None
        return self._loaded.shard

    def take(self) -> None:
        """Deliver the item that :meth:`peek` has given: it leaves its queue, and its credit is returned, now or soon."""
        now = time.monotonic()
        shard = self.shard
        self._loaded = self._item = None
        self._queues[shard].entries.popleft()
        if self.seconds_to_first is None:
            self.seconds_to_first, self.seconds_waiting = self.seconds_waiting, 0.0
        self.buffered[shard] -= 1
        self.scheduler.delivered(shard)
        self._unreturned += 1
        if (
            self._unreturned >= self._max_unreturned
            or now - self._returned_at > _MAX_SECONDS_UNRETURNED
            or self.scheduler.is_idle
        ):
            self._return_credit(now)
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._loop_turned)

    async def wait(self) -> None:
        """Wait for what kept :meth:`peek` from giving a batch: a batch, a large one to be loaded, or a turn of the loop."""
        queue = self._queues[self.scheduler.due]
        if not queue.entries:
            began = time.monotonic()
            if self._turn is not None:
                # A callback at the next turn would return the credit of each batch by itself.
                self._turn.cancel()
                self._turn = None
                if self._unreturned and self._timer is None:
                    # It stays when the batch comes: a timer for each batch would cost more.
                    loop = asyncio.get_running_loop()
                    self._timer = loop.call_later(_MAX_SECONDS_UNRETURNED, self._time_is_up)
            try:
                # Cancelled, it took nothing; otherwise there is no await between the get and the return of the entry.
                queue.entries.appendleft(await queue.get())
            finally:
                self._turned_at = time.monotonic()
                self.seconds_waiting += self._turned_at - began
        elif self._must_turn():
            await asyncio.sleep(0)
            self._turned_at = time.monotonic()
        else:
            entry = queue.entries[0]
            assert isinstance(entry, Ready)
            item = await in_thread(_load, entry)
            if queue.entries[0] is entry:  # otherwise the loader was closed meanwhile
                self._keep(entry, item)

    def _must_turn(self) -> bool:
        """Whether the loop has not turned since the last delivery, and other tasks have waited for long enough."""
        return self._turn is not None and time.monotonic() - self._turned_at > _MAX_SECONDS_WITHOUT_TURN

    def _keep(self, entry: Ready, item: Any) -> None:
        """Keep the loaded item of the entry at the head of its queue. If it can't be loaded, that is the failure."""
        if type(item) is _Unreadable:
            shard = entry.shard
            self.failure = error_reports.unreadable_error(item.error, shard, self.delivered(shard))
        else:
            self._loaded, self._item = entry, item

    def _loop_turned(self) -> None:
        self._turn = None
        self._turned_at = now = time.monotonic()
        if self._unreturned:  # a consumer that does something else now must not keep the workers waiting
            self._return_credit(now)

    def _time_is_up(self) -> None:
        self._timer = None
        if self._unreturned:
            self._return_credit(time.monotonic())

    def _return_credit(self, now: float) -> None:
        self._unreturned, self._returned_at = 0, now
        self._on_room()

    # --------------------------------------------------------------------------------------------------------- closing

    def forget_waiters(self) -> None:
        """Replace the queues: the loop on which a consumer waited was closed, and the loader is closed on another one."""
        queues = {queue: ShardQueue() for queue in self._each_queue()}
        self._queues = {shard: queues[queue] for shard, queue in self._queues.items()}
        self._turn = None

    def close(self, error: Exception) -> None:
        """Drop all batches. A waiting consumer gets ``error``."""
        self._closed = True
        if self._turn is not None:
            self._turn.cancel()
        self._loaded = self._item = None
        for queue in self._each_queue():
            queue.entries.clear()
        self.put_failure(error)

    def _each_queue(self) -> list[ShardQueue]:
        return list(dict.fromkeys(self._queues.values()))


def _load(entry: Ready) -> Any:
    try:
        return entry.payload.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # CancelledError, SystemExit and the like would mean something else to the consumer
        return _Unreadable(error)
