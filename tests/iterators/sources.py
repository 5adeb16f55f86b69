"""A list as a source of pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from asyncprefetch import IteratorState, Position, StatefulIterator


class ListState(IteratorState, kind="tests.iterators.list", frozen=True):
    items: list[Any]
    position: Position[int] = 0

    def build(self) -> ListIterator:
        return ListIterator(self.items, self.position)


class ListIterator(StatefulIterator[Any]):
    def __init__(self, items: list[Any], position: int = 0) -> None:
        self.items = items
        self.position = position
        self.asked = 0

    def get_state(self) -> ListState:
        self.asked += 1
        return ListState(items=self.items, position=self.position)

    def create_iter(self) -> Iterator[Any]:
        while self.position < len(self.items):
            self.position += 1
            yield self.items[self.position - 1]


def drain(iterator: StatefulIterator[Any]) -> list[Any]:
    return list(iterator.create_iter())
