"""One worker as the loop sees it: launched, running, stopped, dead, launched again, closed.

A handle turns the worker's messages into what is known of its shards (``ledger``) and into entries for the consumer
(``shard_queue``), and keeps a run going as long as a shard has more to send. It decides nothing about order and credit.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from asyncprefetch._loop import error_reports, worker_logs
from asyncprefetch._loop.error_reports import Drawing
from asyncprefetch._loop.hosted_shards import HostedShards
from asyncprefetch._loop.ledger import Ledger
from asyncprefetch._loop.options import Options
from asyncprefetch._loop.restarts import Restarts
from asyncprefetch._loop.retries import Retries
from asyncprefetch._loop.scheduler import Scheduler
from asyncprefetch._loop.shard_queue import Ended, Entry, Failure
from asyncprefetch._loop.snapshot import Ready
from asyncprefetch._loop.start_clock import start_clock
from asyncprefetch._loop.states import RUN, RunEvent, RunState
from asyncprefetch._loop.transport import Sink, Transport
from asyncprefetch._loop.watchdog import Watchdog
from asyncprefetch._loop.worker_run import Run
from asyncprefetch._process.limits import advice
from asyncprefetch._wire.messages import (
    Death,
    EndOfShard,
    Failed,
    Final,
    FromWorker,
    Hello,
    Item,
    Log,
    Replaying,
    Setup,
    SetupFailed,
    Start,
    State,
    Stop,
    Tally,
)
from asyncprefetch._wire.transitions import advance
from asyncprefetch.errors import WorkerDiedError
from asyncprefetch.statistics import WorkerStatistics

_LOG = logging.getLogger("asyncprefetch")

_HOLDING_A_WORKER = {RunState.STARTING, RunState.RUNNING, RunState.STOPPING, RunState.IDLE, RunState.LOST}


class Loader(Protocol):
    """What a handle needs of the loader that it belongs to."""

    @property
    def put(self) -> Callable[[int, Entry], None]:
        """Queues an entry of a shard for the consumer."""

    @property
    def close_transport(self) -> Callable[[Transport], None]:
        """Closes a transport that is not needed any more. The loader's end waits for it."""

    def new_run(self) -> int:
        """A run number that was never used."""

    def open_transport(self, worker: int, sink: Sink) -> Transport:
        """A transport for the worker. It may raise: the worker then counts as failed."""

    def run_ended(self, start: Callable[[], None]) -> None:
        """A run reached its final sentinel. The next one begins with ``start()``."""

    def changed(self) -> None:
        """The state of a handle changed: credit may be dealt in another way, or a wait may be over."""

    def crashed(self, error: Exception) -> None:
        """A fault in this library: raise it to the consumer, so that no call waits forever."""


