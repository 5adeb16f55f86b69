"""Random numbers that are a function of a seed and a block's number, the same with every version of numpy.

numpy keeps the raw stream of a bit generator as it is for ever, and not what its Generator makes of it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def permutation(seed: int, block: int, n: int) -> npt.NDArray[np.int64]:
    """The numbers below ``n`` in a random order: int64 of shape ``(n,)``."""
    return np.argsort(_raw(seed, block, n), kind="stable").astype(np.int64, copy=False)


def uniforms(seed: int, block: int, n: int) -> npt.NDArray[np.float64]:
    """``n`` random numbers in ``[0, 1)``: float64 of shape ``(n,)``."""
    return (_raw(seed, block, n) >> np.uint64(11)).astype(np.float64) * np.float64(2.0**-53)


def _raw(seed: int, block: int, n: int) -> npt.NDArray[np.uint64]:
    raw: npt.NDArray[np.uint64] = np.random.Philox(np.random.SeedSequence([seed, block])).random_raw(n)
    return raw
