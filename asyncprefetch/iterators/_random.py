"""Random numbers that are a function of ``(seed, block)``, so that a state needs to hold nothing but these two.

The raw stream of a numpy BitGenerator never changes between versions; what Generator's methods make of it may. So
everything here is made of the raw stream, by operations that are exact on every platform.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, np.integer) else value


# Strict, or a number of numpy's would go through a float.
Seed = Annotated[int, BeforeValidator(_plain), Field(strict=True, ge=0, lt=1 << 64)]
"""What a state may hold as a seed."""

_WORD = (1 << 32) - 1
_PERMUTATIONS, _UNIFORMS = 0, 1


def permutation(seed: int, block: int, n: int) -> npt.NDArray[np.int64]:
    """The numbers below ``n`` in random order, int64, shape ``(n,)``.

    Args:
        seed: from 0, below 2**64.
        block: from 0, below 2**64. Each block of each seed has an order of its own.
        n: how many.
    """
    # Stable: two equal numbers, however rare, stay in one order on every platform.
    return _raw(seed, block, n, _PERMUTATIONS).argsort(kind="stable").astype(np.int64, copy=False)


def uniforms(seed: int, block: int, n: int) -> npt.NDArray[np.float64]:
    """``n`` random multiples of 2**-53, from 0 and below 1, float64, shape ``(n,)``. Arguments as above.

    Fewer numbers of one block are the first of more.
    """
    return (_raw(seed, block, n, _UNIFORMS) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _raw(seed: int, block: int, n: int, purpose: int) -> npt.NDArray[np.uint64]:
    # Two words each: as plain integers, (0, 1) and (2**32, 0) would be the same sequence of words. And one stream for
    # each purpose: otherwise a shuffle of 1,024 items of a mixture with the same seed would sort them by source.
    entropy = [seed & _WORD, seed >> 32, block & _WORD, block >> 32]
    generator: Any = np.random.Philox(np.random.SeedSequence(entropy, spawn_key=(purpose,)))
    raw: npt.NDArray[np.uint64] = generator.random_raw(n)
    return raw
