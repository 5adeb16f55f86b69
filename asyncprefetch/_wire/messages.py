"""What the loader and its workers say to each other: one frozen type a message.

Shards are named by their global number. *Position* is the number of an item within its shard, from 0 over the shard's
whole life; the position of a state is that of the item which comes next. States, frames and exceptions travel as bytes
that were pickled where they were made, so that a class that can't be found on the other side is an error to report and
not a dead worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from asyncprefetch._wire.payloads import Payload
from asyncprefetch._wire.remote_errors import RemoteError


@dataclass(frozen=True, slots=True)
class ShardStart:
    """Where a shard begins in a run: build ``state``, then draw and discard the items that ``skip`` has fingerprints of."""

    state: bytes
    state_position: int
    skip: tuple[int, ...]

    @property
    def position(self) -> int:
        """Position of the first item that is sent."""
        return self.state_position + len(self.skip)


# ------------------------------------------------------------------------------------------------- parent to worker


@dataclass(frozen=True, slots=True)
class Setup:
    """The first message to a worker: who it is, and the user's initializer (pickled)."""

    worker: int
    initializer: bytes | None


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a run."""

    run: int
    shards: Mapping[int, ShardStart]


@dataclass(frozen=True, slots=True)
class Credit:
    """The shard may send its items up to, and without, position ``upto``: absolute, so that repeating it is harmless."""

    run: int
    shard: int
    upto: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End the run: send the state of every shard that was begun and has made up a replay, then ``Final``."""

    run: int


ToWorker = Setup | Start | Credit | Stop


# ------------------------------------------------------------------------------------------------- worker to parent


@dataclass(frozen=True, slots=True)
class Hello:
    """The worker is up: its bootstrap, its imports and the user's initializer went well."""

    pid: int


class Item(NamedTuple):
    """One item of a shard, pickled at the yield. A tuple, which is made in half the time: there is one a batch."""

    run: int
    shard: int
    position: int
    fingerprint: int
    payload: Payload


@dataclass(frozen=True, slots=True)
class State:
    """The shard's state (pickled) before the item at ``position``."""

    run: int
    shard: int
    position: int
    state: bytes


@dataclass(frozen=True, slots=True)
class Replaying:
    """The shard is drawing again what came before: it is not stuck, though it sends nothing."""

    run: int
    shard: int


@dataclass(frozen=True, slots=True)
class EndOfShard:
    """The shard has no item at ``position``; its state there was sent before."""

    run: int
    shard: int
    position: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The user's code raised on the way to the item at ``position``; the shard sends nothing more in this run."""

    run: int
    shard: int
    position: int
    error: RemoteError


@dataclass(frozen=True, slots=True)
class SetupFailed:
    """The user's initializer raised: the worker can't be used."""

    error: RemoteError


@dataclass(frozen=True, slots=True)
class Final:
    """The run is over: nothing of it comes after this."""

    run: int


@dataclass(frozen=True, slots=True)
class Log:
    """A log record of the worker (the pickled dict of its attributes)."""

    record: bytes


@dataclass(frozen=True, slots=True)
class Tally:
    """What the worker's iterators counted since the last one."""

    counted: Mapping[str, int]


FromWorker = Hello | Item | State | Replaying | EndOfShard | Failed | SetupFailed | Final | Log | Tally


@dataclass(frozen=True, slots=True)
class Death:
    """What a transport knows about a worker that is gone. Without a process of ours it knows the reason only."""

    reason: str
    pid: int | None = None
    exit_code: int | None = None
    oom_kills: int = 0  # how often the kernel ended a process for want of memory meanwhile
    breaks_contract: bool = False  # the executor did what no executor may do, and would do it again
