"""The worker's side of the shared memory: where the arrays of the next item lie.

Arrays are made on the current slot, one after the other, or copied to it when an item is pickled. Sealing the item gives its
slot to the loader; the next item gets another slot. Until the loader releases the slot, its content is the consumer's.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from asyncprefetch._wire.item_layout import MIN_PLACED, Arrays, Offsets
from asyncprefetch._wire.shared_memory import PROT_NONE, PROT_READ_WRITE, Segment
from asyncprefetch._worker.slots import Slots

_ALIGNMENT = 64

# Arrays that an iterator makes and does not yield must not fill the slot: above this size it gets plain arrays.
_MAX_UNUSED = 64 << 20

Span = tuple[int, int]
"""Bytes of a slot: offset of the first one, and offset after the last one."""


class SlotAllocator:
    """Places arrays on slots: arrays that are made there, and copies of others.

    Args:
        segment: the memory.
        before_growth: called before a slot is used that has no memory yet. It may call :meth:`release`.
        protect: end the process when anything touches what was sent. Then small arrays are made on slots as well.
    """

    def __init__(self, segment: Segment, before_growth: Callable[[], None], *, protect: bool = False) -> None:
        self.handed_out = False  # whether an array was ever made on a slot
        self._segment = segment
        self._before_growth = before_growth
        self._protection = PageProtection(segment) if protect else None
        self._min_size = 1 if protect else MIN_PLACED
        self._slots = Slots(segment)
        self._current = CurrentSlot(segment.stride, mmap.PAGESIZE if protect else _ALIGNMENT)
        self._item = PlacedItem()
        self._largest_item = 0  # bytes
        self._sent: dict[int, list[Span]] = {}  # the consumer's bytes in each slot, until the slot is free

    # ---------------------------------------------------------------------------------------------- for the iterator

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any], order: Literal["C", "F"]) -> Any:
        """An array on the current slot. ``None`` if it is too small or too large, or if no slot is left."""
        size = dtype.itemsize
        for length in shape:
            size *= length
        if size < self._min_size:
            return None
        slot = self._take_slot()
        if slot is None:
            return None
        current = self._current
        if current.used + size > max(_MAX_UNUSED, 4 * self._largest_item):
            return None
        offset = current.reserve(size)
        if offset is None:
            return None
        array: npt.NDArray[Any] = np.ndarray(shape, dtype, self._segment.owner(slot), offset, None, order)
        current.made[id(array)] = offset
        self.handed_out = True
        return array

    # ----------------------------------------------------------------------------------------------- for the pickler

    def place_all(self, arrays: Arrays) -> Offsets:
        """Place the arrays of an item: see :meth:`place`. They are distinct, and contiguous in C order."""
        item, current = self._item, self._current
        memory: memoryview | None = None
        offsets: list[int | None] = []
        for array in arrays:
            if array.base is None:
                # As in _copy(), in half the time: contiguous bytes need no array on the slot.
                size, offset = array.nbytes, None
                if size >= MIN_PLACED:
                    if memory is None and (slot := self._take_slot()) is not None:
                        memory = memoryview(self._segment.owner(slot)).cast("B")
                    if memory is not None and (offset := current.reserve(size)) is not None:
                        memory[offset : offset + size] = array.data.cast("B")
                        item.add(offset, offset + size)
                offsets.append(offset)
                continue
            offset = self._made_at(array)
            if offset is not None and offset >= item.extent:  # the usual one: it was made after the arrays before it
                item.add(offset, offset + array.nbytes)
                item.in_place.append(array)
                offsets.append(offset)
            else:
                offsets.append(self.place(array))
        return tuple(offsets)

    def place(self, array: npt.NDArray[Any]) -> int | None:
        """The array's offset in the item's slot: where it was made, or where it was copied to. ``None``: in the frame.

        Raises:
            ValueError: the array was yielded before, and its memory is the consumer's.
        """
        if self.handed_out and array.base is not None:
            offset = self._place_in_place(array)
            if offset is not None:
                return offset
        return self._copy(array) if array.nbytes >= MIN_PLACED else None

    def place_bytes(self, data: bytes) -> int | None:
        """The offset in the item's slot to which ``data`` was copied; ``None`` if there is no room."""
        slot = self._take_slot()
        offset = self._current.reserve(len(data)) if slot is not None else None
        if slot is None or offset is None:
            return None
        end = offset + len(data)
        memoryview(self._segment.owner(slot)).cast("B")[offset:end] = data
        self._item.add(offset, end)
        return offset

    def seal(self) -> tuple[int, int] | None:
        """Complete the item. Its slot belongs to the loader until it is released.

        Returns:
            The slot, and how many bytes from its beginning the item takes at most; ``None`` if the item needs no slot.
        """
        item, current = self._item, self._current
        spans, extent, slot = item.spans, item.extent, current.slot
        if not spans:
            return None
        assert slot is not None
        owner = self._segment.owner(slot)
        for array in item.in_place:
            if array.base is owner:  # the usual one, without the detour
                array.flags.writeable = False
            else:
                _make_read_only(array)
        if self._protection is not None:
            self._protection.protect(slot, spans, current.ends)
        self._slots.send(slot)
        self._sent[slot] = spans
        self._largest_item = max(self._largest_item, sum(end - begin for begin, end in spans))
        item.clear()
        current.clear(None)
        return slot, extent

    def discard(self) -> None:
        """The item in progress is not sent: its arrays belong to the iterator again."""
        self._item.clear()

    # ------------------------------------------------------------------------------------------------ for the transport

    @property
    def has_current(self) -> bool:
        """Whether the next item has a slot already."""
        return self._current.slot is not None

    def release(self, slot: int) -> None:
        """The loader gives the slot back."""
        if self._slots.release(slot):
            self._freed(slot)

    def trim(self, keep: int) -> None:
        """Give the memory of free slots back to the system, except for ``keep`` of them."""
        self._reclaim()
        self._slots.trim(keep)

    def _reclaim(self) -> None:
        for slot in self._slots.reclaim():
            self._freed(slot)

    def _freed(self, slot: int) -> None:
        del self._sent[slot]
        if self._protection is not None:
            self._protection.lift(slot)

    # ---------------------------------------------------------------------------------------------- the current slot

    def _take_slot(self) -> int | None:
        """The current slot. Its content is forgotten if it is of no use to the iterator."""
        current = self._current
        slot = current.slot
        if slot is None:
            slots = self._slots
            if not slots.n_free:
                self._reclaim()
            if not slots.n_free:
                self._before_growth()
            current.slot = slots.take()
            return current.slot
        if current.used and not self._item.spans and not self._segment.in_use(slot):
            current.clear(slot)
        return slot

    def _copy(self, array: npt.NDArray[Any]) -> int | None:
        """The offset to which the array was copied; ``None`` if there is no room."""
        slot = self._take_slot()
        size = array.nbytes
        offset = self._current.reserve(size) if slot is not None else None
        if slot is None or offset is None:
            return None
        flags = array.flags
        order: Literal["C", "F"] = "F" if flags.f_contiguous and not flags.c_contiguous else "C"
        np.ndarray(array.shape, array.dtype, self._segment.owner(slot), offset, None, order)[...] = array
        self._item.add(offset, offset + size)
        return offset

    def _place_in_place(self, array: npt.NDArray[Any]) -> int | None:
        slot, offset, size = self._current.slot, self._made_at(array), array.nbytes
        if offset is not None and array.flags.forc:
            span = (offset, offset + size)
        else:
            begin, end = _bounds(array)
            slot, offset = divmod(begin - self._segment.address, self._segment.stride)
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
        if self._item.overlaps(span):
            return None  # two arrays of the item share memory: they arrive apart, as all others do
        self._item.add(*span)
        self._item.in_place.append(array)
        return span[0]

    def _made_at(self, array: npt.NDArray[Any]) -> int | None:
        """The offset on the current slot at which the array was made; ``None`` if it was not made there."""
        current = self._current
        offset = current.made.get(id(array))
        # A later array may have the same identity. But only arrays that were made here lie directly on the owner.
        if offset is None or current.slot is None or array.base is not self._segment.owner(current.slot):
            return None
        return offset


