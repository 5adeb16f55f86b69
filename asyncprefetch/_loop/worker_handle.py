"""One worker as the loop sees it: its runs, what it sends, its restarts.

A receiver turns messages into what is known of the shards (``_recovery``) and into entries for the consumer, and keeps a
run going as long as a shard has more to send. It decides nothing about order and credit: its owner does.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from asyncprefetch._loop import error_reports, worker_logs
from asyncprefetch._loop.ledger import Ledger
from asyncprefetch._loop.options import Options
from asyncprefetch._loop.owner import Owner
from asyncprefetch._loop.retries import Retries
from asyncprefetch._loop.scheduler import Scheduler
from asyncprefetch._loop.shard_queue import Ended, Failure, Ready
from asyncprefetch._loop.states import RUN, RunEvent, RunState, advance
from asyncprefetch._loop.transport import Sink, Transport
from asyncprefetch._loop.watchdog import Watchdog
from asyncprefetch._process.limits import advice
from asyncprefetch._wire.messages import (
    Credit,
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
    ShardStart,
    Start,
    State,
    Stop,
    Tally,
)
from asyncprefetch.errors import WorkerDiedError
from asyncprefetch.statistics import WorkerStatistics

_LOG = logging.getLogger("asyncprefetch")


class WorkerHandle:
    """One worker, with the shards that it hosts."""

    def __init__(
        self,
        number: int,
        ledgers: Mapping[int, Ledger],
        scheduler: Scheduler,
        options: Options,
        *,
        open_transport: Callable[[int, Sink], Transport],
        owner: Owner,
    ) -> None:
        self.number = number
        self.state = RunState.OFF
        self._pid: int | None = None
        self._restarts = 0
        self._counted: Counter[str] = Counter()
        self._ledgers = ledgers
        self._scheduler = scheduler
        self._options = options
        self._initializer = options.pickled_initializer()
        self._open_transport = open_transport
        self._owner = owner
        self._transport: Transport | None = None
        self._run = -1
        self._upto: dict[int, int] = {}  # credit given, by shard of the run
        self._failed: set[int] = set()  # shards that send nothing more, for an error
        self._retries = Retries(options.retry_names, self._retry)
        # Deaths by the item that was being made: progress elsewhere does not excuse an item that kills.
        self._deaths: Counter[tuple[int, int] | None] = Counter()
        self._was_up = self._killed = False  # killed by us: then its death is no reason to start another
        self._start_watch = Watchdog(
            options.start_timeout, lambda: self.state is RunState.STARTING, self._start_timed_out
        )
        self._stall_watch = (
            Watchdog(options.stall_timeout, lambda: self._owes, self._stalled)
            if options.stall_timeout is not None
            else None
        )

    def statistics(self) -> WorkerStatistics:
        """The figures of this moment."""
        return WorkerStatistics(
            worker=self.number,
            pid=self._pid,
            state=self.state.name.lower(),
            shards=tuple(self._ledgers),
            restarts=self._restarts,
            retries=self._retries.count,
            mapped=self._transport.mapped if self._transport is not None else 0,
            counted=dict(self._counted),
        )

    # ------------------------------------------------------------------------------------------ runs, from the owner

    def open(self) -> None:
        """Ask for a worker and a first run; nothing if no shard has anything left to send."""
        starts = self._starts()
        if not starts and not self._retries.resting:
            self._step(RunEvent.RETIRE)
            return
        self._start_watch.expect()
        self._step(RunEvent.OPEN)
        try:
            self._transport = self._open_transport(self.number, self)
        except Exception as error:
            failure = WorkerDiedError(
                f"worker {self.number} could not be made: {type(error).__name__}: {error}{advice(error)}",
                worker=self.number,
            )
            failure.__cause__ = error.with_traceback(None)
            self._give_up(failure)
            return
        self._begin(starts)
        self._transport.open(Setup(self.number, self._initializer), Start(self._run, starts))

    def start(self) -> None:
        """Begin the next run on a worker that is idle."""
        starts = self._starts()
        if not starts:
            if not self._retries.resting:
                self._retire()
            return
        self._step(RunEvent.START)
        self._begin(starts)
        assert self._transport is not None
        self._transport.start(Start(self._run, starts))
        self._open_shards()

    def stop(self) -> None:
        """End the run, if one is going: fresh states come, and then ``run_ended`` is called."""
        if self.state is not RunState.RUNNING:
            return
        if self._stall_watch is not None:
            self._stall_watch.expect()
        self._step(RunEvent.STOP)
        for shard in self._upto:
            self._scheduler.close(shard, 0)
        assert self._transport is not None
        self._transport.stop(Stop(self._run))

    def credit(self, shard: int, batches: int) -> None:
        """Let the shard send so many items more."""
        if self._stall_watch is not None:
            self._stall_watch.expect()
        self._upto[shard] += batches
        assert self._transport is not None
        self._transport.credit(Credit(self._run, shard, self._upto[shard]))

    def flush(self) -> None:
        """Let the worker know of the credit."""
        if self._transport is not None:
            self._transport.flush()

    def poll(self) -> None:
        """Receive what has come."""
        if self._transport is not None:
            self._transport.poll()

    def kill(self) -> None:
        """End the worker at once and for good, from any thread; ``aclose`` is still to be called if there is a loop."""
        self._killed = True
        if self._transport is not None:
            self._transport.kill()

    async def aclose(self) -> None:
        """End the worker and wait until it is gone. Nothing more is put or called."""
        self._step(RunEvent.CLOSE)
        self._cancel_timers()
        if self._transport is not None:
            await self._transport.aclose()

    # ------------------------------------------------------------------------------------------ Sink, from the transport

    def received(self, messages: Sequence[FromWorker]) -> None:
        """Messages came from the worker."""
        if self._stall_watch is not None:
            self._stall_watch.heard()
        try:
            for message in messages:
                if type(message) is not Item:
                    self._receive(message)
                elif message.run == self._run:
                    self._item(message)
        except Exception as error:
            self._owner.crashed(error)

    def _receive(self, message: FromWorker) -> None:
        match message:
            case Log():
                worker_logs.handle(self.number, message.record)
            case Tally():
                self._counted.update(message.counted)
            case Hello():
                self._hello(message)
            case SetupFailed():
                self._lose_worker()
                self._give_up(
                    error_reports.producer_error(message.error, None, None, f"worker {self.number}: initializer")
                )
            case Replaying():
                pass  # that something came is all it is for
            case State() | EndOfShard() | Failed() | Final() if message.run != self._run:
                pass  # of a run that is over
            case State():
                self._ledgers[message.shard].add_state(message.position, message.state)
            case EndOfShard():
                self._ledgers[message.shard].add_end(message.position)
                self._close_shard(message.shard)
                self._owner.put(message.shard, Ended(message.shard))
                self._retire_if_done()
            case Failed():
                self._shard_failed(message)
            case Final():
                self._close_shards()
                self._step(RunEvent.FINAL)
                self._owner.run_ended(self.start)

    def died(self, death: Death) -> None:
        """The worker is gone."""
        try:
            self._died(death)
        except Exception as error:
            self._owner.crashed(error)

    # ------------------------------------------------------------------------------------------------------- messages

    def _hello(self, hello: Hello) -> None:
        self._pid = hello.pid
        self._was_up = True
        self._start_watch.cancel()
        self._step(RunEvent.HELLO)
        self._open_shards()

    def _item(self, item: Item) -> None:
        _, shard, position, fingerprint, payload = item
        self._ledgers[shard].add_item(position, fingerprint)
        if self._deaths:
            del self._deaths[None], self._deaths[shard, position]
        self._retries.succeeded(shard)
        self._owner.put(shard, Ready(shard, payload))

    def _shard_failed(self, failed: Failed) -> None:
        shard = failed.shard
        self._close_shard(shard)
        if not self._retries.begin(failed):
            self._failed.add(shard)
            where = f"shard {shard}, position {failed.position}"
            if attempts := self._retries.attempts(shard):
                where += f", after {attempts} retries"
            self._owner.put(shard, Failure(error_reports.producer_error(failed.error, shard, failed.position, where)))
        self._retire_if_done()

    def _retry(self, shard: int) -> None:
        if self.state is RunState.RUNNING:
            self.stop()  # the next run has the shard with it
        elif self.state is RunState.IDLE:
            self._owner.run_ended(self.start)

    # ---------------------------------------------------------------------------------------------------- run, inside

    def _starts(self) -> dict[int, ShardStart]:
        idle = self._failed | self._retries.resting
        return {s: ledger.start() for s, ledger in self._ledgers.items() if not ledger.ended and s not in idle}

    def _begin(self, starts: Mapping[int, ShardStart]) -> None:
        self._run = self._owner.new_run()
        self._upto = {shard: start.position for shard, start in starts.items()}

    def _open_shards(self) -> None:
        for shard in self._upto:
            self._scheduler.open(shard)
        if self._starts().keys() - self._upto.keys():
            self.stop()  # a retry came due while the worker was starting
        self._owner.changed()

    def _close_shards(self) -> None:
        for shard in list(self._upto):
            self._close_shard(shard)

    def _close_shard(self, shard: int) -> None:
        upto = self._upto.pop(shard)
        self._scheduler.close(shard, upto - self._ledgers[shard].position)

    def _retire_if_done(self) -> None:
        if not self._upto and not self._retries.resting and self.state is RunState.RUNNING:
            self._retire()
        else:
            self._owner.changed()

    def _retire(self) -> None:
        self._step(RunEvent.RETIRE)
        self._let_go()
        self._owner.changed()

    def _let_go(self) -> None:
        """Close the transport, whose worker is of no more use."""
        self._cancel_timers()
        if self._transport is not None:
            transport, self._transport = self._transport, None
            transport.detach()
            self._owner.let_go(transport)

    def _lose_worker(self) -> tuple[int, int] | None:
        """The worker is gone, or is to go: shard and position of the item that it was making."""
        drawing = self._transport.drawing if self._transport is not None else None
        self._close_shards()
        self._let_go()
        return drawing

    def _give_up(self, error: Exception) -> None:
        self._step(RunEvent.GIVE_UP)
        for shard, ledger in self._ledgers.items():
            if not ledger.ended and shard not in self._failed:
                self._failed.add(shard)
                self._owner.put(shard, Failure(error))
        self._cancel_timers()
        self._owner.changed()

    def _step(self, event: RunEvent) -> None:
        self.state = advance(RUN, self.state, event)

    # ---------------------------------------------------------------------------------------------- death and silence

    def _died(self, death: Death) -> None:
        drawing = self._lose_worker()
        self._step(RunEvent.DEATH)
        if not self._starts() and not self._retries.resting:
            self._step(RunEvent.RETIRE)  # nobody needs it any more
            self._owner.changed()
            return
        self._deaths[drawing] += 1
        restarts = self._deaths[drawing] - 1
        if not self._was_up or self._killed or restarts >= self._options.max_restarts:
            self._give_up(
                error_reports.death_error(self.number, death, drawing, was_up=self._was_up, restarts=restarts)
            )
            return
        self._restarts += 1
        _LOG.warning(
            "%s; it is started again (%d of %d without progress)",
            *(error_reports.death_text(self.number, death, drawing), restarts + 1, self._options.max_restarts),
        )
        self.open()
        self._owner.changed()

    def _start_timed_out(self) -> None:
        seconds = self._options.start_timeout
        text = f"did not say hello within start_timeout={seconds:g} s: its start, its imports or the initializer "
        self._abort(seconds, text + "take longer, or its executor has no place for it")

    @property
    def _owes(self) -> bool:
        """Whether the worker was asked for something that it has not sent. Backpressure is no stall."""
        return self.state is RunState.STOPPING or any(
            upto > self._ledgers[shard].position for shard, upto in self._upto.items()
        )

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
            self._retries.cancel()
