"""The layouts of items: everything that follows from the names, dtypes and shapes of an item's arrays, computed once.

Most iterators yield items of one layout: a ``Batch`` or a dict of arrays with the same dtypes and shapes each time. Walking
such an item costs several times as much as copying its arrays when they are small. A pickler therefore keeps a
:class:`Layout` for each layout that it met twice. The layout holds the checksum of the item's structure, and templates: the
item's frame without the bytes of the arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from asyncprefetch._codec.tensors import as_array, dtype_name, is_tensor, rebuild_tensor
from asyncprefetch._wire.fingerprint import NUMBERS, sample, sample_step, sampled_parts, structure_checksum
from asyncprefetch.batch import Batch

MIN_PLACED = 8 << 10
"""Bytes. Smaller arrays stay in the frame: the way through the socket is shorter than that to a slot and back."""

NAMES = {np.dtype(letter): name for letter, name in NUMBERS.items()}
"""The names of the dtypes of plain numbers in native byte order. A look-up is several times faster than ``dtype.str``."""

MAX_LAYOUTS = 256
MAX_ARRAYS = 512
# Templates of one layout: one for each set of offsets.
_MAX_TEMPLATES = 32

_FIELDS = tuple(field.name for field in fields(Batch))

Arrays = list[npt.NDArray[Any]]

Offsets = tuple[int | None, ...]
"""Where in the item's slot each array lies; ``None`` for an array in the frame."""

Walk = Callable[[Any, list[Any], Offsets], bytes]
"""Pickles an item without a template, given its arrays and tensors and the offsets at which they were placed."""

Known = tuple["Layout", Arrays, bool]
"""A known item: its layout; its arrays, where a tensor counts as the array on its memory; and whether the item is regular.

The arrays of a regular item are distinct, contiguous in C order, aligned and writable.
"""


class Layouts:
    """The layouts that were met. Not safe for use by two threads at a time."""

    def __init__(self) -> None:
        self._layouts: dict[tuple[Any, ...], Layout] = {}
        self._met_once: set[tuple[Any, ...]] = set()

    def __len__(self) -> int:
        return len(self._layouts) + len(self._met_once)

    def find(self, item: Any) -> Known | None:
        """The item with its layout, if it is a :class:`Batch` or a dict of arrays whose layout was met before."""
        cls = type(item)
        if cls is dict and len(item) <= MAX_ARRAYS:
            parts = item
        elif cls is Batch:
            parts = {name: part for name in _FIELDS if (part := getattr(item, name)) is not None}
        else:
            return None
        key: list[Any] = [cls]
        arrays: Arrays = []
        regular, has_tensors = True, False
        ndarray = np.ndarray
        for name, value in parts.items():
            # Compared by type, because equal keys are not always the same: 1 and True.
            if type(name) is not str:
                return None
            if type(value) is ndarray:
                array = value
            elif is_tensor(type(value)) and (tensor := as_array(value)) is not None:
                array, has_tensors = tensor, True
            else:
                return None
            key += (name, value.dtype, array.shape)
            arrays.append(array)
            if not array.flags.carray:
                regular = False
        layout = self._layouts.get(tuple(key))
        if layout is None:
            layout = self._meet(tuple(key), item, arrays, has_tensors)
            if layout is None:
                return None
        # The same array under two names arrives as one array.
        if regular and len(set(map(id, parts.values()))) < len(arrays):
            regular = False
        return layout, arrays, regular

    def _meet(self, key: tuple[Any, ...], item: Any, arrays: Arrays, has_tensors: bool) -> Layout | None:
        # A layout that comes a second time will mostly come again; many layouts come only once.
        if key not in self._met_once:
            if len(self) >= MAX_LAYOUTS:
                self._met_once.clear()
                self._layouts.clear()
            self._met_once.add(key)
            return None
        self._met_once.remove(key)
        layout = self._layouts[key] = Layout(item, arrays, has_tensors)
        return layout


