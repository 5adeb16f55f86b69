"""How items are pickled: one frame of bytes an item, and beside it a slot of shared memory for large arrays.

An array is reduced to its buffer, dtype and shape, which is several times cheaper than numpy's own reduction. It arrives
writable, in the memory order (C or Fortran) that it had; an array that is in neither order arrives in C order. Large arrays
may lie in a slot, and the frame then holds their offsets. CPU tensors of torch cross as arrays.
"""

from __future__ import annotations

import copyreg
import itertools
import operator
import pickle
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from asyncprefetch._codec.tensors import as_array, dtype_name, is_tensor, rebuild_tensor
from asyncprefetch._wire.fingerprint import fingerprint
from asyncprefetch._wire.item_layout import MIN_PLACED, NAMES, Arrays, Known, Layouts, Offsets
from asyncprefetch.batch import Batch

# Stands in the frame for the slot's memory, which has another address in each process.
_SLOT = pickle.PickleBuffer(bytearray(1))

_fields_of = operator.attrgetter(*(field.name for field in fields(Batch)))

_buffer: Callable[[Any], pickle.PickleBuffer] = pickle.PickleBuffer  # an array is a buffer for mypy from 3.12 on only


class Placer(Protocol):
    """Places large arrays of an item on a slot."""

    @property
    def handed_out(self) -> bool:
        """Whether an array was ever made on a slot: then a view of any size may lie on one."""

    def place(self, array: npt.NDArray[Any]) -> int | None:
        """The array's offset in the item's slot; ``None`` if the array goes into the frame.

        Raises:
            ValueError: the array was yielded before.
        """

    def place_all(self, arrays: Arrays) -> Offsets:
        """The same for each array of an item: distinct arrays, contiguous in C order."""


class ItemPickler:
    """Makes frames, one after the other. Not safe for use by two threads at a time.

    Args:
        placer: places large arrays. Without one, every array goes into the frame.
    """

    def __init__(self, placer: Placer | None = None) -> None:
        self.layouts = Layouts()
        self._placer = placer
        self._has_tensors = False
        self._parts: list[Any] = []
        self._given: dict[int, int | None] = {}  # by identity: the offsets of arrays that are placed already
        self._pickler = pickle.Pickler(_Writer(self._parts.append), 5, buffer_callback=_stays_in_frame)
        self._pickler.dispatch_table = _Reducers(self._reduce_array, self._reduce_tensor)

    def encode(self, item: Any) -> tuple[bytes, int, bool]:
        """The item's frame, its fingerprint, and whether the frame holds a tensor of torch.

        Raises whatever pickle, the placer, or the item's own classes raise.
        """
        known = self.layouts.find(item)
        # The fingerprint comes first: the item's memory may be the consumer's as soon as it is placed and sent.
        if known is None:
            checksum = fingerprint(item)
            return self._walk(item), checksum, self._has_tensors
        layout, arrays, regular = known
        checksum = layout.fingerprint(arrays, regular) if layout.has_checksum else fingerprint(item)
        return self._frame(item, known), checksum, self._has_tensors

    def dumps(self, item: Any) -> bytes:
        """The item's frame alone."""
        return self._frame(item, self.layouts.find(item))

    def _frame(self, item: Any, known: Known | None) -> bytes:
        if known is None:
            return self._walk(item)
        layout, arrays, regular = known
        if not (regular and layout.has_frames):
            return self._walk(item)
        placer = self._placer
        offsets = layout.unplaced
        if placer is not None and (layout.has_large or placer.handed_out):
            offsets = placer.place_all(arrays)
        frame = layout.frame(arrays, offsets)
        if frame is None:
            frame = layout.learn(item, arrays, offsets, self._walk_placed)
        self._has_tensors = layout.has_tensors
        return frame

    def _walk_placed(self, item: Any, values: list[Any], offsets: Offsets) -> bytes:
        """The frame of an item whose arrays and tensors are placed already."""
        self._given = dict(zip(map(id, values), offsets, strict=True))
        try:
            return self._walk(item)
        finally:
            self._given = {}

    def _walk(self, item: Any) -> bytes:
        parts = self._parts
        self._has_tensors = False
        try:
            self._pickler.dump(item)
            if len(parts) == 1:
                whole: bytes = parts[0]
                return whole
            # Large buffers come as they are. Only raw bytes can be joined, whatever the memory order is.
            return b"".join(part.raw() if isinstance(part, pickle.PickleBuffer) else part for part in parts)
        finally:
            parts.clear()
            # The memo knows objects by identity: an array that is filled again would be mistaken for the old one.
            self._pickler.clear_memo()

    def _place(self, array: npt.NDArray[Any]) -> int | None:
        if self._placer is None:
            return None
        if self._given and (identity := id(array)) in self._given:
            return self._given[identity]
        return self._placer.place(array)

    def _reduce_array(self, array: npt.NDArray[Any]) -> Any:
        name = NAMES.get(array.dtype)
        if name is None:
            return self._reduce_uncommon(array)
        flags = array.flags
        contiguous = flags.c_contiguous
        # A small array stays in the frame, but a small view may be of an array on a slot.
        may_be_placed = self._placer is not None and (array.nbytes >= MIN_PLACED or array.base is not None)
        if contiguous and flags.writeable and not may_be_placed and array.nbytes:
            return np.ndarray, (array.shape, name, _buffer(array))
        order = () if contiguous or not flags.f_contiguous else (None, "F")
        if may_be_placed and (offset := self._place(array)) is not None:
            return np.ndarray, (array.shape, name, _SLOT, offset, *order)
        if array.size == 0:
            return np.ndarray, (array.shape, name)
        if not contiguous and not order:
            array = np.ascontiguousarray(array)
        elif not flags.writeable:
            array = array.copy("K")  # a read-only buffer would arrive as bytes, and they are read-only
        return np.ndarray, (array.shape, name, _buffer(array), 0, *order)

    def _reduce_uncommon(self, array: npt.NDArray[Any]) -> Any:
        dtype, shape = array.dtype, array.shape
        if dtype.hasobject:
            return array.__reduce_ex__(5)
        if array.size == 0 or dtype.itemsize == 0:
            return np.ndarray, (shape, dtype)  # the dtype itself, because the name "S0" would become "S1"
        if dtype.fields:
            array = array.view(f"V{dtype.itemsize}")  # as one field: a copy would leave the padding as memory has it
        order = (None, "F") if array.flags.f_contiguous and not array.flags.c_contiguous else ()
        if (offset := self._place(array)) is not None:
            return np.ndarray, (shape, dtype, _SLOT, offset, *order)
        flat = (array.T if order else np.ascontiguousarray(array)).reshape(-1).view(np.uint8)
        return np.ndarray, (shape, dtype, bytearray(flat), 0, *order)

    def _reduce_tensor(self, tensor: Any) -> Any:
        array = as_array(tensor)
        if array is None:
            return tensor.__reduce_ex__(5)
        self._has_tensors = True
        if self._given:
            self._given[id(array)] = self._given.get(id(tensor))
        return rebuild_tensor(), (array, dtype_name(tensor))


