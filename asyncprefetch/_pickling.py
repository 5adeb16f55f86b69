"""The pickle that items cross in: one frame of bytes an item.

Arrays are reduced to their buffer, dtype name and shape, which is several times cheaper than numpy's own reduction.
They arrive writable, on memory of their own, in the memory order (C or Fortran) that they had; what is neither arrives
in C order.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections import ChainMap
from typing import Any

import numpy as np
import numpy.typing as npt


def dumps(item: Any) -> bytes:
    """``item`` as one frame. Raises whatever pickle raises for it."""
    with io.BytesIO() as file:
        _Pickler(file, 5).dump(item)
        return file.getvalue()


def loads(frame: bytes) -> Any:
    """The item of a frame made by :func:`dumps`, new at every call. Raises whatever pickle raises for it."""
    return pickle.loads(frame)


def _reduce_array(array: npt.NDArray[Any]) -> Any:
    dtype = array.dtype
    if dtype.hasobject:
        return array.__reduce_ex__(5)
    described = dtype.str if dtype.isbuiltin == 1 else dtype
    if array.size == 0 or dtype.itemsize == 0:
        return np.ndarray, (array.shape, dtype)  # by its dtype: "S0" as a name would become "S1"
    if dtype.fields:
        array = array.view(f"V{dtype.itemsize}")  # as one field: a copy would leave the padding as memory has it
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    flat = (array.T if fortran else np.ascontiguousarray(array)).reshape(-1)
    buffer = pickle.PickleBuffer(flat.view(np.uint8))  # type: ignore[arg-type]  # an array is a buffer from 3.12 on only
    return _rebuild_array, (buffer, described, array.shape, fortran)


def _rebuild_array(data: bytearray | bytes, dtype: Any, shape: tuple[int, ...], fortran: bool) -> npt.NDArray[Any]:
    # A read-only array was sent as bytes: the copy makes it writable.
    buffer = data if isinstance(data, bytearray) else bytearray(data)
    return np.frombuffer(buffer, dtype).reshape(shape, order="F" if fortran else "C")


class _Pickler(pickle.Pickler):
    # A chain, not a copy: what is registered with copyreg later counts as well.
    dispatch_table = ChainMap({np.ndarray: _reduce_array}, copyreg.dispatch_table)  # type: ignore[arg-type]  # noqa: RUF012