class CurrentSlot:
    """The slot on which the next item is made, and what was made there so far.

    Args:
        stride: bytes of a slot.
        alignment: each array begins at a multiple of this many bytes.

    Attributes:
        slot: its number; ``None`` until the next item needs one.
        used: bytes from its beginning.
        made: the offsets of arrays that were made on it, by the identity of the array.
        ends: the offsets after everything that was reserved.
    """

    __slots__ = ("_alignment", "_stride", "ends", "made", "slot", "used")

    def __init__(self, stride: int, alignment: int) -> None:
        self._stride = stride
        self._alignment = alignment
        self.made: dict[int, int] = {}
        self.ends: list[int] = []
        self.clear(None)

    def clear(self, slot: int | None) -> None:
        """Go on with this slot, on which nothing lies."""
        self.slot = slot
        self.used = 0
        self.made.clear()
        self.ends.clear()

    def reserve(self, size: int) -> int | None:
        """The offset of ``size`` bytes; ``None`` if there is no room."""
        alignment = self._alignment
        offset = -(-self.used // alignment) * alignment
        end = offset + size
        if end > self._stride:
            return None
        self.used = end
        self.ends.append(end)
        return offset


class PlacedItem:
    """The parts of the item in progress that lie on the current slot.

    Attributes:
        spans: their bytes.
        extent: the largest end of these.
        in_place: arrays that were made where they are.
    """

    __slots__ = ("extent", "in_place", "spans")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin with the next item."""
        self.spans: list[Span] = []
        self.extent = 0
        self.in_place: Arrays = []

    def add(self, begin: int, end: int) -> None:
        """The item has these bytes."""
        self.spans.append((begin, end))
        self.extent = max(self.extent, end)

    def overlaps(self, span: Span) -> bool:
        """Whether the item has any of these bytes already. Most arrays were made after the earlier ones."""
        return span[0] < self.extent and any(_overlap(span, other) for other in self.spans)


class PageProtection:
    """Makes what was yielded inaccessible to this process until the loader has released its slot."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment

    def protect(self, slot: int, spans: list[Span], ends: list[int]) -> None:
        """Protect these bytes, in whole pages.

        Args:
            slot: their slot.
            spans: the bytes that were yielded.
            ends: the ends of all arrays on the slot. The page in which one ends holds nothing else: arrays begin at pages.
        """
        page = mmap.PAGESIZE
        for begin, end in spans:
            # If only a part of an array was yielded, the iterator may still use the rest: protect the pages within the part.
            first = -(-begin // page) * page
            last = (-(-end // page) if end in ends else end // page) * page
            if first < last:
                self._segment.protect(slot, first, last, PROT_NONE)

    def lift(self, slot: int) -> None:
        """Make the slot accessible again."""
        self._segment.protect(slot, 0, self._segment.stride, PROT_READ_WRITE)


def _bounds(array: npt.NDArray[Any]) -> Span:
    """The addresses of its first byte, and after its last one."""
    begin = end = array.__array_interface__["data"][0]
    for length, stride in zip(array.shape, array.strides, strict=True):
        reach = (length - 1) * stride
        begin, end = begin + min(reach, 0), end + max(reach, 0)
    return begin, end + array.itemsize


def _overlap(a: Span, b: Span) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def _make_read_only(array: Any) -> None:
    while array is not None:
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
        # Between two arrays may lie a memoryview, or the object that numpy's as_strided makes.
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
