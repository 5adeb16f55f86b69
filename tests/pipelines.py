"""Stateful iterators for the tests. They are at the top level of a module, so that workers can import them."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel

import asyncprefetch
from asyncprefetch import Batch, IteratorState, Position, StatefulIterator, register
from asyncprefetch.iterators import from_iterable
from tests.inside import in_daemon_thread


@register("tests.Sample")
@dataclasses.dataclass
class Sample:
    text: str
    values: np.ndarray


@register("tests.Config")
class Config(BaseModel):
    name: str
    sizes: tuple[int, ...]


@register("tests.Pair")
class Pair(NamedTuple):
    a: Any
    b: Any


@dataclasses.dataclass
class Unregistered:
    value: int


def make_item(kind: str, n: int) -> Any:
    """Item number ``n`` of a kind of items. Any two differ, except those of the kind ``none``."""
    match kind:
        case "int":
            return n
        case "none":
            return None
        case "batch":
            x = np.arange(n, n + 12, dtype=np.int64).reshape(3, 4)
            return Batch(x, x + 1, x % 2 == 0, np.full((3, 0), n, np.int32))
        case "nest":
            return {
                "n": n,
                3: [n, (n, None), b"bytes%d" % n, f"text {n} \u00e9", float(n) / 3, complex(n, -0.0), float("nan")],
                "sample": Sample(f"s{n}", np.full((2, n % 3), n, np.float16)),
                "config": Config(name=f"c{n}", sizes=(n, n + 1)),
                "pair": Pair(np.float32(n), np.array(n, ">i2")),
                "arrays": (
                    np.array(["a", f"b{n}"]),
                    np.array([n], "datetime64[s]"),
                    np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3) + n),
                    np.zeros((0, 4), np.uint8),
                ),
            }
        case _ if kind.startswith("array"):
            _, dtype, shape = kind.split(":")
            sizes = [int(size) for size in shape.split(",") if size]
            # The bytes of the number, over and over, as whatever the dtype is.
            data = np.resize(np.frombuffer(b"%d." % n, np.uint8), math.prod(sizes) * np.dtype(dtype).itemsize)
            return {"n": n, "array": data.view(dtype).reshape(sizes)}
        case "huge":
            return {"n": n, "x": np.full((1 << 18), n, np.int64)}
        case "big":
            return {"n": n, "x": np.full((1 << 16), n, np.int64)}
    raise AssertionError(kind)


class CountState(IteratorState, kind="tests.count"):
    stop: int
    base: int = 0
    items: str = "int"
    position: Position[int] = 0

    def build(self) -> Count:
        return Count(self.stop, self.base, self.items, self.position)


class Count(StatefulIterator[Any]):
    """The items ``base .. base + stop - 1`` of one kind."""

    def __init__(self, stop: int, base: int = 0, items: str = "int", position: int = 0) -> None:
        self.stop, self.base, self.items, self.position = stop, base, items, position

    def get_state(self) -> CountState:
        return CountState(stop=self.stop, base=self.base, items=self.items, position=self.position)

    def create_iter(self) -> Iterator[Any]:
        while self.position < self.stop:
            self.position += 1
            yield make_item(self.items, self.base + self.position - 1)

    def model(self) -> list[Any]:
        """The items that are still to come, as a plain list."""
        return [make_item(self.items, self.base + n) for n in range(self.position, self.stop)]


def in_turns(shards: list[list[Any]], due: int = 0) -> list[Any]:
    """The items of all shards in order: shards take strict turns, and an exhausted one drops out at its turn."""
    left = [list(shard) for shard in shards]
    order = list(range(len(left)))
    turn = due
    out = []
    while order:
        shard = left[order[turn]]
        if shard:
            out.append(shard.pop(0))
            turn = (turn + 1) % len(order)
        else:
            del order[turn]
            turn = turn % len(order) if order else 0
    return out


# --------------------------------------------------------------------------------------------------------- misbehaviour


class TwoArgumentsError(Exception):
    """An object that can be pickled, but not unpickled."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class ChangingError(Exception):
    """An error that has another text after it was pickled and unpickled."""

    def __init__(self, text: str) -> None:
        super().__init__(f"so to speak: {text}")


