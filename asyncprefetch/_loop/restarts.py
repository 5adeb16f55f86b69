"""How often a worker died without progress."""

from __future__ import annotations

from collections import Counter

from asyncprefetch._loop.error_reports import Drawing


class Restarts:
    """Counts deaths by the item that the worker was making: progress elsewhere does not excuse an item that kills.

    Attributes:
        count: how often the worker was launched again.
        was_up: whether it ever said hello. If not, it can't be launched here, and trying again does not help.
        deaths: how many deaths each item caused since it last came; empty most of the time.
    """

    def __init__(self) -> None:
        self.count = 0
        self.was_up = False
        self.deaths: Counter[Drawing] = Counter()

    def add_death(self, drawing: Drawing) -> int:
        """Count a death over ``drawing``, shard and position of the item if known. Gives how often it killed before."""
        self.deaths[drawing] += 1
        return self.deaths[drawing] - 1

    def progressed(self, shard: int, position: int) -> None:
        """An item came."""
        del self.deaths[None], self.deaths[shard, position]
