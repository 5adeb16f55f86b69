"""An iterator that uses the memory of its arrays in one of many ways. The library refuses some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import asyncprefetch
from asyncprefetch import IteratorState, Position, StatefulIterator


class ArraysState(IteratorState, kind="tests.arrays"):
    stop: int
    how: str
    size: int = 4096
    position: Position[int] = 0

    def build(self) -> Arrays:
        return Arrays(self.stop, self.how, self.size, self.position)


class Arrays(StatefulIterator[Any]):
    """Yields arrays in one of many ways. The arrays of item ``n`` contain the number ``n``, ``size`` times."""

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
    """Return views of one array: overlapping parts, strided parts, the whole array, and the same view twice."""
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
    """Threads of the iterator make several items at a time."""
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
# Ways that end in an error, ways that end in an error only in a protected worker, and right ways.
REFUSED_WAYS = ["one buffer of empty", "write late", "again"]
NEEDS_PROTECTION = ["write late through a view", "read late"]
RIGHT_WAYS = sorted(WAYS.keys() - {*REFUSED_WAYS, *NEEDS_PROTECTION})
