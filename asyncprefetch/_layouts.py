"""What the usual item looks like: a dict of a few arrays, with the same names, dtypes and shapes each time.

To walk such an item once more costs several times what the copy of its bytes does where the arrays are small. So what
follows from the layout alone is kept: of a frame, all that is not in the arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

_MAX_ARRAYS = 16

# Of layouts that go on changing nothing is worth keeping.
_MAX_LAYOUTS = 256

Layout = tuple[Any, ...]
"""Name, dtype and shape of each array, one after the other."""


def layout_of(item: Any) -> Layout | None:
    """The layout of a dict of arrays; ``None`` for anything else."""
    if type(item) is not dict or len(item) > _MAX_ARRAYS:
        return None
    layout: list[Any] = []
    for name, array in item.items():
        # By type: 1 and True are equal as keys, and are not the same.
        if type(array) is not np.ndarray or type(name) is not str:
            return None
        layout += (name, array.dtype, array.shape)
    return tuple(layout)


class Templates:
    """Frames without what is in the arrays, by layout.

    Args:
        dumps: makes the frame of an item. It must hold the bytes of an array that ``fits``, and all else in it must follow
            from the layout.
        fits: whether an array of this dtype and of so many bytes, which owns its memory and is contiguous and
            writable, is held so.
    """

    def __init__(self, dumps: Callable[[Any], bytes], fits: Callable[[np.dtype[Any], int], bool]) -> None:
        self._dumps = dumps
        self._fits = fits
        # What is not in the arrays, in pieces, with a place for each array between two; empty where there is no template.
        self._pieces: dict[Layout, list[Any]] = {}
        self._seen: set[Layout] = set()

    def frame(self, item: Any) -> bytes | None:
        """The very frame that ``dumps`` makes of the item; ``None`` if there is no template for it."""
        layout = layout_of(item)
        if layout is None:
            return None
        pieces = self._pieces.get(layout)
        if not pieces:
            if pieces is None:
                self._meet(layout)
            return None
        arrays = item.values()
        for array in arrays:
            if array.base is not None or not array.flags.carray:
                return None
        if len(set(map(id, arrays))) < len(arrays):
            return None  # one array under two names arrives as one
        pieces = pieces.copy()
        pieces[1::2] = arrays
        return b"".join(pieces)

    def _meet(self, layout: Layout) -> None:
        # Most often a layout that was seen once comes again, or none does.
        if layout in self._seen:
            self._seen.remove(layout)
            self._pieces[layout] = self._cut(layout)
        else:
            self._seen.add(layout)
        if len(self._seen) + len(self._pieces) > _MAX_LAYOUTS:
            self._seen.clear()
            self._pieces.clear()

    def _cut(self, layout: Layout) -> list[Any]:
        """A frame where it differs with what is in the arrays, and where it doesn't."""
        names, dtypes, shapes = layout[::3], layout[1::3], layout[2::3]
        sizes = [dtype.itemsize * math.prod(shape) for dtype, shape in zip(dtypes, shapes, strict=True)]
        if not names or not all(size and self._fits(dtype, size) for dtype, size in zip(dtypes, sizes, strict=True)):
            return []
        low, high = (
            self._dumps(
                {name: _filled(dtype, shape, byte) for name, dtype, shape in zip(names, dtypes, shapes, strict=True)}
            )
            for byte in (0x00, 0xFF)
        )
        differs = np.frombuffer(low, np.uint8) != np.frombuffer(high, np.uint8)
        begins = np.flatnonzero(np.diff(differs, prepend=False, append=False)).tolist()
        if [end - begin for begin, end in zip(begins[::2], begins[1::2], strict=True)] != sizes:
            return []
        pieces: list[Any] = [None] * (2 * len(sizes) + 1)
        pieces[::2] = [low[begin:end] for begin, end in zip([0, *begins[1::2]], [*begins[::2], len(low)], strict=True)]
        return pieces


def _filled(dtype: np.dtype[Any], shape: tuple[int, ...], byte: int) -> npt.NDArray[Any]:
    array = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8)[...] = byte
    return array