class Outer:
    class NestedError(Exception):
        """An error whose qualified name has more than one part."""


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def _holding_a_lock() -> Exception:
    error = ValueError("with a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    return error


ERRORS: dict[str, Callable[[], BaseException]] = {
    "KeyError": lambda: KeyError("missing"),
    "OSError": lambda: OSError(5, "the disk went away"),
    "TwoArgumentsError": lambda: TwoArgumentsError(1, 2),
    "ChangingError": lambda: ChangingError("text"),
    "NestedError": lambda: Outer.NestedError("within"),
    "UnprintableError": UnprintableError,
    "with a lock": _holding_a_lock,
    "StopIteration": lambda: StopIteration("from inside"),
    "StopAsyncIteration": StopAsyncIteration,
    "CancelledError": asyncio.CancelledError,
    "SystemExit": lambda: SystemExit(0),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "ExceptionGroup": lambda: ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
}


class FailState(IteratorState, kind="tests.fail"):
    stop: int
    at: int
    error: str
    phase: str = "next"
    only_once: str | None = None  # a file that is made when the error is raised, and prevents the next
    position: Position[int] = 0

    def build(self) -> Fail:
        if self.phase == "build":
            _raise(self)
        return Fail(self)


class Fail(StatefulIterator[int]):
    """Counts, and raises at one position, or in one of the calls around the iteration."""

    def __init__(self, state: FailState) -> None:
        self.state = state
        self.position = state.position

    @classmethod
    def make(cls, stop: int, at: int, error: str, phase: str = "next", only_once: str | None = None) -> Fail:
        return cls(FailState(stop=stop, at=at, error=error, phase=phase, only_once=only_once))

    def get_state(self) -> FailState:
        if self.state.phase == "get_state" and self.position >= self.state.at:
            _raise(self.state)
        return self.state.model_copy(update={"position": self.position})

    def create_iter(self) -> Iterator[int]:
        if self.state.phase == "create_iter":
            _raise(self.state)
        return self._items()

    def _items(self) -> Iterator[int]:
        while self.position < self.state.stop:
            if self.state.phase == "next" and self.position == self.state.at:
                _raise(self.state)
            self.position += 1
            yield self.position - 1


def _raise(state: FailState) -> None:
    if state.only_once is not None:
        if os.path.exists(state.only_once):
            return
        Path(state.only_once).touch()
    raise ERRORS[state.error]()


class DieState(IteratorState, kind="tests.die"):
    stop: int
    at: int
    how: str
    only_once: str | None = None
    position: Position[int] = 0

    def build(self) -> Die:
        return Die(self)


class Die(StatefulIterator[int]):
    """Counts, and ends its process at one position."""

    def __init__(self, state: DieState) -> None:
        self.state = state
        self.position = state.position

    @classmethod
    def make(cls, stop: int, at: int, how: str, only_once: str | None = None) -> Die:
        return cls(DieState(stop=stop, at=at, how=how, only_once=only_once))

    def get_state(self) -> DieState:
        return self.state.model_copy(update={"position": self.position})

    def create_iter(self) -> Iterator[int]:
        while self.position < self.state.stop:
            if self.position == self.state.at:
                self._die()
            self.position += 1
            yield self.position - 1

    def _die(self) -> None:
        if self.state.only_once is not None:
            if os.path.exists(self.state.only_once):
                return
            Path(self.state.only_once).touch()
        if self.state.how.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[self.state.how])
            threading.Event().wait()  # the signal is on its way
        os._exit(int(self.state.how))


class RandomState(IteratorState, kind="tests.random"):
    stop: int
    position: Position[int] = 0

    def build(self) -> NotDeterministic:
        return NotDeterministic(self.stop, self.position)


class NotDeterministic(StatefulIterator[bytes]):
    """Random items, which differ in each replay. The process dies at its end, or earlier when it is asked for a state."""

    def __init__(self, stop: int, position: int = 0) -> None:
        self.stop, self.position = stop, position

    def get_state(self) -> RandomState:
        if self.position:
            os.kill(os.getpid(), signal.SIGKILL)
        return RandomState(stop=self.stop, position=self.position)

    def create_iter(self) -> Iterator[bytes]:
        while self.position < self.stop:
            self.position += 1
            yield os.urandom(8)
        os.kill(os.getpid(), signal.SIGKILL)


