"""Torch tensors as numpy arrays, without importing torch: where there is a tensor, somebody else has imported it."""

from __future__ import annotations

import sys
from typing import Any

import numpy.typing as npt


def is_tensor(cls: type) -> bool:
    """Whether ``cls`` is ``torch.Tensor`` itself; its subclasses have reductions of their own."""
    return cls.__name__ == "Tensor" and cls.__module__ == "torch"


def as_array(tensor: Any) -> npt.NDArray[Any] | None:
    """The tensor's own memory as an array (of its bits, if numpy lacks the dtype), or ``None``.

    Only for what an array can stand for: on the CPU, dense, without a gradient, and without attributes of its own.
    """
    torch = sys.modules["torch"]
    if tensor.requires_grad or not tensor.is_cpu or tensor.layout is not torch.strided:
        return None
    if tensor.is_conj() or tensor.is_neg() or tensor.__dict__:
        return None
    if tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
        return None  # an order that no array has
    try:
        array: npt.NDArray[Any] = tensor.numpy()
    except (TypeError, RuntimeError):  # a dtype that numpy lacks
        bits = {1: torch.uint8, 2: torch.int16}.get(tensor.element_size())
        if bits is None or tensor.is_quantized:
            return None
        array = tensor.view(bits).numpy()
    return array
