"""What runs in a worker: the iterators of its shards, driven one message at a time.

Every call into the user's code is guarded: whatever it raises (``StopIteration`` and ``SystemExit`` included) leaves the
worker as a ``Failed`` message. An item is drawn only when there is credit for it and pickled at once.
"""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from typing import Any, NoReturn, Protocol, TypeVar

from asyncprefetch._wire import item_pickler
from asyncprefetch._wire.fingerprint import fingerprint
from asyncprefetch._wire.item_layout import Flat, flatten
from asyncprefetch._wire.messages import (
    Credit,
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
    ToWorker,
)
from asyncprefetch._wire.payloads import Framed
from asyncprefetch._wire.remote_errors import RemoteError, describe
from asyncprefetch._worker import counters, logs
from asyncprefetch.base import IteratorState, StatefulIterator

_LOG = logging.getLogger("asyncprefetch.producer")

# A worker sends fresh states now and then, so that a restart replays little: of a shard at most every 0.1 s, and rarely
# enough that all its shards together take no more than 1 % of its time for them.
_MIN_STATE_INTERVAL = 0.1
_STATE_SHARE = 0.01

# A replay is made in pieces of so many seconds, and tells after each that it goes on: so it is no stall however long it
# takes, and a stop need not wait for all of it.
_REPLAY_PIECE = 0.1

T = TypeVar("T")


class _RaisedError(Exception):
    """The user's code raised; carries the error as data."""

    def __init__(self, error: RemoteError) -> None:
        self.error = error


class Outlet(Protocol):
    """Where a producer's messages go, in the order in which it makes them."""

    def item(self, where: tuple[int, int, int], fingerprint: int, item: Any, flat: Flat | None) -> None:
        """An item of a run, a shard and a position, and the same flattened if it can be.

        It is to be pickled before this returns. Whatever that raises is the item's failure: nothing was sent.
        """

    def send(self, message: FromWorker) -> None:
        """Any other message. Raises nothing."""


class Collecting:
    """An outlet that keeps the messages, to be given as the answer to a call."""

    def __init__(self) -> None:
        self._messages: list[FromWorker] = []
        self._pickler = item_pickler.ItemPickler()

    def item(self, where: tuple[int, int, int], fingerprint: int, item: Any, flat: Flat | None) -> None:
        """Keep the item as one frame."""
        payload = Framed(self._pickler.dumps(item, flat), self._pickler.has_tensors)
        self._messages.append(Item(*where, fingerprint, payload))

    def send(self, message: FromWorker) -> None:
        """Keep the message."""
        self._messages.append(message)

    def take(self) -> list[FromWorker]:
        """What was kept since the last time."""
        messages, self._messages = self._messages, []
        return messages


