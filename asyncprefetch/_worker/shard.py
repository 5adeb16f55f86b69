"""One shard in a worker: its iterator, drawn one item at a time.

A shard begins a run with a state and the fingerprints of the items that followed it. The iterator is built at the first
draw, so that the start of a run waits for nothing. The shard then draws those items again and compares them (a *replay*),
and sends the items after them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from asyncprefetch._wire.fingerprint import fingerprint
from asyncprefetch._wire.messages import EndOfShard, Failed, Replaying, ShardStart, State
from asyncprefetch._wire.remote_errors import RemoteError, describe
from asyncprefetch._worker import user_code
from asyncprefetch._worker.counters import counted
from asyncprefetch._worker.logs import collected
from asyncprefetch._worker.outlet import Outlet, send_reports
from asyncprefetch._worker.user_code import UserCodeError, guarded
from asyncprefetch.base import StatefulIterator

_LOG = logging.getLogger("asyncprefetch.producer")

# A worker sends fresh states now and then, so that a restart replays little: each shard at most every 0.1 s, and so rarely
# that all shards together spend no more than 1 % of the worker's time on them.
_MIN_STATE_INTERVAL = 0.1
_STATE_SHARE = 0.01

# A replay is made in pieces of so many seconds. After each piece the shard reports progress and orders are looked at: a long
# replay is no stall, and a stop does not wait for all of it.
_REPLAY_PIECE = 0.1


class Shard:
    """One shard of a run.

    Args:
        number: its global number.
        start: where it begins.
        outlet: where its messages go.

    Attributes:
        position: the position of the next item to send.
        ended: whether it sends nothing more, because the iterator ended or failed.
        state_share: the part of the worker's time that its states may take.
    """

    def __init__(self, number: int, start: ShardStart, outlet: Outlet) -> None:
        self.position = start.position
        self.ended = False
        self.state_share = _STATE_SHARE
        self._number = number
        self._start = start
        self._outlet = outlet
        self._iterator: StatefulIterator[Any] | None = None
        self._items: Iterator[Any] | None = None
        self._next: Callable[[], Any] = _not_begun
        self._replayed = 0  # how many of the items to skip were drawn again
        self._next_state_at = time.monotonic() + _MIN_STATE_INTERVAL

    def can_serve(self, start: ShardStart) -> bool:
        """Whether the iterator is where the next run begins. If not, the loader's state wins."""
        return self._items is not None and not self.ended and self.position == start.position

    @property
    def is_replaying(self) -> bool:
        """Whether the iterator was begun, and has not reached the position of the next item to send."""
        return not self.ended and self._items is not None and self._replayed < len(self._start.skip)

    def share_time(self, shards: int) -> None:
        """Share the time for states with the worker's other shards."""
        self.state_share = _STATE_SHARE / shards

    def draw(self, run: int) -> None:
        """Send one item, or the progress of a replay, or the end, or a failure."""
        phase = "next"
        try:
            if self._items is None:
                self._begin()
            if self.is_replaying:
                self._replay()
                if self.is_replaying:
                    send_reports(self._outlet)
                    self._outlet.send(Replaying(run, self._number))
                    return
            try:
                item = self._next()
            except StopIteration:
                self._send_end(run)
                return
            phase = "pickle"
            if collected or counted.by_name:
                send_reports(self._outlet)
            self._outlet.item((run, self._number, self.position), item)
        except UserCodeError as raised:
            self._fail(run, raised.error)
            return
        except BaseException as error:  # see user_code; a guarded call would cost time at each item
            self._fail(run, describe(error, phase))
            return
        self.position += 1
        if time.monotonic() >= self._next_state_at:
            self._send_state(run)

    def send_final_state(self, run: int) -> None:
        """Send the state at the end of a run, unless the iterator was not begun, has ended, or is in a replay."""
        if self._items is not None and not self.ended and not self.is_replaying:
            self._send_state(run)

    def close(self) -> None:
        """Close the iterator if it can be closed. An exception is logged, because no call waits for it."""
        self.ended = True
        close = getattr(self._items, "close", None)
        self._items = None
        if callable(close):
            try:
                close()
            except BaseException:
                _LOG.warning("shard %d: closing its iterator raised", self._number, exc_info=True)

    def _begin(self) -> None:
        self._iterator = user_code.build(self._start.state)
        self._items = user_code.create_iter(self._iterator)
        self._next = self._items.__next__

    def _replay(self) -> None:
        until = time.monotonic() + _REPLAY_PIECE
        while True:
            position = self._start.state_position + self._replayed
            ended, item = guarded("next", self._next_or_end)
            if ended or guarded("pickle", fingerprint, item) != self._start.skip[self._replayed]:
                guarded("replay", _refuse_replay, self._number, position, ended)
            self._replayed += 1
            if not self.is_replaying or time.monotonic() >= until:
                return

    def _next_or_end(self) -> tuple[bool, Any]:
        try:
            return False, self._next()
        except StopIteration:
            return True, None

    def _send_end(self, run: int) -> None:
        self.ended = True
        state = self._pickled_state()
        send_reports(self._outlet)  # the loader takes nothing from a shard after its end
        self._outlet.send(State(run, self._number, self.position, state))
        self._outlet.send(EndOfShard(run, self._number, self.position))

    def _fail(self, run: int, error: RemoteError) -> None:
        self.ended = True
        send_reports(self._outlet)
        self._outlet.send(Failed(run, self._number, self.position, error))

    def _send_state(self, run: int) -> None:
        began = time.monotonic()
        try:
            state = self._pickled_state()
        except UserCodeError as raised:
            self._fail(run, raised.error)
            return
        cost = time.monotonic() - began
        # Sending counts with its processor time: to wait for a loader that is busy costs the worker nothing.
        began = time.thread_time()
        self._outlet.send(State(run, self._number, self.position, state))
        cost += time.thread_time() - began
        self._next_state_at = time.monotonic() + max(_MIN_STATE_INTERVAL, cost / self.state_share)

    def _pickled_state(self) -> bytes:
        assert self._iterator is not None
        return user_code.pickled_state(self._iterator)


def _not_begun() -> NoReturn:
    raise RuntimeError("the iterator was not begun")


def _refuse_replay(shard: int, position: int, ended: bool) -> None:
    what = "the iterator ended" if ended else "another item came"
    raise ValueError(
        f"replaying shard {shard} from its last state, {what} at position {position} where an item had been received "
        "before: the iterator is not deterministic, or its get_state() leaves something out. To find the cause, call "
        "asyncprefetch.testing.assert_resumes_exactly in a test of the iterator: it names the first field that differs"
    )
