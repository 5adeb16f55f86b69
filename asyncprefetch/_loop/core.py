"""The loader's core: it ties receivers and delivery together, deals out credit, and takes snapshots.

It is apart from the public object, so that callbacks and tasks keep the core alive and not the loader: a loader that
was forgotten can be noticed. Everything here runs on one event loop, and but for ``next``, ``snapshot`` and ``aclose``
nothing waits.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import time
import warnings
from collections.abc import Callable
from typing import Any

import anyio

from asyncprefetch._loop import stream_transport
from asyncprefetch._loop.delivery import NOTHING, Delivery
from asyncprefetch._loop.leaving import Leaving
from asyncprefetch._loop.ledger import Ledger
from asyncprefetch._loop.loop_watch import LoopWatch
from asyncprefetch._loop.options import Options
from asyncprefetch._loop.pull_transport import PullTransport
from asyncprefetch._loop.snapshot import ShardSnapshot, Snapshot
from asyncprefetch._loop.states import LOADER, LoaderEvent, LoaderState, RunState, advance
from asyncprefetch._loop.transport import Sink, Transport
from asyncprefetch._loop.worker_handle import WorkerHandle
from asyncprefetch.errors import AsyncPrefetchError, PrefetcherBusyError, PrefetcherClosedError
from asyncprefetch.executors import ProcessExecutor
from asyncprefetch.statistics import Statistics

_HOLDING_A_WORKER = {RunState.STARTING, RunState.RUNNING, RunState.STOPPING, RunState.IDLE, RunState.LOST}


class Core:
    """One loader, from a snapshot on."""

    def __init__(self, origin: Snapshot, options: Options) -> None:
        self.state = LoaderState.NEW
        self.options = options
        self._in_order = origin.in_order
        self._num_workers = options.workers_for(len(origin.shards))
        self._ledgers = {s.shard: Ledger(s.shard, s.start, ended=s.ended) for s in origin.shards}
        self._delivery = Delivery(
            origin, self._ledgers, options.n_batches_to_prefetch, on_room=self._grant, on_want=self._poll
        )
        self.put = self._delivery.put  # for the receivers: queue an entry for the consumer
        self._scheduler = self._delivery.scheduler
        self._workers: list[WorkerHandle] = []
        self._worker_of: dict[int, WorkerHandle] = {}
        self._runs = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._snapshot: asyncio.Future[Snapshot] | None = None  # asked for, and not taken yet
        self._opening = False
        self._change: asyncio.Future[None] | None = None  # done when the state of a receiver may have changed
        self._leaving = Leaving()
        self.let_go = self._leaving.add  # for the receivers: close a transport
        self._closing: asyncio.Task[None] | None = None
        self._watch: LoopWatch | None = None
        self._started_at = self._ended_at = 0.0

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
        anyio.CancelScope()  # loads what anyio needs for this loop: to close, there may be no descriptor left for that
        self._step(LoaderEvent.START)
        self._started_at = time.monotonic()
        self._watch = LoopWatch(self._loop_shuts_down)
        shards = list(self._ledgers)
        for number in range(self._num_workers):
            hosted = {shard: self._ledgers[shard] for shard in shards[number :: self._num_workers]}
            receiver = WorkerHandle(
                number, hosted, self._scheduler, self.options, open_transport=self._open_transport, owner=self
            )
            self._workers.append(receiver)
            self._worker_of.update(dict.fromkeys(hosted, receiver))
        for receiver in self._workers:
            receiver.open()

    def check_usable(self) -> None:
        """Refuse a loader that is closed, or belongs to another loop.

        Raises:
            PrefetcherClosedError: ``aclose()`` was called.
            PrefetcherBusyError: the running loop is not the one on which the loader was started.
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
        return self._loop if self._loop is not asyncio.get_running_loop() else None

    def _open_transport(self, worker: int, sink: Sink) -> Transport:
        options = self.options
        executor = options.executor_for(worker)
        if executor is not None:
            return PullTransport(executor, sink)
        workers = options.process_workers
        if not stream_transport.is_supported():
            executor = ProcessExecutor(start_method=workers.start_method, env=workers.env, malloc=workers.malloc)
            return PullTransport(executor, sink)
        return stream_transport.StreamTransport(
            sink,
            n_prefetch=options.n_batches_to_prefetch,
            workers=workers,
        )

    # -------------------------------------------------------------------------------------------------------- consuming

    def next_nowait(self, check: Callable[[int, Any], None]) -> Any:
        """The next item, if it is at hand and nothing has to be waited for, decided or told; else ``NOTHING``."""
        if self.state is not LoaderState.ACTIVE or asyncio.get_running_loop() is not self._loop:
            return NOTHING
        return self._delivery.next_nowait(check)

    async def next(self, check: Callable[[int, Any], None]) -> Any:
        """The next item, after ``check(shard, item)``. Cancelled, or if the check raises, it has taken nothing.

        Raises:
            StopAsyncIteration: every shard's end was reached, and every worker is gone.
            AsyncPrefetchError: what happened to a producer, a worker or this loader; again at every further call.
        """
        self.start()
        try:
            return await self._delivery.next(check)
        except StopAsyncIteration:
            await self._end()
            raise
        finally:
            if self._delivery.failure is not None and self.state is LoaderState.ACTIVE:
                self._step(LoaderEvent.FAIL)

    async def _end(self) -> None:
        if self.state is LoaderState.ACTIVE:
            self._step(LoaderEvent.END)
            self._ended_at = time.monotonic()
        # A loader that came to its end leaves nothing behind, also if nobody closes it.
        await self._settle()

    async def _settle(self) -> None:
        """Wait until no worker is left, and give the loop watch back."""
        while self._leaving or any(receiver.state in _HOLDING_A_WORKER for receiver in self._workers):
            if self._leaving:
                await self._leaving.wait()
            else:
                if self._change is None or self._change.done():
                    self._change = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._change)
        if self._watch is not None:
            await self._watch.dismiss()

    def _grant(self) -> None:
        if self._opening or self.state is LoaderState.CLOSING or self.state is LoaderState.CLOSED:
            return
        for shard, batches in itertools.groupby(self._scheduler.grant()):
            self._worker_of[shard].credit(shard, sum(1 for _ in batches))
        for receiver in self._workers:
            receiver.flush()

    def _poll(self) -> None:
        for receiver in self._workers:
            receiver.poll()

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
        for receiver in self._workers:
            receiver.stop()
        self._take_if_quiet()
        return pending

    def _take_if_quiet(self) -> None:
        if all(receiver.state is not RunState.STOPPING for receiver in self._workers):
            self._take()

    def _take(self) -> None:
        # No await in here: buffer and states belong together.
        if self._snapshot is None:
            return
        pending, self._snapshot = self._snapshot, None
        if not pending.done():
            try:
                pending.set_result(self._look())
            except Exception as error:  # no memory for the copies, say: whoever asked gets it, and the loader goes on
                pending.set_exception(error)
        self._opening = True  # credit is dealt when all can use it, not all to the first
        for receiver in self._workers:
            if receiver.state is RunState.IDLE:
                receiver.start()
        self._opening = False
        self._grant()

    def _look(self) -> Snapshot:
        shards = tuple(
            ShardSnapshot(shard, ledger.start(), ledger.ended, self._delivery.delivered(shard))
            for shard, ledger in self._ledgers.items()
        )
        return Snapshot(self._in_order, self._delivery.due, shards, self._delivery.ready())

    # --------------------------------------------------------------------------------------------- for the receivers

    def new_run(self) -> int:
        """A run number that was never used."""
        self._runs += 1
        return self._runs

    def run_ended(self, start: Callable[[], None]) -> None:
        """A worker is idle: start its next run, or take the snapshot for which it was stopped."""
        if self._snapshot is None:
            start()
        self.changed()

    def changed(self) -> None:
        """Something changed on which a snapshot may wait, or credit depends."""
        if self._snapshot is not None:
            self._take_if_quiet()
        self._grant()
        self._tell_change()

    def _tell_change(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    def crashed(self, error: Exception) -> None:
        """A fault in this library: raise it to the consumer, and to whoever waits for a snapshot."""
        failure = AsyncPrefetchError(f"a fault in asyncprefetch, please report it: {type(error).__name__}: {error}")
        failure.__cause__ = error
        self._delivery.put_failure(failure)
        self._fail_snapshot(failure)

    # ---------------------------------------------------------------------------------------------------------- closing

    @property
    def needs_close(self) -> bool:
        """Whether forgetting the loader now would leave a worker behind."""
        return self.state in {LoaderState.ACTIVE, LoaderState.FAILED, LoaderState.ENDED} and (
            bool(self._leaving) or any(receiver.state in _HOLDING_A_WORKER for receiver in self._workers)
        )

    async def aclose(self) -> None:
        """End every worker and wait until it is gone; who waits for a batch or a snapshot gets an error. Idempotent.

        A cancellation is held back until everything is gone, which takes a few seconds at most.

        Raises:
            PrefetcherBusyError: the loader belongs to another loop, which is not closed. Nothing was changed.
        """
        if self.state is LoaderState.CLOSED:
            return
        if (owner := self._other_loop) is not None:
            if not owner.is_closed():
                raise PrefetcherBusyError(
                    "the loader was started on another event loop and can be closed on that one only, as long as it is open"
                )
            self._outlive_loop()
        cancelled: asyncio.CancelledError | None = None
        while not (closing := self._begin_close()).done():
            try:
                await asyncio.wait([closing])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        if not closing.cancelled():  # in its last step
            closing.result()

    def _outlive_loop(self) -> None:
        """The loop was closed: whoever waited there is gone, and what was to be done there is done here, or never."""
        self._loop = asyncio.get_running_loop()
        self._snapshot = self._change = self._closing = None
        self._delivery.forget_waiters()
        self._leaving.outlive_loop()

    async def _close(self) -> None:
        self._step(LoaderEvent.CLOSE)
        cut_off = False
        error = PrefetcherClosedError("the loader was closed")
        self._delivery.close(error)
        self._fail_snapshot(error)
        try:
            closed = asyncio.gather(*(receiver.aclose() for receiver in self._workers))
            self._tell_change()
            await closed
            await self._settle()
        except (asyncio.CancelledError, GeneratorExit):  # the loop ends: whoever waits for this has it done again
            cut_off = True
            raise
        finally:
            self.kill()  # the processes must not outlive the loop
            if not cut_off:
                self._step(LoaderEvent.ALL_GONE)

    def _fail_snapshot(self, error: Exception) -> None:
        if self._snapshot is not None:
            pending, self._snapshot = self._snapshot, None
            if not pending.done():
                # One of its own: raised, it gets the frames of whoever asked, and they must not live as long as the loader.
                own = copy.copy(error)
                own.__cause__ = error.__cause__
                pending.set_exception(own)
                pending.exception()  # whoever asked may be gone: that is not worth a warning

    def kill(self) -> None:
        """End every worker at once, from any thread, with or without a running loop."""
        for receiver in self._workers:
            receiver.kill()
        self._leaving.kill()

    def abandon(self, loader: str) -> None:
        """The public object is gone, and nobody closed it: kill the workers, and clean up if the loop still runs."""
        if not self.needs_close:
            return
        self.kill()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._close_forgotten)
        _warn_unclosed(loader)

    def _begin_close(self) -> asyncio.Task[None]:
        # Whoever cancels all tasks cancels this one too, before it began, maybe: then it is begun again.
        if self._closing is None or (self._closing.cancelled() and self.state is not LoaderState.CLOSED):
            self._closing = asyncio.get_running_loop().create_task(self._close())
        return self._closing

    def _close_forgotten(self) -> None:
        if self.needs_close:
            self._begin_close()

    async def _loop_shuts_down(self) -> None:
        unclosed = self.needs_close
        if unclosed or self.state is LoaderState.CLOSING:
            await self.aclose()
        if unclosed:
            _warn_unclosed("an AsyncPrefetcher")

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
            requested=self._scheduler.ahead - buffered,
            seconds_active=until - self._started_at if self._started_at else 0.0,
            seconds_to_first=self._delivery.seconds_to_first,
            seconds_waiting=self._delivery.seconds_waiting,
            workers=tuple(receiver.statistics() for receiver in self._workers),
        )

    def _step(self, event: LoaderEvent) -> None:
        self.state = advance(LOADER, self.state, event)


def _warn_unclosed(loader: str) -> None:
    warnings.warn(f"{loader} was never closed: use 'async with', or await aclose()", ResourceWarning, stacklevel=2)
