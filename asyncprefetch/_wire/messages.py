"""The messages between the loader and its workers: one frozen type for each.

A shard is named by its global number. A *position* is the number of an item within its shard, counted from 0 over the
shard's whole life; the position of a state is that of the next item. States, frames and exceptions are pickled where they
are made and cross as bytes. A class that can't be found on the other side is then an error to report, not a dead worker.
"""

from collections.abc import Mapping
from typing import NamedTuple

from asyncprefetch._wire.payloads import Payload
from asyncprefetch._wire.remote_errors import RemoteError


class ShardStart(NamedTuple):
    """Where a shard begins in a run: build ``state``, then draw and discard one item for each fingerprint in ``skip``."""

    state: bytes
    state_position: int
    skip: tuple[int, ...]

    @property
    def position(self) -> int:
        """The position of the first item that is sent."""
        return self.state_position + len(self.skip)


# ------------------------------------------------------------------------------------------------- loader to worker


class Setup(NamedTuple):
    """The first message to a worker: its number, and the user's initializer (pickled)."""

    worker: int
    initializer: bytes | None


class Start(NamedTuple):
    """Begin a run."""

    run: int
    shards: Mapping[int, ShardStart]


class Credit(NamedTuple):
    """The shard may send its items below position ``upto``. The position is absolute, so a repeated credit does no harm."""

    run: int
    shard: int
    upto: int


class Stop(NamedTuple):
    """End the run: send the state of every shard that was begun and is not in a replay, then ``Final``."""

    run: int


ToWorker = Setup | Start | Credit | Stop


# ------------------------------------------------------------------------------------------------- worker to loader


class Hello(NamedTuple):
    """The worker is up: its bootstrap, its imports and the user's initializer succeeded."""

    pid: int


class Item(NamedTuple):
    """One item of a shard, pickled at the yield.

    A tuple, because one is made for each batch, and a dataclass takes twice the time.
    """

    run: int
    shard: int
    position: int
    fingerprint: int
    payload: Payload


class State(NamedTuple):
    """The shard's state (pickled) before the item at ``position``."""

    run: int
    shard: int
    position: int
    state: bytes


class Replaying(NamedTuple):
    """The shard draws items again that were received before. It sends nothing, but it makes progress."""

    run: int
    shard: int


class EndOfShard(NamedTuple):
    """The shard has no item at ``position``. Its state at this position was sent before."""

    run: int
    shard: int
    position: int


class Failed(NamedTuple):
    """The user's code raised before the item at ``position`` was sent. The shard sends nothing more in this run."""

    run: int
    shard: int
    position: int
    error: RemoteError


class SetupFailed(NamedTuple):
    """The user's initializer raised: the worker can't be used."""

    error: RemoteError


class Final(NamedTuple):
    """The final sentinel: the run is over, and no message of it follows."""

    run: int


class Log(NamedTuple):
    """A log record of the worker (the pickled dict of its attributes)."""

    record: bytes


class Tally(NamedTuple):
    """What the worker's iterators counted since the last ``Tally``."""

    counted: Mapping[str, int]


FromWorker = Hello | Item | State | Replaying | EndOfShard | Failed | SetupFailed | Final | Log | Tally


class Death(NamedTuple):
    """A transport reports that its worker is gone. If the executor has no processes, only the reason is known."""

    reason: str
    pid: int | None = None
    exit_code: int | None = None
    oom_kills: int = 0  # processes that the kernel has killed meanwhile because memory ran out
    breaks_contract: bool = False  # the executor did what no executor may do, and would do it again
    protected: bool = False  # yielded arrays were protected: a use of one ends the worker by SIGSEGV