class GateState(IteratorState, kind="tests.gate"):
    stop: int
    folder: str
    position: Position[int] = 0

    def build(self) -> Gate:
        return Gate(self.stop, self.folder, self.position)


class Gate(StatefulIterator[int]):
    """Counts, and waits before each item that has a gate until the gate is opened: see ``GateKeeper``."""

    def __init__(self, stop: int, folder: str, position: int = 0) -> None:
        self.stop, self.folder, self.position = stop, folder, position

    def get_state(self) -> GateState:
        return GateState(stop=self.stop, folder=self.folder, position=self.position)

    def create_iter(self) -> Iterator[int]:
        while self.position < self.stop:
            gate = Path(self.folder, f"gate-{self.position}")
            if gate.exists():
                Path(self.folder, f"reached-{self.position}").write_bytes(b"!")  # blocks until the keeper reads
                gate.read_bytes()  # blocks until the keeper writes
            self.position += 1
            yield self.position - 1


class GateKeeper:
    """The test's end of the gates. Each has two named pipes, so that neither side sleeps or polls."""

    def __init__(self, folder: Path, *positions: int) -> None:
        self.folder = folder
        for position in positions:
            os.mkfifo(folder / f"gate-{position}")
            os.mkfifo(folder / f"reached-{position}")

    async def reached(self, position: int) -> None:
        """Wait until the iterator has reached the gate."""
        # In a daemon thread: if the iterator dies before the gate, the test fails and does not hang.
        await in_daemon_thread((self.folder / f"reached-{position}").read_bytes, "gate")

    @asynccontextmanager
    async def held_once(self, position: int) -> AsyncIterator[None]:
        """Hold the iterator at the gate until the block is left or the iterator dies. A later iterator finds no gate."""
        await self.reached(position)
        # Both ends are open now. The gate is removed after that, and before the iterator continues.
        writer = await self._writer(position)
        try:
            (self.folder / f"gate-{position}").unlink()
            yield
        finally:
            os.close(writer)

    async def open(self, position: int) -> None:
        """Let the iterator through after it has reached the gate. A later iterator finds no gate."""
        writer = await self._writer(position)
        (self.folder / f"gate-{position}").unlink()
        os.close(writer)

    async def _writer(self, position: int) -> int:
        return await in_daemon_thread(lambda: os.open(self.folder / f"gate-{position}", os.O_WRONLY), "gate")


class LogState(IteratorState, kind="tests.log"):
    position: Position[int] = 0

    def build(self) -> Logging:
        return Logging(self.position)


class Logging(StatefulIterator[int]):
    """Logs each item, and an error at its end."""

    def __init__(self, position: int = 0) -> None:
        self.position = position

    def get_state(self) -> LogState:
        return LogState(position=self.position)

    def create_iter(self) -> Iterator[int]:
        logger = logging.getLogger("tests.logging")
        while self.position < 3:
            self.position += 1
            logger.warning("item %d", self.position - 1)
            yield self.position - 1
        try:
            raise ValueError("at the end")
        except ValueError:
            logger.exception("that is all")


# ------------------------------------------------------------------------------------------ ways to use the memory of arrays


class ArraysState(IteratorState, kind="tests.arrays"):
    stop: int
    how: str
    size: int = 4096
    position: Position[int] = 0

    def build(self) -> Arrays:
        return Arrays(self.stop, self.how, self.size, self.position)


class Arrays(StatefulIterator[Any]):
    """Item ``n`` holds arrays of ``size`` times the number ``n``, made in one of many ways."""

    def __init__(self, stop: int, how: str, size: int = 4096, position: int = 0) -> None:
        self.stop, self.how, self.size, self.position = stop, how, size, position

    def get_state(self) -> ArraysState:
        return ArraysState(stop=self.stop, how=self.how, size=self.size, position=self.position)

    def create_iter(self) -> Iterator[Any]:
        for item in WAYS[self.how](self):
            self.position += 1
            yield item

    def left(self) -> range:
        return range(self.position, self.stop)

    def full(self, n: int) -> np.ndarray:
        return asyncprefetch.full(self.size, n, np.int64)

    def model(self) -> list[Any]:
        match self.how:
            case "views":
                return [_views(np.full(self.size, n)) for n in self.left()]
            case "of many sizes":
                return [np.full(_size(n), n, np.uint8) for n in self.left()]
        return [np.full(self.size, n) for n in self.left()]


