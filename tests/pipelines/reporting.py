"""Iterators and initializers that show a worker's environment and its log records."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

from asyncprefetch import IteratorState, Position, StatefulIterator, register
from asyncprefetch.iterators import from_iterable


class LogState(IteratorState, kind="tests.log"):
    position: Position[int] = 0

    def build(self) -> Logging:
        return Logging(self.position)


class Logging(StatefulIterator[int]):
    """Logs each item, and an error at the end."""

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


initialized: list[int] = []


def remember_worker(worker: int) -> None:
    initialized.append(worker)


def fail_to_initialize(worker: int) -> None:
    raise LookupError(f"no device for worker {worker}")


class EnvironmentState(IteratorState, kind="tests.environment"):
    names: list[str]

    def build(self) -> Environment:
        return Environment(self.names)


class Environment(StatefulIterator[Any]):
    """Yields the variables of its worker's environment, and the worker numbers that the initializer got."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def get_state(self) -> EnvironmentState:
        return EnvironmentState(names=self.names)

    def create_iter(self) -> Iterator[Any]:
        yield {"env": {name: os.environ.get(name) for name in self.names}, "initialized": list(initialized)}


@register("tests.says_goodbye")
def says_goodbye() -> Iterator[int]:
    try:
        yield from range(1000)
    finally:
        logging.getLogger("tests.goodbye").warning("closed after an item")


goodbye = from_iterable(says_goodbye)
