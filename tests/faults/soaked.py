"""The iterator of the soak test. Workers import this module, so it imports little."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

import asyncprefetch
from asyncprefetch import Batch, IteratorState, Position, StatefulIterator

_LARGEST = 22  # bits of the size of an array


class SoakedState(IteratorState, kind="tests.faults.soaked"):
    seed: int
    stop: int
    position: Position[int] = 0
    chain: Position[int] = 0

    def build(self) -> Soaked:
        return Soaked(self.seed, self.stop, self.position, self.chain)


class Soaked(StatefulIterator[Any]):
    """Yields items of random kinds and sizes. Each item depends on all earlier ones, so a lost item changes the rest."""

    def __init__(self, seed: int, stop: int, position: int = 0, chain: int = 0) -> None:
        self.seed, self.stop, self.position, self.chain = seed, stop, position, chain

    def get_state(self) -> SoakedState:
        return SoakedState(seed=self.seed, stop=self.stop, position=self.position, chain=self.chain)

    def create_iter(self) -> Iterator[Any]:
        while self.position < self.stop:
            rng = np.random.default_rng([self.seed, self.position, self.chain])
            if rng.random() < 0.1:
                time.sleep(rng.uniform(0, 0.02))  # a long draw, so that some faults happen during it
            item = make(rng, self.position, self.chain)
            self.chain = link(self.position, self.chain)
            self.position += 1
            yield item


def link(position: int, chain: int) -> int:
    """Return the next number of the chain."""
    return zlib.crc32(b"%d" % position, chain)


def reference(seed: int, stop: int) -> list[Any]:
    """Return the items of ``Soaked``, each as a function that makes it, because together they are large."""
    made, chain = [], 0
    for position in range(stop):
        made.append((position, chain))
        chain = link(position, chain)
    return [lambda p=p, c=c: _again(seed, p, c) for p, c in made]


def _again(seed: int, position: int, chain: int) -> Any:
    rng = np.random.default_rng([seed, position, chain])
    if rng.random() < 0.1:
        rng.uniform(0, 0.02)
    return make(rng, position, chain)


def make(rng: np.random.Generator, position: int, chain: int) -> Any:
    """Make one item. Outside of a worker its arrays are plain arrays."""
    match rng.integers(6):
        case 0:
            return _array(rng)
        case 1:
            return {"n": position, "chain": chain, "x": _array(rng), "small": rng.integers(0, 9, 3)}
        case 2:
            return [_array(rng), (_array(rng), chain), rng.bytes(_size(rng, 18))]
        case 3:
            return [position, None, f"{chain}", rng.bytes(_size(rng, 10))][rng.integers(4)]
        case 4:
            x = _array(rng)
            return Batch(x, x[: x.size // 2], x[::2] > 99)
        case _:
            whole = _array(rng)
            return {"whole": whole, "parts": [whole[1:], whole[::3], whole[:0]], "n": position}


def _array(rng: np.random.Generator) -> np.ndarray:
    size = _size(rng, _LARGEST)
    array = asyncprefetch.empty(size, np.uint8) if rng.random() < 0.5 else np.empty(size, np.uint8)
    array[:] = np.resize(
        np.frombuffer(rng.bytes(min(size, 1009)), np.uint8), size
    )  # a prime, so that no two pages are equal
    return array


def _size(rng: np.random.Generator, bits: int) -> int:
    return int(2 ** rng.uniform(0, bits))