def _made_in_place(its: Arrays) -> Iterator[Any]:
    for n in its.left():
        yield its.full(n)


def _one_plain_buffer(its: Arrays) -> Iterator[Any]:
    buffer = np.empty(its.size, np.int64)
    for n in its.left():
        buffer.fill(n)
        yield buffer


def _one_buffer_of_empty(its: Arrays) -> Iterator[Any]:
    buffer = asyncprefetch.empty(its.size, np.int64)
    for n in its.left():
        buffer.fill(n)
        yield buffer


def _again(its: Arrays) -> Iterator[Any]:
    array = its.full(its.position)
    for _ in its.left():
        yield array


def _views(x: np.ndarray) -> Any:
    """Views of one array: overlapping parts, strided parts, the whole array, and the same view twice."""
    square = x.reshape(64, -1)
    return {
        "whole": [x, x],
        "parts": (x[: x.size // 2], x[x.size // 3 :], x[5:7]),
        "others": (x[::2], x[::-1], square[:, 3:9], square.T, square[10:20].T, square[1], x[:0]),
    }


def _many_views(its: Arrays) -> Iterator[Any]:
    for n in its.left():
        yield _views(its.full(n))


def _only_a_part(its: Arrays) -> Iterator[Any]:
    for n in its.left():
        array = asyncprefetch.full(3 * its.size, n, np.int64)
        yield array[its.size : 2 * its.size]


def _rows_of_one_array(its: Arrays) -> Iterator[Any]:
    rows = asyncprefetch.empty((len(its.left()), its.size), np.int64)
    rows[...] = np.array(its.left())[:, None]
    yield from rows


def _look_ahead(its: Arrays) -> Iterator[Any]:
    following = its.full(its.position)
    for n in its.left():
        array, following = following, its.full(n + 1)
        yield array


def _three_ahead(its: Arrays) -> Iterator[Any]:
    ahead = [asyncprefetch.empty(its.size, np.int64) for _ in range(3)]
    for n in its.left():
        ahead.append(asyncprefetch.empty(its.size, np.int64))
        array = ahead.pop(0)
        array.fill(n)
        yield array


def _write_late(its: Arrays) -> Iterator[Any]:
    for n in its.left():
        array = its.full(n)
        yield array
        array[0] = -1


def _write_late_through_a_view(its: Arrays) -> Iterator[Any]:
    for n in its.left():
        array = its.full(n)
        view = array[:2000]
        yield array
        view[0] = -1


def _read_late(its: Arrays) -> Iterator[Any]:
    array = its.full(its.position)
    for _ in its.left():
        yield array
        following = asyncprefetch.empty(its.size, np.int64)
        following[...] = array + 1
        array = following


def _read_the_previous_plain_one(its: Arrays) -> Iterator[Any]:
    array = np.full(its.size, its.position)
    for _ in its.left():
        yield array
        array = array + 1


def _drop_many(its: Arrays) -> Iterator[Any]:
    for n in its.left():
        for _ in range(40):
            its.full(n)
        yield its.full(n)


def _keep_all(its: Arrays) -> Iterator[Any]:
    kept = []
    for n in its.left():
        kept.append(its.full(n))
        yield kept[-1]


def _size(n: int) -> int:
    return (1, 8191, 8192, 8193, 3_000_000, 100_000, 1, 1 << 20)[n % 8]


def _of_many_sizes(its: Arrays) -> Iterator[Any]:
    for n in its.left():
        yield (asyncprefetch if n % 3 else np).full(_size(n), n, np.uint8)


def _made_by_threads(its: Arrays) -> Iterator[Any]:
    """Several items at a time, made by threads of the iterator."""
    with ThreadPoolExecutor(2) as threads:
        for begin in its.left()[::4]:
            yield from threads.map(its.full, its.left()[begin - its.left()[0] :][:4])


WAYS: dict[str, Callable[[Arrays], Iterator[Any]]] = {
    "made in place": _made_in_place,
    "one plain buffer": _one_plain_buffer,
    "one buffer of empty": _one_buffer_of_empty,
    "again": _again,
    "views": _many_views,
    "only a part": _only_a_part,
    "rows of one array": _rows_of_one_array,
    "look ahead": _look_ahead,
    "three ahead": _three_ahead,
    "write late": _write_late,
    "write late through a view": _write_late_through_a_view,
    "read late": _read_late,
    "read the previous plain one": _read_the_previous_plain_one,
    "drop many": _drop_many,
    "keep all": _keep_all,
    "of many sizes": _of_many_sizes,
    "made by threads": _made_by_threads,
}
# Ways that end in an error, ways that only a protected worker detects, and all others.
REFUSED_WAYS = ["one buffer of empty", "write late", "again"]
NEEDS_PROTECTION = ["write late through a view", "read late"]
RIGHT_WAYS = sorted(WAYS.keys() - {*REFUSED_WAYS, *NEEDS_PROTECTION})


class EnvironmentState(IteratorState, kind="tests.environment"):
    names: list[str]

    def build(self) -> Environment:
        return Environment(self.names)


initialized: list[int] = []


def remember_worker(worker: int) -> None:
    initialized.append(worker)


def fail_to_initialize(worker: int) -> None:
    raise LookupError(f"no device for worker {worker}")


class Environment(StatefulIterator[Any]):
    """Yields what its worker was given: its number and its environment."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def get_state(self) -> EnvironmentState:
        return EnvironmentState(names=self.names)

    def create_iter(self) -> Iterator[Any]:
        yield {"env": {name: os.environ.get(name) for name in self.names}, "initialized": list(initialized)}


@register("tests.lines")
def lines() -> list[str]:
    return ["a", "b", "c"]


@register("tests.unregistered_items")
def unregistered_items() -> list[Unregistered]:
    return [Unregistered(i) for i in range(4)]


@register("tests.unpicklable_items")
def unpicklable_items() -> Iterator[Any]:
    yield 0
    yield threading.Lock()


@register("tests.long_ints")
def long_ints() -> list[int]:
    return [1, 10**5000, 3]


class WhereOpened:
    """An object that unpickles to the name of the thread that unpickled it."""

    def __reduce__(self) -> Any:
        return threading.get_ident, ()


@register("tests.where_opened")
def where_opened() -> list[Any]:
    return [{"by": WhereOpened(), "data": bytes(size)} for size in (10, 1 << 22, 10)]


def fail_to_open() -> None:
    raise StopAsyncIteration("not here")


class Unopenable:
    def __reduce__(self) -> Any:
        return fail_to_open, ()


interrupts: list[BaseException] = []


def open_unless_interrupted() -> str:
    if interrupts:
        raise interrupts.pop()
    return "opened"


class Interrupted:
    def __reduce__(self) -> Any:
        return open_unless_interrupted, ()


@register("tests.interrupted")
def interrupted_items() -> list[Any]:
    return [0, Interrupted(), 2]


@register("tests.unopenable_items")
def unopenable_items() -> list[Any]:
    return [0, Unopenable(), 2]


on_opening: list[Callable[[], object]] = []


def call_on_opening() -> str:
    for call in on_opening:
        call()
    return "opened"


class TellsOpening:
    def __reduce__(self) -> Any:
        return call_on_opening, ()


@register("tests.tells_opening")
def tells_opening() -> Iterator[Any]:
    for n in range(4):
        # The text is so long that it is opened in a thread.
        yield {"x": np.full(4096, n), "text": bytes(2 << 20), "opening": TellsOpening()}


@register("tests.says_goodbye")
def says_goodbye() -> Iterator[int]:
    try:
        yield from range(1000)
    finally:
        logging.getLogger("tests.goodbye").warning("closed after an item")


long = from_iterable(long_ints)
where = from_iterable(where_opened)
interrupted = from_iterable(interrupted_items)
telling = from_iterable(tells_opening)
unopenable = from_iterable(unopenable_items)
goodbye = from_iterable(says_goodbye)
unregistered = from_iterable(unregistered_items)
unpicklable = from_iterable(unpicklable_items)
