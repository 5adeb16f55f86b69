"""The pickle that items cross in: one frame of bytes an item, and beside it a slot of shared memory for large arrays.

Arrays are reduced to their buffer, dtype and shape, which is several times cheaper than numpy's own reduction. They
arrive writable, in the memory order (C or Fortran) that they had; what is neither arrives in C order. Large ones may
lie in a slot, of which the frame then holds their offsets. CPU tensors of torch cross as arrays.
"""

from __future__ import annotations

import copyreg
import itertools
import operator
import pickle
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from asyncprefetch._wire.item_layout import MAX_LAYOUTS, NUMBERS, Flat, Layout, Templates
from asyncprefetch._wire.tensors import as_array, dtype_name, is_tensor, rebuild_tensor
from asyncprefetch.batch import Batch

# By dtype, its name: several times faster than to ask the dtype. What is not in here is not a plain number.
_NAMES = {np.dtype(char): np.dtype(char).str for char in NUMBERS}

# Smaller arrays ride in the frame: the way through the socket is shorter than that to a slot and back.
MIN_PLACED = 8 << 10

# Stands in the frame for the slot's memory, whatever that is on the other side.
_SLOT = pickle.PickleBuffer(bytearray(1))


_fields_of = operator.attrgetter(*(field.name for field in fields(Batch)))

_buffer: Callable[[Any], pickle.PickleBuffer] = pickle.PickleBuffer  # an array is a buffer for mypy from 3.12 on only


class Placer(Protocol):
    """Where large arrays of an item go."""

    @property
    def handed_out(self) -> bool:
        """Whether any array was made where it places them, so that small ones may lie there."""

    def place(self, array: npt.NDArray[Any]) -> int | None:
        """The array's offset in the item's slot; ``None`` if it belongs into the frame."""

    def find(self, arrays: Sequence[npt.NDArray[Any]]) -> tuple[int, ...] | None:
        """The offsets of arrays each of which ``place`` would leave where it was made; ``None`` if one is another."""

    def place_found(self, arrays: Sequence[npt.NDArray[Any]], offsets: Sequence[int]) -> None:
        """Place arrays that were found, and are all of the item."""


