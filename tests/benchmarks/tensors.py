"""The same batches as torch tensors; a module of its own, so that torch is imported only where it is measured."""

from __future__ import annotations

import torch

from asyncprefetch import register
from tests.benchmarks.batches import Batch


@register("benchmarks.tensors")
def tensors(shape: tuple[int, int], number: int) -> Batch:
    """Two tensors, filled with the number of the batch."""
    return {
        "x": torch.full(shape, number, dtype=torch.int64),
        "y": torch.full(shape, number, dtype=torch.int64),
    }