class WorkerHandle:
    """One worker, with the shards that it hosts.

    Args:
        number: of the worker, from 0.
        ledgers: what is known of its shards, by global number.
        scheduler: the order and the credit of all shards of the loader.
        options: how the loader runs.
        loader: the loader that it belongs to.
    """

    def __init__(
        self, number: int, ledgers: Mapping[int, Ledger], scheduler: Scheduler, options: Options, loader: Loader
    ) -> None:
        self.number = number
        self.state = RunState.OFF
        self._shards = HostedShards(ledgers, Retries(options.retry_names, self._retry))
        self._scheduler = scheduler
        self._options = options
        self._setup = Setup(number, options.pickled_initializer())
        self._loader = loader
        self._transport: Transport | None = None
        self._run = Run(-1, {}, ledgers, scheduler)
        self._restarts = Restarts()
        self._killed = False  # by the loader, which ends: the worker is not launched again
        self._pid: int | None = None
        self._counted: Counter[str] = Counter()
        self._start_watch = Watchdog(
            options.start_timeout,
            lambda: self.state is RunState.STARTING,
            self._start_timed_out,
            start_clock.seconds,
        )
        self._stall_watch = (
            Watchdog(options.stall_timeout, lambda: self._owes, self._stalled)
            if options.stall_timeout is not None
            else None
        )

    @property
    def holds_worker(self) -> bool:
        """Whether a worker exists, or is about to."""
        return self.state in _HOLDING_A_WORKER

    def statistics(self) -> WorkerStatistics:
        """The figures of this moment."""
        return WorkerStatistics(
            worker=self.number,
            pid=self._pid,
            state=self.state.name.lower(),
            shards=tuple(self._shards.ledgers),
            restarts=self._restarts.count,
            retries=self._shards.retries.count,
            mapped=self._transport.mapped if self._transport is not None else 0,
            counted=dict(self._counted),
        )

    # ----------------------------------------------------------------------------------------- commands of the loader

    def launch(self) -> None:
        """Ask for a worker and its first run. Does nothing if no shard has anything left to send."""
        if not self._shards.need_worker:
            self._step(RunEvent.RETIRE)
            return
        self._start_watch.expect()
        self._step(RunEvent.LAUNCH)
        try:
            self._transport = self._loader.open_transport(self.number, self)
        except Exception as error:
            failure = WorkerDiedError(
                f"worker {self.number} could not be made: {type(error).__name__}: {error}{advice(error)}",
                worker=self.number,
            )
            failure.__cause__ = error.with_traceback(None)
            self._give_up(failure)
            return
        self._transport.launch(self._setup, self._new_run())

    def start(self) -> None:
        """Begin the next run on an idle worker."""
        if not self._shards.ready:
            if not self._shards.need_worker:
                self._retire()
            return
        self._step(RunEvent.START)
        assert self._transport is not None
        self._transport.start(self._new_run())
        self._accept_credit()

    def stop(self) -> None:
        """End the run, if there is one: fresh states come, and then the loader's ``run_ended`` is called."""
        if self.state is not RunState.RUNNING:
            return
        if self._stall_watch is not None:
            self._stall_watch.expect()
        self._step(RunEvent.STOP)
        self._run.refuse_credit()
        assert self._transport is not None
        self._transport.stop(Stop(self._run.number))

    def credit(self, shard: int, batches: int) -> None:
        """Let the shard send so many batches more, from the next :meth:`flush` on at the latest."""
        if self._stall_watch is not None:
            self._stall_watch.expect()
        assert self._transport is not None
        self._transport.credit(self._run.give(shard, batches))

    def flush(self) -> None:
        """Send the credit to the worker."""
        if self._transport is not None:
            self._transport.flush()

    def poll(self) -> None:
        """Receive what has arrived, without waiting for the loop."""
        if self._transport is not None:
            self._transport.poll()

    def kill(self) -> None:
        """End the worker at once and for good, from any thread. On a running loop, ``aclose`` is still to be called."""
        self._killed = True
        if self._transport is not None:
            self._transport.kill()

    async def aclose(self) -> None:
        """End the worker and wait until it is gone. Nothing is put and nothing of the loader is called from now on."""
        self._step(RunEvent.CLOSE)
        self._cancel_timers()
        if self._transport is not None:
            await self._transport.aclose()

    # ------------------------------------------------------------------------------------------ Sink, for the transport

    def received(self, messages: Sequence[FromWorker]) -> None:
        """Messages came from the worker."""
        if self._stall_watch is not None:
            self._stall_watch.heard()
        try:
            for message in messages:
                if type(message) is not Item:
                    self._receive(message)
                elif message.run == self._run.number:
                    _, shard, position, fingerprint, payload = message
                    self._shards.ledgers[shard].add_item(position, fingerprint)
                    if self._restarts.deaths:
                        self._restarts.progressed(shard, position)
                    if self._shards.retries.attempted:
                        self._shards.retries.succeeded(shard)
                    self._loader.put(shard, Ready(shard, payload))
        except Exception as error:
            self._loader.crashed(error)

    def died(self, death: Death) -> None:
        """The worker is gone."""
        try:
            self._died(death)
        except Exception as error:
            self._loader.crashed(error)

    # ------------------------------------------------------------------------------------------------------- messages

    def _receive(self, message: FromWorker) -> None:
        match message:
            case Log():
                worker_logs.handle(self.number, message.record)
            case Tally():
                self._counted.update(message.counted)
            case Hello():
                self._pid = message.pid
                self._restarts.was_up = True
                self._start_watch.cancel()
                self._step(RunEvent.HELLO)
                self._accept_credit()
            case SetupFailed():
                self._lose_worker()
                self._give_up(error_reports.initializer_error(message.error, self.number))
            case Replaying():
                pass  # the watchdog heard it, which is all that it is for
            case State() | EndOfShard() | Failed() | Final() if message.run != self._run.number:
                pass  # of an earlier run
            case State():
                self._shards.ledgers[message.shard].add_state(message.position, message.state)
            case EndOfShard():
                self._shards.ledgers[message.shard].add_end(message.position)
                self._run.end_shard(message.shard)
                self._loader.put(message.shard, Ended(message.shard))
                self._retire_if_done()
            case Failed():
                self._shard_failed(message)
            case Final():
                self._run.end()
                self._step(RunEvent.FINAL)
                self._loader.run_ended(self.start)

    def _shard_failed(self, failed: Failed) -> None:
        shard, retries = failed.shard, self._shards.retries
        self._run.end_shard(shard)
        if not retries.begin(failed):
            self._shards.failed(shard)
            error = error_reports.shard_error(failed, retries.attempts(shard))
            self._loader.put(shard, Failure(error))
        self._retire_if_done()

    def _retry(self, shard: int) -> None:
        if self.state is RunState.RUNNING:
            self.stop()  # the next run serves the shard again
        elif self.state is RunState.IDLE:
            self._loader.run_ended(self.start)

    # ------------------------------------------------------------------------------------------------- runs and the end

    def _new_run(self) -> Start:
        starts = self._shards.starts()
        self._run = Run(self._loader.new_run(), starts, self._shards.ledgers, self._scheduler)
        return Start(self._run.number, starts)

    def _accept_credit(self) -> None:
        self._run.accept_credit()
        if not set(self._shards.ready) <= set(self._run.shards):
            self.stop()  # a retry came due while the worker was starting
        self._loader.changed()

    def _retire_if_done(self) -> None:
        if not self._run.shards and not self._shards.retries.resting and self.state is RunState.RUNNING:
            self._retire()
        else:
            self._loader.changed()

    def _retire(self) -> None:
        self._step(RunEvent.RETIRE)
        self._close_transport()
        self._loader.changed()

    def _close_transport(self) -> None:
        self._cancel_timers()
        if self._transport is not None:
            transport, self._transport = self._transport, None
            transport.detach()
            self._loader.close_transport(transport)

    def _give_up(self, error: Exception) -> None:
        self._step(RunEvent.GIVE_UP)
        for shard in self._shards.give_up():
            self._loader.put(shard, Failure(error))
        self._cancel_timers()
        self._loader.changed()

    def _step(self, event: RunEvent) -> None:
        self.state = advance(RUN, self.state, event)
        start_clock.set_starting(self, starts=self.state is RunState.STARTING)

    # ---------------------------------------------------------------------------------------------- death and silence

    def _lose_worker(self) -> Drawing:
        """The worker is gone, or is to go. Gives shard and position of the item that it was making, as far as known."""
        drawing = self._transport.drawing if self._transport is not None else None
        self._run.end()
        self._close_transport()
        return drawing

    def _died(self, death: Death) -> None:
        drawing = self._lose_worker()
        self._step(RunEvent.DEATH)
        if not self._shards.need_worker:
            self._step(RunEvent.RETIRE)
            self._loader.changed()
            return
        restarts, max_restarts = self._restarts.add_death(drawing), self._options.max_restarts
        if not self._restarts.was_up or self._killed or death.breaks_contract or restarts >= max_restarts:
            self._give_up(
                error_reports.death_error(self.number, death, drawing, was_up=self._restarts.was_up, restarts=restarts)
            )
            return
        self._restarts.count += 1
        _LOG.warning(
            "%s; it is started again (%d of %d without progress)",
            *(error_reports.death_text(self.number, death, drawing), restarts + 1, max_restarts),
        )
        self.launch()
        self._loader.changed()

    def _start_timed_out(self) -> None:
        seconds = self._options.start_timeout
        text = (
            f"did not say hello within start_timeout={seconds:g} s, counted as if it had a core of its own: its start, its "
            "imports or the initializer take longer, or its executor has no room for it"
        )
        self._abort(seconds, text)

    @property
    def _owes(self) -> bool:
        """Whether the worker was asked for something that it has not sent."""
        return self.state is RunState.STOPPING or self._run.owes

    def _stalled(self) -> None:
        seconds = self._options.stall_timeout
        assert seconds is not None
        asked = "its states were" if self.state is RunState.STOPPING else "batches were"
        self._abort(
            seconds, f"(pid {self._pid}) sent nothing for stall_timeout={seconds:g} s, though {asked} asked of it"
        )

    def _abort(self, seconds: float, text: str) -> None:
        assert self._transport is not None
        self._transport.kill()
        drawing = self._lose_worker()
        self._give_up(error_reports.stalled_error(self.number, seconds, text, drawing))

    def _cancel_timers(self) -> None:
        for watchdog in (self._start_watch, self._stall_watch):
            if watchdog is not None:
                watchdog.cancel()
        if self.state in {RunState.CLOSED, RunState.FAILED}:
            self._shards.retries.cancel()
