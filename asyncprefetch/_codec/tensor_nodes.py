"""Tensors of torch as nodes: an array, the name of the dtype, and whether the tensor requires a gradient."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from pydantic import JsonValue

from asyncprefetch._codec.common import Decoding, Encoding, Node, malformed, refuse
from asyncprefetch._codec.tensors import as_array, dtype_name, rebuild_tensor
from asyncprefetch.errors import CheckpointError

_FLOATS = ("float16", "float32", "float64", "bfloat16")
_SMALL_FLOATS = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
_INTEGERS = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
DTYPES = frozenset({*_FLOATS, *_SMALL_FLOATS, *_INTEGERS, "complex64", "complex128"})
"""The names of the dtypes that a checkpoint holds. Another name in a file could make torch import something."""


def encode_tensor(encoder: Encoding, value: Any, path: str, depth: int) -> JsonValue:
    """Return the node of a tensor. The tensor that comes back is no part of a graph, even if this one is."""
    plain = value.detach()
    name = dtype_name(value)
    if value.__dict__:
        _refuse(path, "that has attributes of its own")
    if name not in DTYPES:
        _refuse(path, f"of dtype {value.dtype}")
    order = "C"
    array = as_array(plain)
    if array is None and value.is_cpu and value.dim() == 4:
        # An array has no such memory order, but the tensor with its channels last is contiguous.
        order, array = "channels_last", as_array(plain.permute(0, 2, 3, 1))
    if array is None:
        _refuse(path, f"on the device {value.device}, of layout {value.layout} and dtype {value.dtype}")
    node = encoder.encode(array, path, depth + 1)
    return {"$": "tensor", "dtype": name, "order": order, "grad": bool(value.requires_grad), "v": node}


def decode_tensor(decoder: Decoding, node: Node, depth: int) -> Any:
    """Return the tensor of a node."""
    name, order, grad = node["dtype"], node["order"], node["grad"]
    if not isinstance(name, str) or name not in DTYPES or order not in ("C", "channels_last") or type(grad) is not bool:
        raise malformed(f"tensor of dtype {name!r:.60}")
    array = decoder.decode(node["v"], depth + 1)
    if type(array) is not np.ndarray or (order != "C" and array.ndim != 4):
        raise malformed("a tensor without an array that fits it")
    try:
        rebuild = rebuild_tensor()
    except ImportError as error:
        raise CheckpointError("the checkpoint holds a tensor: install torch, and load the checkpoint again") from error
    tensor = rebuild(array, name)
    if tuple(tensor.shape) != array.shape:
        raise malformed(f"a tensor of dtype {name} on an array of dtype {array.dtype}")
    if order != "C":
        tensor = tensor.permute(0, 3, 1, 2)
    return tensor.requires_grad_() if grad else tensor


def _refuse(path: str, what: str) -> NoReturn:
    refuse(path, f"a checkpoint can't hold a tensor {what}; it holds dense tensors of numbers on the CPU")
