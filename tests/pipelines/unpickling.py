"""Items that run code when the loader unpickles them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from asyncprefetch import register
from asyncprefetch.iterators import from_iterable


class WhereOpened:
    """An object that unpickles to the identifier of the thread that unpickled it."""

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
        # The text is so long that the loader unpickles the item in a thread.
        yield {"x": np.full(4096, n), "text": bytes(2 << 20), "opening": TellsOpening()}


where = from_iterable(where_opened)
interrupted = from_iterable(interrupted_items)
telling = from_iterable(tells_opening)
unopenable = from_iterable(unopenable_items)
