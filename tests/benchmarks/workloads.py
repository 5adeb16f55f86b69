"""The stateful iterators of the benchmark."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np

import asyncprefetch
from asyncprefetch import IteratorState, Position, StatefulIterator, register
from tests.benchmarks.batches import SHAPES, Batch, Make, compute, many, plain, spin

register("benchmarks.plain")(plain)
register("benchmarks.many")(many)


@register("benchmarks.in_the_slot")
def in_the_slot(shape: tuple[int, int], number: int) -> Batch:
    """Arrays that a worker makes where the consumer will read them."""
    return {
        "x": asyncprefetch.full(shape, number, np.int64),
        "y": asyncprefetch.full(shape, number, np.int64),
    }


class FilledState(IteratorState, kind="benchmarks.filled"):
    """The recipe of a stream without end, and where in it the iterator is.

    Attributes:
        make: makes a batch of a shape and a number.
        shape: of each array.
        spin_seconds: that a batch takes beside its making.
        operations: of fixed work for each batch.
        state_seconds: that asking the iterator for its state takes.
        stride: from one batch's number to the next; shards of one stream interleave.
        number: of the next batch.
    """

    make: Make
    shape: tuple[int, int]
    spin_seconds: float = 0.0
    operations: int = 0
    state_seconds: float = 0.0
    stride: int = 1
    number: Position[int] = 0

    def build(self) -> Filled:
        return Filled(self)


class Filled(StatefulIterator[Batch]):
    """Batches of a recipe, one after the other."""

    def __init__(self, recipe: FilledState) -> None:
        self._recipe = recipe
        self._number = recipe.number

    def get_state(self) -> FilledState:
        spin(self._recipe.state_seconds)
        return self._recipe.model_copy(update={"number": self._number})

    def create_iter(self) -> Iterator[Batch]:
        recipe = self._recipe
        make, shape, stride = recipe.make, recipe.shape, recipe.stride
        spins, computes = recipe.spin_seconds > 0, recipe.operations > 0
        while True:
            number = self._number
            if spins:
                spin(recipe.spin_seconds)
            if computes:
                compute(recipe.operations)
            self._number = number + stride
            yield make(shape, number)


MAKERS = {"plain": "batches", "many": "batches", "in_the_slot": "workloads", "tensors": "tensors"}
"""The module of each way to make a batch; that of the tensors imports torch."""


def recipe(make: str, size: str, **others: Any) -> FilledState:
    """A recipe by the names that a measurement has for its parts."""
    module = importlib.import_module(f"tests.benchmarks.{MAKERS[make]}")
    return FilledState(make=getattr(module, make), shape=SHAPES[size], **others)
