"""Arrays that cross to the loader without a copy.

In a worker, :func:`empty`, :func:`full` and :func:`zeros` allocate memory that is shared with the loader. They return plain
numpy arrays outside of a worker, in other threads and child processes of a worker, and where no shared memory is left. A
program runs the same with both.

A yielded array belongs to the consumer; allocate a new one for each item. The array, and the arrays that it is a view of,
become read-only, and yielding it again is an error. It must not be read either: the consumer may have changed it. A write
through a view that was made before the yield, or through a torch tensor on the same memory, is not detected.
:func:`asyncprefetch.testing.assert_resumes_exactly` detects all of these uses. So does
``ProcessWorkers(protect=True)``: a worker ends at the line that uses the memory, and writes that line to its standard
error.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from threading import get_ident
from typing import Any, Literal, Protocol, SupportsIndex

import numpy as np
import numpy.typing as npt

Shape = SupportsIndex | Sequence[SupportsIndex]


class Allocator(Protocol):
    """Allocates the memory of arrays."""

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any], order: Literal["C", "F"]) -> Any:
        """An array, or ``None`` if numpy should make a plain one."""


_allocator: Allocator | None = None
_thread = 0  # the thread that may use the allocator: two threads would get the same memory


def use(allocator: Allocator | None) -> Allocator | None:
    """Allocate from ``allocator`` from now on, in this thread only. Returns the one before. For transports and tests."""
    global _allocator, _thread  # noqa: PLW0603 - a process has one loader to make batches for
    before, _allocator = _allocator, allocator
    _thread = get_ident()
    return before


if hasattr(os, "register_at_fork"):
    # A child would make its arrays on the memory of its parent's next batch.
    os.register_at_fork(after_in_child=lambda: use(None))


def empty(shape: Shape, dtype: npt.DTypeLike | None = None, order: Literal["C", "F"] = "C") -> npt.NDArray[Any]:
    """An array of undefined content, like ``numpy.empty``, for the item that is yielded next.

    Args:
        shape: an int or a sequence of ints.
        dtype: ``float64`` by default.
        order: memory order, ``"C"`` or ``"F"``.

    Raises:
        TypeError: ``numpy.empty`` raises it for these arguments.
        ValueError: ``numpy.empty`` raises it for these arguments.
    """
    array = _allocate(shape, dtype, order)
    return np.empty(shape, dtype, order) if array is None else array


def full(
    shape: Shape, fill_value: Any, dtype: npt.DTypeLike | None = None, order: Literal["C", "F"] = "C"
) -> npt.NDArray[Any]:
    """An array of ``fill_value``, like ``numpy.full``, for the item that is yielded next.

    Args:
        shape: an int or a sequence of ints.
        fill_value: a scalar, or an array that can be broadcast to the shape.
        dtype: that of the value by default.
        order: memory order, ``"C"`` or ``"F"``.

    Raises:
        TypeError: ``numpy.full`` raises it for these arguments.
        ValueError: ``numpy.full`` raises it for these arguments.
    """
    if dtype is None:
        dtype = np.asarray(fill_value).dtype
    array = empty(shape, dtype, order)
    np.copyto(array, fill_value, casting="unsafe")
    return array


def zeros(shape: Shape, dtype: npt.DTypeLike | None = None, order: Literal["C", "F"] = "C") -> npt.NDArray[Any]:
    """An array of zeros, like ``numpy.zeros``, for the item that is yielded next.

    Args:
        shape: an int or a sequence of ints.
        dtype: ``float64`` by default.
        order: memory order, ``"C"`` or ``"F"``.

    Raises:
        TypeError: ``numpy.zeros`` raises it for these arguments.
        ValueError: ``numpy.zeros`` raises it for these arguments.
    """
    array = _allocate(shape, dtype, order)
    if array is None:
        return np.zeros(shape, dtype, order)
    array.reshape(-1, order="A").view(np.uint8).fill(0)  # as bytes: strings filled with 0 would hold the digit
    return array


def _allocate(shape: Shape, dtype: npt.DTypeLike | None, order: Literal["C", "F"]) -> npt.NDArray[Any] | None:
    """An array on shared memory. ``None``: numpy should make the array, or raise the error."""
    if _allocator is None or get_ident() != _thread:
        return None
    try:
        # The type first: comparing it is quicker than isinstance with an abstract class.
        lengths = tuple(map(operator.index, shape if type(shape) is tuple or isinstance(shape, Sequence) else (shape,)))
    except TypeError:
        return None
    kind = np.dtype(dtype)
    if kind.hasobject or order not in ("C", "F"):
        return None
    array: npt.NDArray[Any] | None = _allocator.allocate(lengths, kind, order)
    return array