class Layout:
    """What follows from the layout of an item.

    Attributes:
        has_tensors: whether the item holds a tensor of torch.
        has_large: whether an array is large enough for a slot.
        has_frames: whether frames are made from templates: all arrays are of plain numbers in native byte order.
        has_checksum: whether :meth:`fingerprint` can be used: the elements of every array are plain numbers.
        unplaced: the offsets of an item that lies in the frame with all its arrays.
    """

    __slots__ = (
        "_checksum",
        "_samples",
        "_templates",
        "has_checksum",
        "has_frames",
        "has_large",
        "has_tensors",
        "unplaced",
    )

    def __init__(self, item: Any, arrays: Arrays, has_tensors: bool) -> None:
        self.has_tensors = has_tensors
        self.has_large = any(array.nbytes >= MIN_PLACED for array in arrays)
        self.has_frames = all(array.dtype in NAMES for array in arrays)
        self.has_checksum = all(array.dtype.char in NUMBERS for array in arrays)
        self.unplaced: Offsets = (None,) * len(arrays)
        self._checksum = structure_checksum(item)
        self._samples = [(i, sample_step(arrays[i])) for i in sampled_parts(len(arrays))]
        # Frames in pieces. The arrays are filled in at the odd indices. None: met once; []: there is no template.
        self._templates: dict[Offsets, list[Any] | None] = {}

    def fingerprint(self, arrays: Arrays, regular: bool) -> int:
        """The item's fingerprint: equal to that of :func:`~asyncprefetch._wire.fingerprint.fingerprint`."""
        checksum = self._checksum
        if regular:
            for i, step in self._samples:
                array: Any = arrays[i]  # for mypy an array is a buffer from Python 3.12 on only
                checksum = crc32(array if step is None else array.ravel()[step].tobytes(), checksum)
        else:
            for i, _ in self._samples:
                checksum = crc32(sample(arrays[i]), checksum)
        return checksum

    def frame(self, arrays: Arrays, offsets: Offsets) -> bytes | None:
        """The frame of a regular item whose arrays lie at ``offsets``; ``None`` if there is no template for it."""
        pieces = self._templates.get(offsets)
        if not pieces:
            return None
        if len(pieces) > 1:
            pieces = pieces.copy()
            if offsets is self.unplaced:
                pieces[1::2] = arrays
            else:
                pieces[1::2] = [array for array, offset in zip(arrays, offsets, strict=True) if offset is None]
        return b"".join(pieces)

    def learn(self, item: Any, arrays: Arrays, offsets: Offsets, walk: Walk) -> bytes:
        """The frame of a regular item for which there is no template. The second item at the same offsets gives one."""
        values = [value for value in _parts(item).values() if value is not None]
        frame = walk(item, values, offsets)
        if offsets not in self._templates:
            if len(self._templates) >= _MAX_TEMPLATES:
                self._templates.clear()
            self._templates[offsets] = [frame] if None not in offsets else None
        elif self._templates[offsets] is None:
            self._templates[offsets] = _cut(item, arrays, values, offsets, walk)
        return frame


def _cut(item: Any, arrays: Arrays, values: list[Any], offsets: Offsets, walk: Walk) -> list[Any]:
    """The pieces of a frame: cut where two frames differ that differ in nothing but the bytes of the arrays in them."""
    in_frame = [i for i, offset in enumerate(offsets) if offset is None]
    sizes = [arrays[i].nbytes for i in in_frame]
    if max(sizes) >= MIN_PLACED:
        return []  # it takes longer to copy the arrays than to walk the item
    frames = []
    for byte in (0x00, 0xFF):
        like = values.copy()
        for i in in_frame:
            like[i] = _like(values[i], arrays[i], byte)
        parts = {name: like.pop(0) if part is not None else None for name, part in _parts(item).items()}
        frames.append(walk(type(item)(**parts), [part for part in parts.values() if part is not None], offsets))
    low, high = frames
    differs = np.frombuffer(low, np.uint8) != np.frombuffer(high, np.uint8)
    borders = np.flatnonzero(np.diff(differs, prepend=False, append=False)).tolist()
    begins, ends = borders[::2], borders[1::2]
    if [end - begin for begin, end in zip(begins, ends, strict=True)] != sizes:
        return []
    pieces: list[Any] = [None] * (2 * len(sizes) + 1)
    pieces[::2] = [low[begin:end] for begin, end in zip([0, *ends], [*begins, len(low)], strict=True)]
    return pieces


def _parts(item: Any) -> dict[str, Any]:
    return item if type(item) is dict else {name: getattr(item, name) for name in _FIELDS}


def _like(value: Any, array: npt.NDArray[Any], byte: int) -> Any:
    """An array or a tensor with the dtype and shape of the given one, filled with one byte."""
    # Its memory is its own: a view of another array might be placed on a slot.
    filled = np.empty(array.shape, array.dtype)
    filled.reshape(-1).view(np.uint8)[...] = byte
    return filled if value is array else rebuild_tensor()(filled, dtype_name(value))