def loads(frame: bytes | memoryview, memory: Any = None) -> Any:
    """The item of a frame, a new one at every call. Raises whatever pickle raises.

    Args:
        frame: made by an :class:`ItemPickler`.
        memory: the slot's memory, or a copy of it: a writable buffer of bytes. Placed arrays lie on it.
    """
    return pickle.loads(frame, buffers=itertools.repeat(memory))


def _stays_in_frame(buffer: pickle.PickleBuffer) -> bool:
    return buffer is not _SLOT


class _Writer:
    """The file of a pickler that keeps what is written."""

    def __init__(self, write: Callable[[Any], object]) -> None:
        self.write = write


class _Reducers(dict[type, Callable[[Any], Any]]):
    """The dispatch table: our reducers for arrays and tensors, and all that is registered with copyreg at any time."""

    def __init__(self, reduce_array: Callable[[Any], Any], reduce_tensor: Callable[[Any], Any]) -> None:
        self[np.ndarray] = reduce_array
        # It arrives as a plain array, because the consumer's copy is not mapped to the file.
        self[np.memmap] = lambda mapped: reduce_array(mapped.view(np.ndarray))
        # Several times quicker than the reduction of dataclasses with slots. Subclasses may have more fields, and keep it.
        self[Batch] = lambda batch: (Batch, _fields_of(batch))
        # numpy's own reduction drops trailing zeros.
        self[np.str_] = lambda text: (np.str_, (text[:],))
        self[np.bytes_] = lambda data: (np.bytes_, (data[:],))
        self._reduce_tensor = reduce_tensor

    def __missing__(self, cls: type) -> Callable[[Any], Any]:
        if is_tensor(cls):  # here because torch may be imported later than this module
            self[cls] = self._reduce_tensor
            return self._reduce_tensor
        return copyreg.dispatch_table[cls]
