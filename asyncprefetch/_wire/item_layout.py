"""What the usual item looks like: a ``Batch`` or a dict of a few arrays, with the same dtypes and shapes each time.

To walk such an item once more costs several times what the copy of its bytes does where the arrays are small. So what
follows from the layout alone is kept: of a frame, all that is not in the arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncprefetch._wire.tensors import as_array, dtype_name, is_tensor, rebuild_tensor
from asyncprefetch.batch import Batch

_FIELDS = tuple(field.name for field in fields(Batch))
_MAX_ARRAYS = 16

NUMBERS = "?bBhHiIlLqQefdFD"
"""The dtypes of plain numbers, by their letters."""

# Of layouts that go on changing nothing is worth keeping.
MAX_LAYOUTS = 256

Layout = tuple[Any, ...]
"""The item's class; name, dtype (a tensor's own) and shape of each array; and last whether there is a tensor."""

Flat = tuple[Layout, list[npt.NDArray[Any]], Sequence[Any]]
"""An item's layout, its arrays, tensors as arrays on their memory, and its arrays and tensors themselves."""


def flatten(item: Any) -> Flat | None:
    """The item, if it is a :class:`Batch` or a dict of a few arrays and tensors; ``None`` for anything else."""
    cls = type(item)
    if cls is dict and len(item) <= _MAX_ARRAYS:
        parts = item
    elif cls is Batch:
        parts = {name: part for name in _FIELDS if (part := getattr(item, name)) is not None}
    else:
        return None
    layout: list[Any] = [cls]
    arrays = []
    has_tensors = False
    for name, value in parts.items():
        # By type: 1 and True are equal as keys, and are not the same.
        if type(name) is not str:
            return None
        if type(value) is np.ndarray:
            array = value
        elif is_tensor(type(value)) and (tensor := as_array(value)) is not None:
            array, has_tensors = tensor, True
        else:
            return None
        layout += (name, value.dtype, array.shape)
        arrays.append(array)
    layout.append(has_tensors)
    return tuple(layout), arrays, list(parts.values()) if has_tensors else arrays


class Templates:
    """Frames without what is in the arrays, by layout.

    Args:
        dumps: makes the frame of an item. It must hold the bytes of an array that ``fits``, and all else in it must follow
            from the layout.
        fits: whether a contiguous and writable array of this dtype and of so many bytes is held so.
    """

    def __init__(self, dumps: Callable[[Any], bytes], fits: Callable[[np.dtype[Any], int], bool]) -> None:
        self._dumps = dumps
        self._fits = fits
        # What is not in the arrays, in pieces, with a place for each array between two; empty where there is no template.
        self._pieces: dict[Layout, list[Any]] = {}
        self._seen: set[Layout] = set()

    def frame(self, flat: Flat) -> bytes | None:
        """The very frame that ``dumps`` makes of the item; ``None`` if there is no template for it."""
        layout, arrays, values = flat
        pieces = self._pieces.get(layout)
        if not pieces:
            if pieces is None:
                self._meet(flat)
            return None
        for array in arrays:
            if not array.flags.carray:
                return None
        if len(set(map(id, values))) < len(arrays):
            return None  # one array under two names arrives as one
        pieces = pieces.copy()
        pieces[1::2] = arrays
        return b"".join(pieces)

    def _meet(self, flat: Flat) -> None:
        layout = flat[0]
        # Most often a layout that was seen once comes again, or none does.
        if layout in self._seen:
            self._seen.remove(layout)
            self._pieces[layout] = self._cut(*flat)
        else:
            self._seen.add(layout)
        if len(self._seen) + len(self._pieces) > MAX_LAYOUTS:
            self._seen.clear()
            self._pieces.clear()

    def _cut(self, layout: Layout, arrays: list[npt.NDArray[Any]], values: Sequence[Any]) -> list[Any]:
        """A frame where it differs with what is in the arrays, and where it doesn't."""
        sizes = [array.nbytes for array in arrays]
        if not arrays or not all(array.nbytes and self._fits(array.dtype, array.nbytes) for array in arrays):
            return []
        cls, names = layout[0], layout[1:-1:3]
        parts = list(zip(names, values, arrays, strict=True))
        likes = [{name: _like(value, array, byte) for name, value, array in parts} for byte in (0x00, 0xFF)]
        rest = dict.fromkeys(_FIELDS) if cls is Batch else {}
        low, high = (self._dumps(cls(**{**rest, **like})) for like in likes)
        differs = np.frombuffer(low, np.uint8) != np.frombuffer(high, np.uint8)
        borders = np.flatnonzero(np.diff(differs, prepend=False, append=False)).tolist()
        begins, ends = borders[::2], borders[1::2]
        if [end - begin for begin, end in zip(begins, ends, strict=True)] != sizes:
            return []
        pieces: list[Any] = [None] * (2 * len(sizes) + 1)
        pieces[::2] = [low[begin:end] for begin, end in zip([0, *ends], [*begins, len(low)], strict=True)]
        return pieces


def _like(value: Any, array: npt.NDArray[Any], byte: int) -> Any:
    """An array or a tensor like the given one, of which each byte is the same."""
    same = np.empty(array.shape, array.dtype)  # not a view of another: such are not held in the frame everywhere
    same.reshape(-1).view(np.uint8)[...] = byte
    return same if value is array else rebuild_tensor()(same, dtype_name(value))
