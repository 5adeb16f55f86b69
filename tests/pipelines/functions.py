"""Pipelines over the items that a function returns."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from asyncprefetch import register
from asyncprefetch.iterators import from_iterable
from tests.pipelines.items import Unregistered


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


long = from_iterable(long_ints)
unregistered = from_iterable(unregistered_items)
unpicklable = from_iterable(unpicklable_items)
