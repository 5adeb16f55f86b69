"""Checks for the test suite of an iterator's author.

def test_my_iterator_resumes_exactly():
    assert_resumes_exactly(lambda: MyIterator("its", "options"))
"""

from __future__ import annotations

import copy
import dataclasses
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

import numpy as np
from pydantic import BaseModel

from asyncprefetch._codec.tensors import as_array, is_tensor
from asyncprefetch._worker import use_after_yield
from asyncprefetch.base import IteratorState, StatefulIterator, find_forgotten, iterate

_MISSING = object()


def assert_resumes_exactly(make: Callable[[], StatefulIterator[Any]], *, max_items: int = 100) -> None:
    """Check that an iterator can be stopped at any item and continues from its state exactly.

    The reference is one pass without a call of ``get_state()``. The check then stops at every position, from before the
    first item to after the end:

    - ``get_state()`` changes nothing, and a second call returns an equal state;
    - the state, through JSON and ``build()``, gives an iterator with an equal state. It yields the same remaining items, and
      has at each further position the state that the uninterrupted iterator has there;
    - a second ``create_iter()`` continues where the first one stopped, whether the first one was closed or not;
    - a state does not change when the iterator continues.

    If the iterator allocates arrays by ``asyncprefetch.empty``, ``full`` or ``zeros``, one more pass checks, on Linux, that
    it does not use an array after its yield, when the array belongs to the consumer. That pass runs in a forked process in
    which the memory of yielded arrays is protected. The process ends at the line that reads or writes such an array: through
    a view that was made before, in ``get_state()``, or by yielding it again. Arrays of any size are checked, also those that
    are too small for the shared memory of a worker.

    The time grows with the square of the number of items. The forked process is killed after one minute plus ten times the
    duration of the reference pass.

    Args:
        make: returns a new iterator at each call, which yields the same items each time.
        max_items: number of items to check. If the iterator ends earlier, its end is checked too.

    Raises:
        AssertionError: an item or a state differs. The message names the position, and the path of the first difference
            within the item or state. Or an array was used after its yield: the message names the line.
        ValueError: ``max_items`` is below 1.
        Exception: the iterator raised it. A note names the position.
    """
    if max_items < 1:
        raise ValueError(f"max_items must be at least 1, not {max_items}")
    reference = _Reference(make, max_items)
    if reference.makes_arrays:
        use_after_yield.check(
            lambda handover: reference.check_rest(make(), 0, handover), len(reference.items), reference.seconds
        )
    for position, text in enumerate(reference.states):
        with _at(f"resumed {reference.name(position)}"):
            resumed = IteratorState.model_validate_json(text).build()
            reference.check_rest(resumed, position)
        for closing in (False, True):
            with _at(f"a second create_iter() {reference.name(position)}"):
                iterator = make()
                first: Any = iterate(iterator)
                for _ in range(position):
                    next(first, None)
                if closing and hasattr(first, "close"):
                    first.close()
                reference.check_rest(iterator, position)


class _Reference:
    """The items of an uninterrupted pass, and the states at its positions as JSON: the last one after the end, if any."""

    def __init__(self, make: Callable[[], StatefulIterator[Any]], max_items: int) -> None:
        self.items: list[Any] = []
        self.states: list[str] = []
        began, notice = time.monotonic(), use_after_yield.Notice()
        with notice.on():
            items = iterate(make())
            while len(self.items) < max_items and (item := next(items, _MISSING)) is not _MISSING:
                self.items.append(copy.deepcopy(item))  # the iterator may reuse its memory
        self.seconds, self.makes_arrays = time.monotonic() - began, notice.asked
        self._ended = len(self.items) < max_items
        with _at("make() must give the same items at each call"):
            self._walk(make(), 0, lambda position: None)
        self._record_states(make())

    def name(self, position: int) -> str:
        return "after the end" if position > len(self.items) else f"at position {position}"

    def check_rest(
        self, iterator: StatefulIterator[Any], position: int, handover: use_after_yield.Handover = nullcontext
    ) -> None:
        """Compare what ``iterator`` yields from ``position`` on, and its states, with the reference."""
        if not isinstance(iterator, StatefulIterator):
            raise AssertionError(f"build() returned {iterator!r:.80}, which is not a StatefulIterator")

        def check_state(position: int) -> None:
            text = _dump(iterator)
            if text != self.states[position]:
                with _at(f"the state {self.name(position)} differs"):
                    assert_items_equal(_load(self.states[position]), _load(text), "state")
                    raise AssertionError(f"{self.states[position]} != {text}")

        self._walk(iterator, position, check_state, handover)

    def _record_states(self, iterator: StatefulIterator[Any]) -> None:
        taken: list[IteratorState] = []

        def record(position: int) -> None:
            self.states.append(_dump(iterator))
            taken.append(iterator.get_state())
            with _at(f"get_state() {self.name(position)}: a second call returned another state"):
                assert_items_equal(_load(self.states[-1]), _load(_dump(iterator)), "state")

        with _at("get_state() changes what the iterator yields"):
            self._walk(iterator, 0, record)
        for name in find_forgotten(iterator):
            raise AssertionError(
                f"{type(iterator).__qualname__} has the attribute {name!r}, which is not a field, so no state holds it: "
                "annotate it in the class body, or let its name begin with an underscore"
            )
        for position, (state, text) in enumerate(zip(taken, self.states, strict=True)):
            with _at(f"the state taken {self.name(position)} changed when the iterator continued"):
                assert_items_equal(_load(text), _load(state.model_dump_json()), "state")

    def _walk(
        self,
        iterator: StatefulIterator[Any],
        position: int,
        visit: Callable[[int], None],
        handover: use_after_yield.Handover = nullcontext,
    ) -> None:
        """Compare the items from ``position`` on, and call ``visit`` with each position up to the end."""
        items = iterate(iterator)
        visit(position)
        for number in range(position, len(self.items)):
            item = next(items, _MISSING)
            if item is _MISSING:
                raise AssertionError(f"the iterator ended where the uninterrupted one has item {number}")
            with handover(item):
                assert_items_equal(self.items[number], item, f"item {number}")
            visit(number + 1)
        if self._ended:
            extra = next(items, _MISSING)
            if extra is not _MISSING:
                raise AssertionError(f"the iterator yielded {extra!r:.80} where the uninterrupted one ends")
            visit(len(self.items) + 1)


