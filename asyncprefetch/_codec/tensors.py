"""Torch tensors as numpy arrays, without importing torch: if there is a tensor, torch is imported already."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy.typing as npt


def is_tensor(cls: type) -> bool:
    """Whether ``cls`` is ``torch.Tensor`` itself. Its subclasses have reductions of their own."""
    return cls.__name__ == "Tensor" and cls.__module__ == "torch"


def as_array(tensor: Any) -> npt.NDArray[Any] | None:
    """An array on the tensor's memory (of its bits, if numpy lacks the dtype); ``None`` if an array can't represent it.

    An array can represent a dense tensor on the CPU, without a gradient and without attributes of its own.
    """
    if tensor.__dict__ or tensor.requires_grad:
        return None
    torch = sys.modules["torch"]
    try:
        array: npt.NDArray[Any] = tensor.numpy()
    except (TypeError, RuntimeError):  # a dtype that numpy lacks, or a kind of tensor that an array can't represent
        if not tensor.is_cpu or tensor.layout is not torch.strided:
            return None
        bits = {1: torch.uint8, 2: torch.int16}.get(tensor.element_size())
        if bits is None or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
            return None
        array = tensor.view(bits).numpy()
    if tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
        return None  # arrays have no such memory order
    return array


def dtype_name(tensor: Any) -> str:
    """The name of the tensor's dtype in torch."""
    return str(tensor.dtype).removeprefix("torch.")


@functools.cache
def rebuild_tensor() -> Callable[[npt.NDArray[Any], str], Any]:
    """The function that makes a tensor from an array and the name of a dtype. Its module imports torch."""
    rebuild: Callable[[Any, str], Any] = importlib.import_module("asyncprefetch._codec.torch_tensors").rebuild
    return rebuild
