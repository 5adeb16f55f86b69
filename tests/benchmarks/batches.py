"""What is made: dicts of int64 arrays, two in most, each filled with the number of its batch.

Imports numpy and nothing else, for what a program imports decides how its allocator behaves: see ``measurements.bare``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

Batch = dict[str, Any]
Make = Callable[[tuple[int, int], int], Batch]

MANY = "114 arrays"
SHAPES = {"2 KB": (1, 128), "0.5 MB": (8, 4096), "9.6 MB": (32, 18816), "8 MiB": (32, 16384), MANY: (114, 2560)}
"""Shape of each of the two arrays, by the size of a batch of both; and number and largest length of many arrays."""


def plain(shape: tuple[int, int], number: int) -> Batch:
    """Arrays as any iterator makes them."""
    return {"x": np.full(shape, number, np.int64), "y": np.full(shape, number, np.int64)}


def many(shape: tuple[int, int], number: int) -> Batch:
    """Small arrays of many lengths, as models with many features take them: 1 KB to 20 KB each."""
    count, longest = shape
    step = (longest - 128) / (count - 1)
    return {"x" if i == 0 else f"x{i}": np.full(128 + int(i * step), number, np.int64) for i in range(count)}


def make_of(size: str) -> Make:
    """How a batch of a size is made, by a plain iterator."""
    return many if size == MANY else plain


def look_at(batch: Batch) -> Callable[[Batch], int]:
    """How to see one element of batches like this, as cheaply as it goes: the look is part of what is timed."""
    if isinstance(batch["x"], np.ndarray):
        return lambda batch: batch["x"].item(0)
    return lambda batch: int(batch["x"].flatten()[0])


def spin(seconds: float) -> None:
    """Keep a core busy for a time, however fast the core is."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def compute(operations: int) -> int:
    """Keep a core busy with a fixed amount of work, which takes longer on a core that is shared."""
    value = 1
    for _ in range(operations):
        value = value * 69069 % 4294967291
    return value
