"""The loader's core: it ties receivers, lanes and rotation together, and takes snapshots.

It is apart from the public object, so that callbacks and tasks keep the core alive and not the loader: a loader that
was forgotten can be noticed. Everything here runs on one event loop, and but for ``next``, ``snapshot`` and ``aclose``
nothing waits.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any

from asyncprefetch._entries import Ended, Entry, Failure, Lane, Ready
from asyncprefetch._lifecycle import LOADER, LoaderEvent, LoaderState, RunState, advance
from asyncprefetch._loop_watch import LoopWatch
from asyncprefetch._options import Options
from asyncprefetch._receiver import Receiver
from asyncprefetch._recovery import Ledger
from asyncprefetch._rotation import AsReady, InOrder, Rotation
from asyncprefetch._snapshot import ShardSnapshot, Snapshot
from asyncprefetch.carriers import Carrier, Sink
from asyncprefetch.carriers.pull import PullCarrier
from asyncprefetch.errors import AsyncPrefetchError, PrefetcherBusyError, PrefetcherClosedError
from asyncprefetch.executors import ProcessExecutor
from asyncprefetch.statistics import Statistics, WorkerStatistics

# With batches always at hand nothing would ever suspend, and every other task would starve.
_MAX_SECONDS_WITHOUT_YIELD = 0.001


class Core:
    """One loader, from a snapshot on."""

    def __init__(self, origin: Snapshot, options: Options) -> None:
        self.state = LoaderState.NEW
        self.options = options
        self._origin = origin
        self._num_workers = options.workers_for(len(origin.shards))
        self._ledgers = {s.shard: Ledger(s.shard, s.start, ended=s.ended) for s in origin.shards}
        self._buffered = dict.fromkeys(self._ledgers, 0)
        for ready in origin.buffer:
            self._buffered[ready.shard] += 1
        self._rotation = self._new_rotation()
        self._lanes: dict[int, Lane] = {}
        self._receivers: list[Receiver] = []
        self._receiver_of: dict[int, Receiver] = {}
        self._runs = 0
        self._failure: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._snapshot: asyncio.Future[Snapshot] | None = None  # asked for, and not taken yet
        self._background: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._watch: LoopWatch | None = None
        self._started_at = self._ended_at = self._yielded_at = 0.0
        self._seconds_to_first: float | None = None
        self._seconds_waiting = 0.0

    # -------------------------------------------------------------------------------------------------------- starting

    def start(self) -> None:
        """Ask for the workers. Does nothing if that was done before.

        Raises:
            PrefetcherClosedError, PrefetcherBusyError: see :meth:`check_usable`.
        """
        self.check_usable()
        if self.state is not LoaderState.NEW:
            return
        self._loop = asyncio.get_running_loop()
        self._step(LoaderEvent.START)
        self._started_at = self._yielded_at = time.monotonic()
        self._fill_lanes()
        self._watch = LoopWatch(self._loop_shuts_down)
        shards = list(self._ledgers)
        for number in range(self._num_workers):
            hosted = {shard: self._ledgers[shard] for shard in shards[number :: self._num_workers]}
            receiver = Receiver(
                number, hosted, self._rotation, self.options, open_carrier=self._open_carrier, owner=self
            )
            self._receivers.append(receiver)
            self._receiver_of.update(dict.fromkeys(hosted, receiver))
        for receiver in self._receivers:
            receiver.open()

    def check_usable(self) -> None:
        """Refuse a loader that is closed, or belongs to another loop.

        Raises:
            PrefetcherClosedError: ``aclose()`` was called.
            PrefetcherBusyError: the running loop is not the one on which the loader was started.
        """
        if self.state in {LoaderState.CLOSING, LoaderState.CLOSED}:
            raise PrefetcherClosedError("the loader was closed; build another one from its last state")
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise PrefetcherBusyError(
                "the loader was started on another event loop and can be used on that one only; build one from its "
                "state for each loop"
            )

    def _new_rotation(self) -> Rotation:
        shards, n_prefetch = list(self._ledgers), self.options.n_batches_to_prefetch
        if self._origin.in_order:
            return InOrder(shards, self._buffered, n_prefetch, self._origin.due)
        return AsReady(shards, self._buffered, n_prefetch)

    def _fill_lanes(self) -> None:
        shared = Lane()
        self._lanes = {shard: Lane() if self._origin.in_order else shared for shard in self._ledgers}
        for ready in self._origin.buffer:
            self._lanes[ready.shard].put_nowait(ready)
        for shard, ledger in self._ledgers.items():
            if ledger.ended:
                self._lanes[shard].put_nowait(Ended(shard))

    def _open_carrier(self, worker: int, sink: Sink) -> Carrier:
        options = self.options
        if options.executor_factory is not None:
            executor = options.executor_factory(worker)
            if not isinstance(executor, Executor):
                raise TypeError(f"it must return a concurrent.futures.Executor, not {executor!r:.80}")
        else:
            executor = ProcessExecutor(start_method=options.start_method, env=options.worker_env)
        return PullCarrier(executor, sink)

    # -------------------------------------------------------------------------------------------------------- consuming

    async def next(self, check: Callable[[int, Any], None]) -> Any:
        """The next item, after ``check(shard, item)``. Cancelled, or if the check raises, it has taken nothing.

        Raises:
            StopAsyncIteration: every shard's end was reached, and every worker is gone.
            AsyncPrefetchError: what happened to a producer, a worker or this loader; again at every further call.
        """
        self.start()
        if time.monotonic() - self._yielded_at > _MAX_SECONDS_WITHOUT_YIELD:
            await asyncio.sleep(0)
            self._yielded_at = time.monotonic()
        while True:
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            if not self._rotation.active:
                await self._end()
                raise StopAsyncIteration
            lane = self._lanes[self._rotation.due]
            entry = lane.get_nowait() if not lane.empty() else await self._wait(lane)
            # From here to the return there is no await: what was taken is delivered.
            match entry:
                case Ready():
                    return self._deliver(lane, entry, check)
                case Ended():
                    self._rotation.dropped(entry.shard)
                    self._grant()
                case Failure():
                    self._fail(entry.error)

    async def _wait(self, lane: Lane) -> Entry:
        began = time.monotonic()
        try:
            return await lane.get()
        finally:
            self._yielded_at = time.monotonic()
            waited = self._yielded_at - began
            if self._seconds_to_first is None:
                self._seconds_to_first = waited
            else:
                self._seconds_waiting += waited

    def _deliver(self, lane: Lane, entry: Ready, check: Callable[[int, Any], None]) -> Any:
        try:
            item = entry.payload.open()
            check(entry.shard, item)
        except BaseException:
            lane.put_back(entry)
            raise
        if self._seconds_to_first is None:
            self._seconds_to_first = 0.0
        self._buffered[entry.shard] -= 1
        self._rotation.delivered(entry.shard)
        self._grant()
        return item

    def _fail(self, error: Exception) -> None:
        if self.state is LoaderState.ACTIVE:
            self._step(LoaderEvent.FAIL)
        self._failure = error

    async def _end(self) -> None:
        if self.state is LoaderState.ACTIVE:
            self._step(LoaderEvent.END)
            self._ended_at = time.monotonic()
        # A loader that came to its end leaves nothing behind, also if nobody closes it.
        await self._settle()

    async def _settle(self) -> None:
        while self._background:
            await asyncio.wait(self._background)
        if self._watch is not None:
            await self._watch.dismiss()

    def _grant(self) -> None:
        for shard in self._rotation.grant():
            self._receiver_of[shard].credit(shard)

    # -------------------------------------------------------------------------------------------------------- snapshot

    async def snapshot(self, grace: float | None) -> Snapshot:
        """Stop the runs, wait for their final sentinels, take a snapshot, and let the next runs begin.

        Callers that come before it is taken share it; a caller that is cancelled disturbs nobody. With ``grace``, it is
        taken after so many seconds at the latest, with the last known states of those that have not stopped.

        Raises:
            PrefetcherClosedError: the loader was closed, before or meanwhile.
            PrefetcherBusyError: the loader belongs to another loop.
        """
        self.check_usable()
        pending = self._snapshot if self._snapshot is not None else self._ask_for_snapshot()
        timer = None if grace is None else asyncio.get_running_loop().call_later(grace, self._take)
        try:
            return await asyncio.shield(pending)
        finally:
            if timer is not None:
                timer.cancel()

    def _ask_for_snapshot(self) -> asyncio.Future[Snapshot]:
        pending = self._snapshot = asyncio.get_running_loop().create_future()
        for receiver in self._receivers:
            receiver.stop()
        self._take_if_quiet()
        return pending

    def _take_if_quiet(self) -> None:
        if all(receiver.state is not RunState.STOPPING for receiver in self._receivers):
            self._take()

    def _take(self) -> None:
        # No await in here: buffer and states belong together.
        if self._snapshot is None:
            return
        pending, self._snapshot = self._snapshot, None
        if not pending.done():
            pending.set_result(self._look())
        for receiver in self._receivers:
            if receiver.state is RunState.IDLE:
                receiver.start()
        self._grant()

    def _look(self) -> Snapshot:
        lanes = dict.fromkeys(self._lanes.values())  # each once: where order is not promised there is one for all
        buffer = tuple(ready for lane in lanes for ready in lane.ready()) if self._lanes else self._origin.buffer
        shards = tuple(
            ShardSnapshot(shard, ledger.start(), ledger.ended, ledger.position - self._buffered[shard])
            for shard, ledger in self._ledgers.items()
        )
        due = self._rotation.due if self._rotation.active else self._origin.due
        return Snapshot(self._origin.in_order, due, shards, buffer)

    # --------------------------------------------------------------------------------------------- for the receivers

    def new_run(self) -> int:
        """A run number that was never used."""
        self._runs += 1
        return self._runs

    def put(self, shard: int, entry: Entry) -> None:
        """Queue an entry for the consumer."""
        if isinstance(entry, Ready):
            self._buffered[shard] += 1
        self._lanes[shard].put_nowait(entry)

    def run_ended(self, receiver: Receiver) -> None:
        """A worker is idle: start its next run, or take the snapshot for which it was stopped."""
        if self._snapshot is None:
            receiver.start()
        self.changed()

    def changed(self) -> None:
        """Something changed on which a snapshot may wait, or credit depends."""
        if self._snapshot is not None:
            self._take_if_quiet()
        self._grant()

    def crashed(self, error: Exception) -> None:
        """A fault in this library: raise it to the consumer, and to whoever waits for a snapshot."""
        failure = AsyncPrefetchError(f"a fault in asyncprefetch, please report it: {type(error).__name__}: {error}")
        failure.__cause__ = error
        for lane in dict.fromkeys(self._lanes.values()):
            lane.put_nowait(Failure(failure))
        self._fail_snapshot(failure)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a task that the end and ``aclose()`` wait for."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # ---------------------------------------------------------------------------------------------------------- closing

    @property
    def needs_close(self) -> bool:
        """Whether forgetting the loader now would leave a worker behind."""
        return self.state in {LoaderState.ACTIVE, LoaderState.FAILED} or (
            self.state is LoaderState.ENDED and bool(self._background)
        )

    async def aclose(self) -> None:
        """End every worker and wait until it is gone; who waits for a batch or a snapshot gets an error. Idempotent.

        A cancellation is held back until everything is gone, which takes a few seconds at most.
        """
        if self.state is LoaderState.CLOSED:
            return
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        cancelled: asyncio.CancelledError | None = None
        while not self._closing.done():
            try:
                await asyncio.shield(self._closing)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        await self._closing

    async def _close(self) -> None:
        self._step(LoaderEvent.CLOSE)
        error = PrefetcherClosedError("the loader was closed")
        for lane in dict.fromkeys(self._lanes.values()):
            lane.clear()
            lane.put_nowait(Failure(error))
        self._fail_snapshot(error)
        try:
            await asyncio.gather(*(receiver.aclose() for receiver in self._receivers))
            await self._settle()
        finally:
            # If the loop cancels this very task, at its end, the processes must not outlive it.
            self.kill()
            self._step(LoaderEvent.ALL_GONE)

    def _fail_snapshot(self, error: Exception) -> None:
        if self._snapshot is not None:
            pending, self._snapshot = self._snapshot, None
            if not pending.done():
                pending.set_exception(error)
                pending.exception()  # whoever asked may be gone: that is not worth a warning

    def kill(self) -> None:
        """End every worker at once, from any thread, with or without a running loop."""
        for receiver in self._receivers:
            receiver.kill()

    def abandon(self, loader: str) -> None:
        """The public object is gone, and nobody closed it: kill the workers, and clean up if the loop still runs."""
        if not self.needs_close:
            return
        self.kill()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._begin_close)
        _warn_unclosed(loader)

    def _begin_close(self) -> None:
        if self.needs_close and self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())

    async def _loop_shuts_down(self) -> None:
        if self.needs_close:
            await self.aclose()
            _warn_unclosed("an AsyncPrefetcher")

    # ------------------------------------------------------------------------------------------------------- statistics

    def statistics(self) -> Statistics:
        """The figures of this moment."""
        until = self._ended_at or time.monotonic()
        return Statistics(
            state=self.state.name.lower(),
            n_batches_to_prefetch=self.options.n_batches_to_prefetch,
            delivered_by_shard={s: ledger.position - self._buffered[s] for s, ledger in self._ledgers.items()},
            buffered=sum(self._buffered.values()),
            requested=self._rotation.ahead - sum(self._buffered.values()),
            seconds_active=until - self._started_at if self._started_at else 0.0,
            seconds_to_first=self._seconds_to_first,
            seconds_waiting=self._seconds_waiting,
            workers=tuple(
                WorkerStatistics(r.number, r.pid, r.state.name.lower(), r.shards, r.restarts, r.retries)
                for r in self._receivers
            ),
        )

    def _step(self, event: LoaderEvent) -> None:
        self.state = advance(LOADER, self.state, event)


def _warn_unclosed(loader: str) -> None:
    warnings.warn(f"{loader} was never closed: use 'async with', or await aclose()", ResourceWarning, stacklevel=2)
