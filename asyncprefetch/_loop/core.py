"""The loader's core: it ties the workers, the delivery, the snapshots and the shutdown of one loader together.

It is separate from the public object so that callbacks and tasks keep the core alive and not the loader: then a loader
that was forgotten can be noticed. Everything here runs on one event loop, and only ``next``, ``snapshot`` and ``aclose``
wait.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Callable
from typing import Any

import anyio

from asyncprefetch import _codec
from asyncprefetch._loop import stream_transport
from asyncprefetch._loop.delivery import NOTHING, Delivery
from asyncprefetch._loop.ledger import Ledger
from asyncprefetch._loop.options import Options
from asyncprefetch._loop.pull_transport import PullTransport
from asyncprefetch._loop.shutdown import Shutdown
from asyncprefetch._loop.snapshot import ShardSnapshot, Snapshot
from asyncprefetch._loop.snapshot_taker import SnapshotTaker
from asyncprefetch._loop.states import LOADER, LoaderEvent, LoaderState
from asyncprefetch._loop.transport import Sink, Transport
from asyncprefetch._loop.worker_handle import WorkerHandle
from asyncprefetch._process.process_executor import ProcessExecutor
from asyncprefetch._process.process_workers import threads_of
from asyncprefetch._wire.transitions import advance
from asyncprefetch.errors import (
    AsyncPrefetchError,
    CheckpointWarning,
    EventLoopError,
    PrefetcherBusyError,
    PrefetcherClosedError,
)
from asyncprefetch.statistics import Statistics


class Core:
    """One loader, from a snapshot on."""

    def __init__(self, origin: Snapshot, options: Options) -> None:
        self.state = LoaderState.NEW
        self.options = options
        self._in_order = origin.in_order
        self._num_workers = options.workers_for(len(origin.shards))
        self._ledgers = {s.shard: Ledger(s.shard, s.start, ended=s.ended) for s in origin.shards}
        self._delivery = Delivery(
            origin, self._ledgers, options.n_batches_to_prefetch, on_room=self._deal_credit, poll=self._poll
        )
        self.put = self._delivery.put  # the handles call it to queue an entry for the consumer
        self._workers: list[WorkerHandle] = []
        self._worker_of: dict[int, WorkerHandle] = {}
        self._snapshots = SnapshotTaker(self._workers, self._look, self._deal_credit)
        self._shutdown = Shutdown(self._workers, on_begin=self._closing, on_end=self._closed)
        self.close_transport = self._shutdown.close_transport  # the handles call it
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runs = 0
        self._taking = False  # whether a call waits for the next item
        self._unchecked = set(self._ledgers)  # shards of which no item was checked for what a checkpoint can hold
        self._started_at = self._ended_at = 0.0

    # -------------------------------------------------------------------------------------------------------- starting

    def start(self) -> None:
        """Ask for the workers. Does nothing if that was done before.

        Raises:
            PrefetcherClosedError, PrefetcherBusyError, EventLoopError: see :meth:`check_usable`.
        """
        self.check_usable()
        if self.state is not LoaderState.NEW:
            return
        self._loop = asyncio.get_running_loop()
        anyio.CancelScope()  # loads what anyio needs for this loop: to close, there may be no descriptor left for that
        self._step(LoaderEvent.START)
        self._started_at = time.monotonic()
        self._shutdown.watch_loop(self._loop_shuts_down)
        shards = list(self._ledgers)
        for number in range(self._num_workers):
            hosted = {shard: self._ledgers[shard] for shard in shards[number :: self._num_workers]}
            handle = WorkerHandle(number, hosted, self._delivery.scheduler, self.options, self)
            self._workers.append(handle)
            self._worker_of.update(dict.fromkeys(hosted, handle))
        for handle in self._workers:
            handle.launch()

    def check_usable(self) -> None:
        """Refuse a loader that is closed, or belongs to another loop.

        Raises:
            PrefetcherClosedError: ``aclose()`` was called.
            PrefetcherBusyError: the running loop is not the one on which the loader was started.
            EventLoopError: no event loop of asyncio is running.
        """
        if self.state is LoaderState.CLOSING or self.state is LoaderState.CLOSED:
            raise PrefetcherClosedError("the loader was closed; build another one from its last state")
        if self._other_loop is not None:
            raise PrefetcherBusyError(
                "the loader was started on another event loop and can be used on that one only; build one from its "
                "state for each loop"
            )

    @property
    def _other_loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop on which it was started, if that is not the running one."""
        return self._loop if self._loop is not _running_loop() else None

    def open_transport(self, worker: int, sink: Sink) -> Transport:
        """The transport for a worker, as the options and the system ask for."""
        options = self.options
        executor = options.executor_for(worker)
        if executor is not None:
            return PullTransport(executor, sink)
        workers = options.process_workers
        threads = threads_of(workers, self._num_workers)
        if not stream_transport.is_supported():
            executor = ProcessExecutor(
                start_method=workers.start_method, env=workers.env, malloc=workers.malloc, threads=threads
            )
            return PullTransport(executor, sink)
        return stream_transport.StreamTransport(
            sink,
            n_prefetch=options.n_batches_to_prefetch,
            workers=workers,
            threads=threads,
        )

    # -------------------------------------------------------------------------------------------------------- consuming

    async def next(self) -> Any:
        """The next item. Cancelled, it has taken nothing.

        Raises:
            StopAsyncIteration: every shard's end was reached, and every worker is gone.
            PrefetcherBusyError: another call waits for an item, or the loader belongs to another loop.
            PrefetcherClosedError: the loader is closed.
            AsyncPrefetchError: what happened to a producer, a worker or this loader; again at every further call.
        """
        if self._taking:
            raise PrefetcherBusyError(
                "another task is waiting for the next batch of this loader: one consumer at a time, for two would "
                "share the stream in an order that no checkpoint could restore"
            )
        if self.state is not LoaderState.ACTIVE or self._loop is not _running_loop():
            self.start()
        self._taking = True
        try:
            while (item := self._delivery.peek()) is NOTHING:
                await self._delivery.wait()
            if self._unchecked and self._delivery.shard in self._unchecked:
                self._check(self._delivery.shard, item)
            self._delivery.take()
            return item
        except StopAsyncIteration:
            await self._come_to_end()
            raise
        finally:
            self._taking = False
            if self._delivery.failure is not None and self.state is LoaderState.ACTIVE:
                self._step(LoaderEvent.FAIL)

    def _check(self, shard: int, item: Any) -> None:
        """Warn once a shard, at its first batch, if a checkpoint could not hold its items."""
        self._unchecked.discard(shard)
        reason = _codec.explain_unsupported(item)
        if reason is not None:
            warnings.warn(
                f"shard {shard}: a checkpoint can't hold its batches, and get_state() will raise: {reason}",
                CheckpointWarning,
                stacklevel=3,
            )

    async def _come_to_end(self) -> None:
        if self.state is LoaderState.ACTIVE:
            self._step(LoaderEvent.END)
            self._ended_at = time.monotonic()
        # A loader that came to its end leaves nothing running, also if it is never closed.
        await self._shutdown.settle()

    def _deal_credit(self) -> None:
        if self._snapshots.starting or self.state is LoaderState.CLOSING or self.state is LoaderState.CLOSED:
            return
        credited: dict[WorkerHandle, None] = {}
        for shard, batches in self._delivery.scheduler.grant():
            handle = self._worker_of[shard]
            handle.credit(shard, batches)
            credited[handle] = None
        for handle in credited:
            handle.flush()

    def _poll(self, due: int) -> None:
        if self._in_order:
            self._worker_of[due].poll()
        else:
            for handle in self._workers:
                handle.poll()

    # -------------------------------------------------------------------------------------------------------- snapshot

    async def snapshot(self, grace: float | None) -> Snapshot:
        """Stop the runs, wait for their final sentinels, take a snapshot, and let the next runs begin.

        Calls that come before it is taken share it, and cancelling one does not affect the others. With ``grace``, it is
        taken after so many seconds at the latest, with the last known states of the workers that have not stopped.

        Raises:
            PrefetcherClosedError: the loader was closed, before or meanwhile.
            PrefetcherBusyError: the loader belongs to another loop.
        """
        self.check_usable()
        return await self._snapshots.take(grace)

    def _look(self) -> Snapshot:
        shards = tuple(
            ShardSnapshot(shard, ledger.start(), ledger.ended, self._delivery.delivered(shard))
            for shard, ledger in self._ledgers.items()
        )
        return Snapshot(self._in_order, self._delivery.due, shards, self._delivery.ready())

    # ------------------------------------------------------------------------------------------------- for the handles

    def new_run(self) -> int:
        """A run number that was never used."""
        self._runs += 1
        return self._runs

    def run_ended(self, start: Callable[[], None]) -> None:
        """A worker is idle: start its next run, or take the snapshot for which it was stopped."""
        if not self._snapshots.pending:
            start()
        self.changed()

    def changed(self) -> None:
        """A handle changed: a snapshot may be due, credit may be dealt in another way, or a wait may be over."""
        self._snapshots.take_if_quiet()
        self._deal_credit()
        self._shutdown.changed()

    def crashed(self, error: Exception) -> None:
        """A fault in this library: raise it to the consumer, and to the callers that wait for a snapshot."""
        failure = AsyncPrefetchError(f"a fault in asyncprefetch, please report it: {type(error).__name__}: {error}")
        failure.__cause__ = error
        self._delivery.put_failure(failure)
        self._snapshots.fail(failure)

    # ---------------------------------------------------------------------------------------------------------- closing

    @property
    def needs_close(self) -> bool:
        """Whether forgetting the loader now would leave a worker running."""
        return self.state in {LoaderState.ACTIVE, LoaderState.FAILED, LoaderState.ENDED} and self._shutdown.holds_worker

    async def aclose(self) -> None:
        """End every worker and wait until it is gone. Calls that wait for a batch or a snapshot get an error. Idempotent.

        A cancellation is held back until everything is gone, which takes a few seconds at most.

        Raises:
            PrefetcherBusyError: the loader belongs to another loop, which is not closed. Nothing was changed.
        """
        _running_loop()  # anyio can't shield without one
        with anyio.CancelScope(shield=True):
            await self._end_workers()

    async def _end_workers(self) -> None:
        if self.state is LoaderState.CLOSED:
            return
        if (owner := self._other_loop) is not None:
            if not owner.is_closed():
                raise PrefetcherBusyError(
                    "the loader was started on another event loop and can be closed on that one only, as long as it is open"
                )
            self._loop = asyncio.get_running_loop()
            self._snapshots.forget()
            self._delivery.forget_waiters()
            self._shutdown.outlive_loop()
        await self._shutdown.aclose()

    def kill(self) -> None:
        """End every worker at once, from any thread, with or without a running loop."""
        self._shutdown.kill()

    def abandon(self, loader: str) -> None:
        """The public object is gone and was not closed: kill the workers, and clean up if the loop still runs."""
        if not self.needs_close:
            return
        self.kill()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._close_forgotten)
        _warn_unclosed(loader)

    def _close_forgotten(self) -> None:
        if self.needs_close:
            self._shutdown.begin()

    async def _loop_shuts_down(self) -> None:
        unclosed = self.needs_close
        if unclosed or self.state is LoaderState.CLOSING:
            await self._end_workers()
        if unclosed:
            _warn_unclosed("an AsyncPrefetcher")

    def _closing(self) -> None:
        self._step(LoaderEvent.CLOSE)
        error = PrefetcherClosedError("the loader was closed")
        self._delivery.close(error)
        self._snapshots.fail(error)

    def _closed(self) -> None:
        self._step(LoaderEvent.ALL_GONE)

    # ------------------------------------------------------------------------------------------------------- statistics

    def statistics(self) -> Statistics:
        """The figures of this moment."""
        until = self._ended_at or time.monotonic()
        buffered = sum(self._delivery.buffered.values())
        return Statistics(
            state=self.state.name.lower(),
            n_batches_to_prefetch=self.options.n_batches_to_prefetch,
            delivered_by_shard={shard: self._delivery.delivered(shard) for shard in self._ledgers},
            buffered=buffered,
            requested=self._delivery.scheduler.ahead - buffered,
            seconds_active=until - self._started_at if self._started_at else 0.0,
            seconds_to_first=self._delivery.seconds_to_first,
            seconds_waiting=self._delivery.seconds_waiting,
            workers=tuple(handle.statistics() for handle in self._workers),
        )

    def _step(self, event: LoaderEvent) -> None:
        self.state = advance(LOADER, self.state, event)


def _running_loop() -> asyncio.AbstractEventLoop:
    """Return the asyncio loop that runs here.

    Raises:
        EventLoopError: none does. The caller runs under trio, say, or in no event loop at all.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise EventLoopError(
            "a loader needs an event loop of asyncio or uvloop, and none runs here: call it from a coroutine that "
            "asyncio.run() runs. A program written for anyio or trio can use it under anyio.run(main, backend='asyncio')"
        ) from None


def _warn_unclosed(loader: str) -> None:
    warnings.warn(f"{loader} was never closed: use 'async with', or await aclose()", ResourceWarning, stacklevel=2)