class ItemPickler:
    """Makes frames, one after the other. Not for two threads at a time."""

    def __init__(self, placer: Placer | None = None) -> None:
        self.has_tensors = False  # of the item pickled last
        self._placer = placer
        self._parts: list[Any] = []
        self._pickler = pickle.Pickler(_Writer(self._parts.append), 5, buffer_callback=_stays_in_frame)
        self._pickler.dispatch_table = _Reducers(self._reduce_array, self._reduce_tensor)
        self._templates = Templates(self._dumps, _rides_in_frame)
        self._placed: dict[tuple[Layout, tuple[int, ...]], bytes] = {}  # frames of arrays made where they are placed

    def dumps(self, item: Any, flat: Flat | None = None) -> bytes:
        """``item`` as one frame. Raises whatever pickle, or the placer, raises for it.

        Args:
            item: the item.
            flat: the same flattened, if it can be: then this is quicker.
        """
        self.has_tensors = False
        if flat is None:
            return self._dumps(item)
        # Where arrays were made on the slot, each that is a view of something may have to be placed.
        if self._placer is not None and self._placer.handed_out:
            return self._dumps_placed(item, flat, self._placer)
        frame = self._templates.frame(flat)
        if frame is None:
            return self._dumps(item)
        self.has_tensors = flat[0][-1]
        return frame

    def _dumps_placed(self, item: Any, flat: Flat, placer: Placer) -> bytes:
        layout, arrays, _ = flat
        offsets = placer.find(arrays)
        if offsets is None:
            return self._dumps(item)
        # Nothing else is in the frame: an iterator that makes its arrays in one order each time has one frame.
        frame = self._placed.get((layout, offsets))
        if frame is not None:
            placer.place_found(arrays, offsets)
            return frame
        frame = self._dumps(item)
        if all(array.dtype in _NAMES for array in arrays):
            if len(self._placed) >= MAX_LAYOUTS:
                self._placed.clear()
            self._placed[layout, offsets] = frame
        return frame

    def _dumps(self, item: Any) -> bytes:
        parts = self._parts
        try:
            self._pickler.dump(item)
            if len(parts) == 1:
                whole: bytes = parts[0]
                return whole
            # Large buffers come as they are, and only their raw bytes can be joined, whatever their memory order.
            return b"".join(part.raw() if isinstance(part, pickle.PickleBuffer) else part for part in parts)
        finally:
            parts.clear()
            # The memo knows objects by their identity: an array that is filled anew would be taken for the old one.
            self._pickler.clear_memo()

    def _reduce_array(self, array: npt.NDArray[Any]) -> Any:
        name = _NAMES.get(array.dtype)
        if name is None:
            return self._reduce_uncommon(array)
        flags = array.flags
        contiguous = flags.c_contiguous
        # A small array rides in the frame, but for one that may be a view of what lies in a slot.
        may_be_placed = self._placer is not None and (array.nbytes >= MIN_PLACED or array.base is not None)
        if contiguous and flags.writeable and not may_be_placed and array.nbytes:
            return np.ndarray, (array.shape, name, _buffer(array))
        order = () if contiguous or not flags.f_contiguous else (None, "F")
        if may_be_placed and self._placer is not None and (offset := self._placer.place(array)) is not None:
            return np.ndarray, (array.shape, name, _SLOT, offset, *order)
        if array.size == 0:
            return np.ndarray, (array.shape, name)
        if not contiguous and not order:
            array = np.ascontiguousarray(array)
        elif not flags.writeable:
            array = array.copy("K")  # it would arrive as bytes, and they are read-only
        return np.ndarray, (array.shape, name, _buffer(array), 0, *order)

    def _reduce_uncommon(self, array: npt.NDArray[Any]) -> Any:
        dtype, shape = array.dtype, array.shape
        if dtype.hasobject:
            return array.__reduce_ex__(5)
        if array.size == 0 or dtype.itemsize == 0:
            return np.ndarray, (shape, dtype)  # by its dtype: "S0" as a name would become "S1"
        if dtype.fields:
            array = array.view(f"V{dtype.itemsize}")  # as one field: a copy would leave the padding as memory has it
        order = (None, "F") if array.flags.f_contiguous and not array.flags.c_contiguous else ()
        if self._placer is not None and (offset := self._placer.place(array)) is not None:
            return np.ndarray, (shape, dtype, _SLOT, offset, *order)
        flat = (array.T if order else np.ascontiguousarray(array)).reshape(-1).view(np.uint8)
        return np.ndarray, (shape, dtype, bytearray(flat), 0, *order)

    def _reduce_tensor(self, tensor: Any) -> Any:
        array = as_array(tensor)
        if array is None:
            return tensor.__reduce_ex__(5)
        self.has_tensors = True
        return rebuild_tensor(), (array, dtype_name(tensor))


def loads(frame: bytes | memoryview, memory: Any = None) -> Any:
    """The item of a frame, new at every call. Raises whatever pickle raises for it.

    Args:
        frame: made by an :class:`ItemPickler`.
        memory: the slot's memory, on which the arrays that were placed then lie: any writable buffer of bytes.
    """
    return pickle.loads(frame, buffers=itertools.repeat(memory))


def _stays_in_frame(buffer: pickle.PickleBuffer) -> bool:
    return buffer is not _SLOT


def _rides_in_frame(dtype: np.dtype[Any], size: int) -> bool:
    return dtype in _NAMES and size < MIN_PLACED


class _Writer:
    """The file of a pickler that keeps what is written."""

    def __init__(self, write: Callable[[Any], object]) -> None:
        self.write = write


class _Reducers(dict[type, Callable[[Any], Any]]):
    """The dispatch table: ours for arrays and tensors, and all that is registered with copyreg, also later."""

    def __init__(self, reduce_array: Callable[[Any], Any], reduce_tensor: Callable[[Any], Any]) -> None:
        self[np.ndarray] = reduce_array
        # Several times quicker than what dataclasses with slots have. Not for subclasses: they may have more fields.
        self[Batch] = lambda batch: (Batch, _fields_of(batch))
        # By numpy's own reduction they lose what zeros they end in.
        self[np.str_] = lambda text: (np.str_, (text[:],))
        self[np.bytes_] = lambda data: (np.bytes_, (data[:],))
        self._reduce_tensor = reduce_tensor

    def __missing__(self, cls: type) -> Callable[[Any], Any]:
        if is_tensor(cls):  # torch is imported, but not by us
            self[cls] = self._reduce_tensor
            return self._reduce_tensor
        return copyreg.dispatch_table[cls]