class Producer:
    """The worker's end of the protocol.

    Args:
        outlet: where its messages go.
    """

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._shards: dict[int, _Shard] = {}
        self._run = -1
        self._set_up = False

    def handle(self, message: ToWorker) -> None:
        """Do what ``message`` asks. Raises nothing of the user's.

        Raises:
            BrokenExecutor: this is not the worker that the loader set up.
        """
        counters.drain()
        _send_reports(self._outlet)
        if isinstance(message, Setup):
            self._setup(message)
        elif not self._set_up:
            # An engine put another worker in the place of the one that the loader knows: the same to it as a death.
            raise BrokenExecutor("the executor replaced its worker, and the iterators of the old one are gone")
        elif isinstance(message, Start):
            self._start(message)
        elif isinstance(message, Stop):
            self._stop(message)
        else:
            # Of a replay one piece: the answer tells that it goes on, and the credit is good for another call.
            while self.draw(message) and not self._shards[message.shard].is_behind:
                pass

    def draw(self, credit: Credit) -> bool:
        """Draw one item, or a piece of a replay. Gives whether the credit may be good for more."""
        shard = self._shards.get(credit.shard)
        if shard is None or credit.run != self._run or shard.position >= credit.upto or not shard.open:
            return False
        if counters.pending():
            counters.drain()
        shard.draw(credit.run)
        return True

    def missing(self, credit: Credit) -> int:
        """How many items may still be drawn on the credit."""
        shard = self._shards.get(credit.shard)
        if shard is None or credit.run != self._run or not shard.open:
            return 0
        return max(0, credit.upto - shard.position)

    def close(self) -> None:
        """Close every iterator, so that the ``finally`` blocks of generators run."""
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()
        _send_reports(self._outlet)

    def _setup(self, setup: Setup) -> None:
        if setup.initializer is not None:
            try:
                initializer = _guarded("initializer", pickle.loads, setup.initializer)
                _guarded("initializer", initializer, setup.worker)
            except _RaisedError as raised:
                _send_reports(self._outlet)
                self._outlet.send(SetupFailed(raised.error))
                return
        self._set_up = True
        _send_reports(self._outlet)
        self._outlet.send(Hello(os.getpid()))

    def _start(self, start: Start) -> None:
        kept = self._shards
        self._run = start.run
        self._shards = {}
        for number, shard_start in start.shards.items():
            live = kept.get(number)
            if live is not None and live.can_serve(shard_start):
                self._shards[number] = kept.pop(number)
            else:
                self._shards[number] = _Shard(number, shard_start, self._outlet)
        for shard in kept.values():
            shard.close()
        for shard in self._shards.values():
            shard.state_share = _STATE_SHARE / len(self._shards)

    def _stop(self, stop: Stop) -> None:
        if stop.run != self._run:
            return
        for shard in self._shards.values():
            shard.send_final_state(stop.run)
        _send_reports(self._outlet)
        self._outlet.send(Final(stop.run))


