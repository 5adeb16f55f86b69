"""Random numbers that are a function of ``(seed, block)``, so that a state only needs to hold these two.

The raw stream of a numpy BitGenerator never changes between versions; the methods of Generator may. So everything here is
computed from the raw stream, by operations that are exact on every platform.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, np.integer) else value


# Strict: otherwise pydantic would convert a numpy integer by way of a float.
Seed = Annotated[int, BeforeValidator(_plain), Field(strict=True, ge=0, lt=1 << 64)]
"""A seed in a state: an integer from 0, below 2**64."""

_WORD = (1 << 32) - 1
_PERMUTATIONS, _UNIFORMS = 0, 1


def permutation(seed: int, block: int, n: int) -> npt.NDArray[np.int64]:
    """Return the numbers below ``n`` in random order: int64 of shape ``(n,)``.

    Args:
        seed: an integer from 0, below 2**64.
        block: an integer from 0, below 2**64. Each block of each seed has its own order.
        n: how many numbers.
    """
    # Stable: two equal numbers, however rare, have the same order on every platform.
    return _raw(seed, block, n, _PERMUTATIONS).argsort(kind="stable").astype(np.int64, copy=False)


def uniforms(seed: int, block: int, n: int) -> npt.NDArray[np.float64]:
    """Return ``n`` random multiples of 2**-53, from 0 and below 1: float64 of shape ``(n,)``.

    The arguments are those of :func:`permutation`. A smaller ``n`` gives the first numbers of a larger one.
    """
    return (_raw(seed, block, n, _UNIFORMS) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _raw(seed: int, block: int, n: int, purpose: int) -> npt.NDArray[np.uint64]:
    # Two words for each number: as plain integers, (0, 1) and (2**32, 0) would be the same sequence of words. One stream
    # for each purpose: otherwise a shuffle of 1,024 items of a mixture with the same seed would sort them by source.
    entropy = [seed & _WORD, seed >> 32, block & _WORD, block >> 32]
    generator: Any = np.random.Philox(np.random.SeedSequence(entropy, spawn_key=(purpose,)))
    raw: npt.NDArray[np.uint64] = generator.random_raw(n)
    return raw
