"""An iterator that counts, and the order in which a loader delivers several of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from asyncprefetch import IteratorState, Position, StatefulIterator
from tests.pipelines.items import make_item


class CountState(IteratorState, kind="tests.count"):
    stop: int
    base: int = 0
    items: str = "int"
    position: Position[int] = 0

    def build(self) -> Count:
        return Count(self.stop, self.base, self.items, self.position)


class Count(StatefulIterator[Any]):
    """Yields the items ``base .. base + stop - 1`` of one kind."""

    def __init__(self, stop: int, base: int = 0, items: str = "int", position: int = 0) -> None:
        self.stop, self.base, self.items, self.position = stop, base, items, position

    def get_state(self) -> CountState:
        return CountState(stop=self.stop, base=self.base, items=self.items, position=self.position)

    def create_iter(self) -> Iterator[Any]:
        while self.position < self.stop:
            self.position += 1
            yield make_item(self.items, self.base + self.position - 1)

    def model(self) -> list[Any]:
        """Return the remaining items as a plain list."""
        return [make_item(self.items, self.base + n) for n in range(self.position, self.stop)]


def in_turns(shards: list[list[Any]], due: int = 0) -> list[Any]:
    """Return the items of all shards in order: shards take strict turns, and an exhausted shard drops out at its turn."""
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