class _Shard:
    """One shard's iterator. It is built at the first draw, so that starting a run waits for nothing."""

    def __init__(self, number: int, start: ShardStart, outlet: Outlet) -> None:
        self.position = start.position
        self.open = True
        self.state_share = _STATE_SHARE  # of the worker's time
        self._number = number
        self._start = start
        self._outlet = outlet
        self._iterator: StatefulIterator[Any] | None = None
        self._items: Iterator[Any] | None = None
        self._next: Callable[[], Any] = _not_begun
        self._replayed = 0  # of the items to skip
        self._next_state_at = time.monotonic() + _MIN_STATE_INTERVAL

    def can_serve(self, start: ShardStart) -> bool:
        """Whether the live iterator is where the parent wants it; if not, the parent's state wins."""
        return self._items is not None and self.open and self.position == start.position

    @property
    def is_behind(self) -> bool:
        """Whether its iterator was begun, and has not come to the shard's position yet."""
        return self.open and self._items is not None and self._replayed < len(self._start.skip)

    def draw(self, run: int) -> None:
        """Send one item, or that a replay goes on; or the end, or a failure: then the shard is not open any more."""
        phase = "next"
        try:
            if self._items is None:
                self._build()
            if self.is_behind:
                self._replay()
                if self.is_behind:
                    _send_reports(self._outlet)
                    self._outlet.send(Replaying(run, self._number))
                    return
            try:
                item = self._next()
            except StopIteration:
                self._end(run)
                return
            phase = "pickle"
            if logs.pending() or counters.pending():
                _send_reports(self._outlet)
            # The fingerprint first, for what was sent may be the consumer's from then on.
            flat = flatten(item)
            self._outlet.item((run, self._number, self.position), fingerprint(item, flat), item, flat)
        except _RaisedError as raised:
            self._fail(run, raised.error)
            return
        except BaseException as error:  # SystemExit, CancelledError and the like mean something else on the other side
            self._fail(run, describe(error, phase))
            return
        self.position += 1
        if time.monotonic() >= self._next_state_at:
            self._send_state(run)

    def send_final_state(self, run: int) -> None:
        """The state for the end of a run; nothing if the iterator is not where the shard is: never begun, say."""
        if self._items is not None and self.open and not self.is_behind:
            self._send_state(run)

    def close(self) -> None:
        """Close the iterator if it can be closed. What that raises is logged: nobody waits for it."""
        self.open = False
        close = getattr(self._items, "close", None)
        self._items = None
        if callable(close):
            try:
                close()
            except BaseException:
                _LOG.warning("shard %d: closing its iterator raised", self._number, exc_info=True)

    def _build(self) -> None:
        state = _guarded("build", pickle.loads, self._start.state)
        self._iterator = _guarded("build", _build, state)
        self._items = _guarded("create_iter", _create_iter, self._iterator)
        self._next = self._items.__next__

    def _replay(self) -> None:
        until = time.monotonic() + _REPLAY_PIECE
        while True:
            position = self._start.state_position + self._replayed
            ended, item = _guarded("next", self._next_or_end)
            if ended or _guarded("pickle", fingerprint, item) != self._start.skip[self._replayed]:
                _guarded("replay", _refuse_replay, self._number, position, ended)
            self._replayed += 1
            if not self.is_behind or time.monotonic() >= until:
                return

    def _next_or_end(self) -> tuple[bool, Any]:
        try:
            return False, self._next()
        except StopIteration:
            return True, None

    def _end(self, run: int) -> None:
        self.open = False
        state = self._pickled_state()
        _send_reports(self._outlet)  # after the end nobody listens
        self._outlet.send(State(run, self._number, self.position, state))
        self._outlet.send(EndOfShard(run, self._number, self.position))

    def _fail(self, run: int, error: RemoteError) -> None:
        self.open = False
        _send_reports(self._outlet)
        self._outlet.send(Failed(run, self._number, self.position, error))

    def _send_state(self, run: int) -> None:
        began = time.monotonic()
        try:
            state = self._pickled_state()
        except _RaisedError as raised:
            self._fail(run, raised.error)
            return
        cost = time.monotonic() - began
        # Of the sending what it takes of the processor: to wait for a loader that is busy with a step costs nothing.
        began = time.thread_time()
        self._outlet.send(State(run, self._number, self.position, state))
        cost += time.thread_time() - began
        self._next_state_at = time.monotonic() + max(_MIN_STATE_INTERVAL, cost / self.state_share)

    def _pickled_state(self) -> bytes:
        return _guarded("get_state", _get_state, self._iterator)


def _send_reports(outlet: Outlet) -> None:
    """Send what was logged and counted, before the message that it belongs to."""
    for record in logs.drain():
        outlet.send(Log(record))
    if counters.pending():
        outlet.send(Tally(counters.drain()))


def _not_begun() -> NoReturn:
    raise RuntimeError("the iterator was not begun")


def _build(state: IteratorState) -> StatefulIterator[Any]:
    iterator = state.build()
    if not isinstance(iterator, StatefulIterator):
        raise TypeError(f"{type(state).__qualname__}.build() must return a StatefulIterator, not {iterator!r:.80}")
    return iterator


def _create_iter(iterator: StatefulIterator[Any]) -> Iterator[Any]:
    return iter(iterator.create_iter())


def _get_state(iterator: StatefulIterator[Any]) -> bytes:
    state = iterator.get_state()
    if not isinstance(state, IteratorState):
        raise TypeError(f"{type(iterator).__qualname__}.get_state() must return an IteratorState, not {state!r:.80}")
    return pickle.dumps(state, 5)


def _refuse_replay(shard: int, position: int, ended: bool) -> None:
    what = "the iterator ended" if ended else "another item came"
    raise ValueError(
        f"replaying shard {shard} from its last state, {what} at position {position} where an item had been received "
        "before: the iterator is not deterministic, or its get_state() leaves something out"
    )


def _guarded(phase: str, function: Callable[..., T], *args: Any) -> T:
    try:
        return function(*args)
    except BaseException as error:  # SystemExit, CancelledError and the like mean something else on the other side
        raise _RaisedError(describe(error, phase)) from error
