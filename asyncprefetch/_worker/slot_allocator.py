"""The worker's side of the shared memory: where the next batch is put, and what became of the earlier ones.

A slot is *open* (arrays for the next item are made on it), *sent* (the loader has it), *parked* (the loader gave it back,
but the iterator still refers to arrays on it), *free*, or has no memory yet.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from asyncprefetch._wire.item_pickler import MIN_PLACED
from asyncprefetch._wire.shared_memory import PROT_NONE, PROT_READ_WRITE, Segment

_ALIGNMENT = 64

# What an iterator makes and does not yield must not fill the slot: from here on it gets plain arrays.
_MAX_UNUSED = 64 << 20


class SlotAllocator:
    """Places arrays on slots: those that are made on them, and copies of others.

    Args:
        segment: the memory.
        before_growth: called before a slot is used that has no memory yet; it may call :meth:`release`.
        protect: end the process when anything touches what was sent. Then small arrays are made on slots as well.
    """

    def __init__(self, segment: Segment, before_growth: Callable[[], None], *, protect: bool = False) -> None:
        self._segment = segment
        self._before_growth = before_growth
        self._protect = protect
        self._min_size = 1 if protect else MIN_PLACED
        self._alignment = mmap.PAGESIZE if protect else _ALIGNMENT
        self._free: list[int] = []  # the last one was used last: its pages are warm
        self._cold = list(range(segment.slots - 1, -1, -1))
        self._sent: dict[int, list[tuple[int, int]]] = {}  # by slot, parked ones too: ranges of what was yielded
        self._parked: set[int] = set()
        self._slot: int | None = None  # the open one
        self._used = 0  # bytes of it
        self._ends: set[int] = set()  # of what is on it, if it is to be protected
        self._largest = 0  # item so far: bytes of it on its slot
        self.handed_out = False  # whether any array was ever made on a slot
        self._offsets: dict[int, int] = {}  # of arrays made on the open slot, by identity: what is looked up first
        self._ranges: list[tuple[int, int]] = []  # of the item in progress
        self._extent = 0  # the largest end of these
        self._in_place: list[npt.NDArray[Any]] = []  # its arrays that were made on the slot

    # ---------------------------------------------------------------------------------------------- for the iterator

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any], order: Literal["C", "F"]) -> Any:
        """An array on the open slot, or ``None``: too small, too large, or no slot left."""
        size = dtype.itemsize
        for length in shape:
            size *= length
        if size < self._min_size:
            return None
        slot = self._open()
        if slot is None:
            return None
        if self._used + size > max(_MAX_UNUSED, 4 * self._largest):
            return None
        offset = self._reserve(size)
        if offset is None:
            return None
        array: npt.NDArray[Any] = np.ndarray(shape, dtype, self._segment.owner(slot), offset, None, order)
        self._offsets[id(array)] = offset
        self.handed_out = True
        return array

    # ----------------------------------------------------------------------------------------------- for the pickler

    def place(self, array: npt.NDArray[Any]) -> int | None:
        """Where in the item's slot the array lies: in place, if it was made there, or copied. ``None``: in the frame.

        Raises:
            ValueError: the array was yielded before, and the consumer has its memory.
        """
        size = array.nbytes
        if self.handed_out and array.base is not None:
            offset = self._place_in_place(array, size)
            if offset is not None:
                return offset
        if size < MIN_PLACED:
            return None
        slot = self._open()
        offset = self._reserve(size) if slot is not None else None
        if slot is None or offset is None:
            return None
        order: Literal["C", "F"] = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
        np.ndarray(array.shape, array.dtype, self._segment.owner(slot), offset, None, order)[...] = array
        self._take(offset, offset + size)
        return offset

    def find(self, arrays: Sequence[npt.NDArray[Any]]) -> tuple[int, ...] | None:
        """The offsets of arrays that were made on the open slot; ``None`` if one is anything else."""
        offsets = []
        for array in arrays:
            offset = self._made_at(array)
            if offset is None or not array.flags.c_contiguous:
                return None
            offsets.append(offset)
        return tuple(offsets)

    def place_found(self, arrays: Sequence[npt.NDArray[Any]], offsets: Sequence[int]) -> None:
        """Take for the item in progress, as all that it has, arrays that were found at these offsets."""
        self._in_place = list(arrays)
        for array, offset in zip(arrays, offsets, strict=True):
            self._take(offset, offset + array.nbytes)

    def place_bytes(self, data: bytes) -> int | None:
        """Where in the item's slot ``data`` was copied to; ``None`` if there is no room."""
        slot = self._open()
        offset = self._reserve(len(data)) if slot is not None else None
        if slot is None or offset is None:
            return None
        memoryview(self._segment.owner(slot)).cast("B")[offset : offset + len(data)] = data
        self._take(offset, offset + len(data))
        return offset

    def seal(self) -> tuple[int, int] | None:
        """The item is complete: its slot, and how many bytes of it hold the item; ``None`` if it needs no slot.

        From here on the slot is the loader's, until it is released.
        """
        if not self._ranges:
            return None
        slot = self._slot
        assert slot is not None
        extent, owner = self._extent, self._segment.owner(slot)
        for array in self._in_place:
            if array.base is owner:  # the usual one, without the detour
                array.flags.writeable = False
            else:
                _make_read_only(array)
        if self._protect:
            self._protect_ranges(slot)
        self._sent[slot] = self._ranges
        self._largest = max(self._largest, sum(end - begin for begin, end in self._ranges))
        self._slot, self._ranges, self._extent, self._in_place = None, [], 0, []
        self._rewind()
        return slot, extent

    def discard(self) -> None:
        """The item in progress is not sent."""
        self._ranges, self._extent, self._in_place = [], 0, []

    # ------------------------------------------------------------------------------------------------ for the transport

    @property
    def is_open(self) -> bool:
        """Whether the next item has a slot already."""
        return self._slot is not None

    def release(self, slot: int) -> None:
        """The loader gives the slot back."""
        if self._segment.in_use(slot):
            self._parked.add(slot)
        else:
            self._make_free(slot)

    def trim(self, keep: int) -> None:
        """Give the memory of free slots back to the system, but for ``keep`` of them."""
        self._unpark()
        while len(self._free) > keep:
            slot = self._free.pop(0)
            self._segment.give_back(slot)
            self._cold.append(slot)

    def _make_free(self, slot: int) -> None:
        del self._sent[slot]
        if self._protect:
            self._segment.protect(slot, 0, self._segment.stride, PROT_READ_WRITE)
        self._free.append(slot)

    def _protect_ranges(self, slot: int) -> None:
        for begin, end in self._ranges:
            # Of an array of which only a part was yielded, the rest may still be used: whole pages of that part only.
            first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (-(-end // mmap.PAGESIZE) if end in self._ends else end // mmap.PAGESIZE) * mmap.PAGESIZE
            if first < last:
                self._segment.protect(slot, first, last, PROT_NONE)

    def _unpark(self) -> None:
        for slot in [slot for slot in self._parked if not self._segment.in_use(slot)]:
            self._parked.discard(slot)
            self._make_free(slot)

    def _open(self) -> int | None:
        """The open slot, whose content is forgotten if nothing on it is of any use."""
        if self._slot is None:
            if not self._free:
                self._unpark()
            if not self._free:
                self._before_growth()
            if self._free:
                self._slot = self._free.pop()
            elif self._cold:
                self._slot = self._cold.pop()
        elif self._used and not self._ranges and not self._segment.in_use(self._slot):
            self._rewind()
        return self._slot

    def _rewind(self) -> None:
        self._used = 0
        self._offsets.clear()
        self._ends.clear()

    def _reserve(self, size: int) -> int | None:
        offset = -(-self._used // self._alignment) * self._alignment
        if offset + size > self._segment.stride:
            return None
        self._used = offset + size
        if self._protect:
            self._ends.add(self._used)
        return offset

    def _take(self, begin: int, end: int) -> None:
        """The item in progress has these bytes."""
        self._ranges.append((begin, end))
        self._extent = max(self._extent, end)

    def _made_at(self, array: npt.NDArray[Any]) -> int | None:
        """Where on the open slot the array was made; ``None``: nowhere on it."""
        offset = self._offsets.get(id(array))
        # The identity may be that of a later array, but none that was not made here lies directly on the owner.
        if offset is None or self._slot is None or array.base is not self._segment.owner(self._slot):
            return None
        return offset

    def _place_in_place(self, array: npt.NDArray[Any], size: int) -> int | None:
        slot, offset, span = self._slot, self._made_at(array), None
        if offset is not None and array.flags.forc:
            span = (offset, offset + size)
        if span is None:
            begin, end = _bounds(array)
            slot, offset = divmod(begin - self._segment.start, self._segment.stride)
            if not 0 <= slot < self._segment.slots or not size:
                return None
            span = (offset, offset + end - begin)
            if slot in self._sent:
                if any(_overlap(span, other) for other in self._sent[slot]):
                    raise ValueError(
                        "an array made by asyncprefetch.empty, full or zeros was yielded before, and its memory is the "
                        "consumer's now: make a new one for each item, or yield plain numpy arrays, which are copied"
                    )
                return None
            if not array.flags.forc:
                return None
        # Most often an array was made behind those before it.
        if span[0] < self._extent and any(_overlap(span, other) for other in self._ranges):
            return None  # two arrays of the item share memory: they arrive apart, as all others do
        self._take(*span)
        self._in_place.append(array)
        return span[0]


def _bounds(array: npt.NDArray[Any]) -> tuple[int, int]:
    """The addresses of its first byte and after its last one."""
    begin = end = array.__array_interface__["data"][0]
    for length, stride in zip(array.shape, array.strides, strict=True):
        reach = (length - 1) * stride
        begin, end = begin + min(reach, 0), end + max(reach, 0)
    return begin, end + array.itemsize


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def _make_read_only(array: Any) -> None:
    while array is not None:
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
        # Between two arrays may lie a memoryview, or what numpy's as_strided makes.
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