def _dump(iterator: StatefulIterator[Any]) -> str:
    state = iterator.get_state()
    if not isinstance(state, IteratorState):
        raise AssertionError(f"get_state() returned {state!r:.80}, which is not an IteratorState")
    return state.model_dump_json()


def _load(text: str) -> IteratorState:
    return IteratorState.model_validate_json(text)


@contextmanager
def _at(where: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{where}: {error}") from None
    except Exception as error:
        error.add_note(f"raised in assert_resumes_exactly: {where}")
        raise


def assert_items_equal(a: Any, b: Any, path: str = "item") -> None:
    """Check that two items are equal in structure, types, dtypes and shapes, and in every bit of every number.

    The check goes into dicts (the order of keys counts), lists, tuples, dataclasses, pydantic models, numpy arrays and
    scalars, and torch tensors. A NaN equals a NaN with the same bits; 0.0 does not equal -0.0. Other objects are compared by
    ``==``.

    Args:
        a: the expected item.
        b: the item to check.
        path: the name of the item in the message.

    Raises:
        AssertionError: the items differ. The message names the path of the first difference and both values.
    """
    if type(a) is not type(b):
        _differ(path, f"{type(a).__qualname__} {a!r:.80}", f"{type(b).__qualname__} {b!r:.80}")
    if isinstance(a, np.ndarray | np.generic):
        _assert_arrays_equal(a, b, path)
    elif any(map(is_tensor, type(a).__mro__)):
        _assert_tensors_equal(a, b, path)
    elif isinstance(a, float | complex):
        if _bits(a) != _bits(b):
            _differ(path, f"{a!r} of bits {_bits(a)}", f"{b!r} of bits {_bits(b)}")
    elif isinstance(a, list | tuple):
        if len(a) != len(b):
            _differ(path, f"{len(a)} elements", f"{len(b)} elements")
        for i in range(len(a)):
            assert_items_equal(a[i], b[i], f"{path}[{i}]")
    elif isinstance(a, dict):
        assert_items_equal(list(a), list(b), f"the keys of {path}")
        for key in a:
            assert_items_equal(a[key], b[key], f"{path}[{key!r}]")
    elif isinstance(a, BaseModel) or dataclasses.is_dataclass(a):
        _assert_attributes_equal(a, b, path)
    elif not bool(a == b):
        _differ(path, f"{a!r:.80}", f"{b!r:.80}")


def _assert_attributes_equal(a: Any, b: Any, path: str) -> None:
    left, right = _attributes(a), _attributes(b)
    if left.keys() != right.keys():
        _differ(path, f"attributes {', '.join(left)}", f"attributes {', '.join(right)}")
    for name in left:
        assert_items_equal(left[name], right[name], f"{path}.{name}")


def _attributes(value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return {**value.__dict__, **(value.__pydantic_extra__ or {}), **(value.__pydantic_private__ or {})}
    names = [field.name for field in dataclasses.fields(value)]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _assert_arrays_equal(a: Any, b: Any, path: str) -> None:
    if a.dtype != b.dtype:
        _differ(path, f"dtype {a.dtype}", f"dtype {b.dtype}")
    if a.shape != b.shape:
        _differ(path, f"shape {a.shape}", f"shape {b.shape}")
    if a.dtype.names is not None:  # field by field: the padding between fields is undefined
        for name in a.dtype.names:
            _assert_arrays_equal(a[name], b[name], f"{path}[{name!r}]")
    elif a.dtype.hasobject:
        for index in np.ndindex(a.shape):
            assert_items_equal(a[index], b[index], f"{path}[{_index(index)}]")
    elif a.tobytes() != b.tobytes():
        raw = [np.frombuffer(x.tobytes(), np.uint8).reshape(-1, a.dtype.itemsize) for x in (a, b)]
        index = np.unravel_index(int((raw[0] != raw[1]).any(axis=1).argmax()), a.shape)
        _differ(f"{path}[{_index(index)}]" if index else path, f"{a[index]!r}", f"{b[index]!r}")


def _assert_tensors_equal(a: Any, b: Any, path: str) -> None:
    for name in ("dtype", "device", "layout", "requires_grad"):
        if getattr(a, name) != getattr(b, name):
            _differ(path, f"{name} {getattr(a, name)}", f"{name} {getattr(b, name)}")
    arrays = as_array(a.detach()), as_array(b.detach())
    if arrays[0] is not None and arrays[1] is not None:
        _assert_arrays_equal(*arrays, path)
    elif not a.equal(b):
        _differ(path, f"{a!r:.80}", f"{b!r:.80}")


def _index(index: tuple[Any, ...]) -> str:
    return ", ".join(str(int(i)) for i in index)


def _bits(value: float | complex) -> str:
    return struct.pack("<dd", value.real, value.imag).hex()


def _differ(path: str, a: str, b: str) -> NoReturn:
    raise AssertionError(f"{path}: expected {a}, got {b}")
