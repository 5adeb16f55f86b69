from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import pytest
from pydantic import BaseModel

from asyncprefetch import Batch, IteratorState, Position, StatefulIterator
from asyncprefetch.testing import assert_items_equal, assert_resumes_exactly


class CountState(IteratorState, kind="tests.testing.count"):
    stop: int
    position: Position[int] = 0
    flaw: str = ""

    def build(self) -> Any:
        if self.flaw == "build gives a list":
            return [1, 2]
        iterator = Count(self.stop, self.flaw)
        iterator.state.position = self.position
        if self.flaw == "repeats the last item" and self.position:
            iterator.state.position -= 1
        if self.flaw == "resumes with an error" and self.position == 2:
            raise RuntimeError("no way back")
        iterator.width = np.int32 if self.flaw == "loses the dtype" else np.int64
        iterator.calls = 10 if self.flaw == "state differs after build" else 0
        return iterator


class Count(StatefulIterator[Any]):
    """Right if it has no flaw."""

    def __init__(self, stop: int, flaw: str = "", first: int = 0) -> None:
        self.state = CountState(stop=stop, flaw=flaw)
        self.width: type[np.integer[Any]] = np.int64
        self.first = first
        self.calls = 0
        self.begun = False

    def get_state(self) -> Any:
        if self.state.flaw == "asking moves it":
            self.state.position += 1
        if self.state.flaw == "asking twice differs":
            self.calls += 1
            return self.state.model_copy(update={"stop": self.calls})
        if self.state.flaw == "state is a dict":
            return {"position": 0}
        if self.state.flaw == "state differs after build":
            return self.state.model_copy(update={"stop": self.state.stop + self.calls})
        return self.state if self.state.flaw == "state aliases" else self.state.model_copy()

    def create_iter(self) -> Iterator[Any]:
        if self.state.flaw == "second iter starts anew" and self.begun:
            self.state.position = 0
        self.begun = True
        while self.state.position < self.state.stop:
            value = {"x": np.full(2, self.state.position + self.first, self.width)}
            if self.state.flaw == "counts after the yield":
                yield value
                self.state.position += 1
            else:
                self.state.position += 1
                yield value
        if self.state.flaw == "end is not in the state":
            self.state.position = 0


class ClosingCount(Count):
    """Moves when its generator is closed."""

    def create_iter(self) -> Iterator[Any]:
        try:
            yield from super().create_iter()
        except GeneratorExit:
            self.state.position += 1
            raise


@pytest.mark.parametrize("stop", [0, 1, 4])
def test_an_exact_iterator_passes(stop: int) -> None:
    assert_resumes_exactly(lambda: Count(stop))


def test_an_endless_iterator_is_looked_at_as_far_as_asked() -> None:
    assert_resumes_exactly(lambda: Count(10**9), max_items=5)


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        (
            "counts after the yield",
            r"^resumed at position 1: item 1\['x'\]\[0\]: expected np.int64\(1\), got np.int64\(0\)",
        ),
        ("repeats the last item", r"^resumed at position 1: the state at position 1 is another one: state.position"),
        ("loses the dtype", r"^resumed at position 0: item 0\['x'\]: expected dtype int64, got dtype int32"),
        ("state differs after build", r"^resumed at position 0: .*state.stop: expected 4, got 14"),
        ("asking moves it", r"get_state\(\) at position 0, asked a second time"),
        ("asking twice differs", r"get_state\(\) at position 0, asked a second time, .*: state.stop: expected"),
        ("state aliases", r"^the state taken at position 0 changed when the iterator went on: state.position"),
        ("second iter starts anew", r"^a second create_iter\(\) at position 1: item 1\['x'\]\[0\]"),
        ("end is not in the state", r"^resumed after the end: yielded .* where the uninterrupted iterator ends"),
        ("build gives a list", r"^resumed at position 0: build\(\) gave \[1, 2\], which is no StatefulIterator"),
        ("state is a dict", r"get_state\(\) gave .*which is no IteratorState"),
    ],
)
def test_a_flaw_is_found_and_its_place_named(flaw: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_resumes_exactly(lambda: Count(4, flaw))


def test_an_iterator_that_moves_when_it_is_closed_is_found() -> None:
    with pytest.raises(AssertionError, match=r"^a second create_iter\(\) at position 1"):
        assert_resumes_exactly(lambda: ClosingCount(4))


def test_an_error_out_of_the_iterator_comes_out_with_a_note_of_the_place() -> None:
    with pytest.raises(RuntimeError, match="no way back") as caught:
        assert_resumes_exactly(lambda: Count(4, "resumes with an error"))
    assert caught.value.__notes__ == ["raised in assert_resumes_exactly: resumed at position 2"]


def test_a_make_that_gives_another_iterator_each_time_is_told_from_an_inexact_one() -> None:
    numbers = count()
    with pytest.raises(AssertionError, match=r"^make\(\) must give the same items at each call: item 0"):
        assert_resumes_exactly(lambda: Count(4, first=next(numbers)))


def test_an_iterator_that_uses_its_memory_again_is_not_taken_for_an_inexact_one() -> None:
    class Reusing(Count):
        def create_iter(self) -> Iterator[Any]:
            memory = np.zeros(2, np.int64)
            for item in super().create_iter():
                memory[:] = item["x"]
                yield {"x": memory}

    assert_resumes_exactly(lambda: Reusing(3), max_items=2)


def test_max_items_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_items"):
        assert_resumes_exactly(lambda: Count(1), max_items=0)


class Point(NamedTuple):
    x: int
    y: float


@dataclass(slots=True)
class Box:
    inside: Any


class Model(BaseModel, extra="allow"):
    value: Any


def nan(bits: int) -> float:
    return float(np.array(bits, np.uint64).view(np.float64))


EQUAL: list[Callable[[], Any]] = [
    lambda: {"a": [1, (2.5, None)], 3: b"x"},
    lambda: np.array([np.nan, -0.0], np.float32),
    lambda: np.zeros((0, 3), np.int8),
    lambda: np.array([[1, 2], [3, 4]])[:, 1],
    lambda: np.float32("nan"),
    lambda: np.array([(1, 2.0)], [("a", np.int8), ("b", np.float64)]),
    lambda: np.array(["a", None, float("nan")], object),
    lambda: np.array(["", ""], "U0"),
    lambda: Point(1, float("nan")),
    lambda: Box({"deep": np.arange(3)}),
    lambda: Model(value=1, more=[2]),
    lambda: Batch(np.zeros((1, 2)), np.ones((1, 2))),
    lambda: complex(float("nan"), -0.0),
    lambda: {1, 2},
]


@pytest.mark.parametrize("make", EQUAL)
def test_equal_items_pass(make: Callable[[], Any]) -> None:
    assert_items_equal(make(), make())


DIFFERENT: list[tuple[Any, Any, str]] = [
    (1, True, "item: expected int 1, got bool True"),
    (1, 1.0, "item: expected int 1, got float 1.0"),
    (1, 2, "item: expected 1, got 2"),
    (0.0, -0.0, "item: expected 0.0 of bits"),
    (nan(0x7FF8000000000000), nan(0x7FF8000000000001), "item: expected nan of bits"),
    (complex(0.0, 0.0), complex(0.0, -0.0), "item: expected 0j of bits"),
    ([1], (1,), "item: expected list"),
    ([1, 2], [1], "item: expected 2 elements, got 1 elements"),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}, r"the keys of item\[0\]: expected 'a', got 'b'"),
    ({1: 0}, {True: 0}, r"the keys of item\[0\]: expected int 1, got bool True"),
    ({"a": [0, {"b": 1}]}, {"a": [0, {"b": 2}]}, r"item\['a'\]\[1\]\['b'\]: expected 1, got 2"),
    (np.zeros(2, np.int64), np.zeros(2, np.int32), "item: expected dtype int64, got dtype int32"),
    (np.zeros((0, 2)), np.zeros((2, 0)), r"item: expected shape \(0, 2\), got shape \(2, 0\)"),
    (np.zeros((2, 2)), np.array([[0, 0], [0, 5.0]]), r"item\[1, 1\]: expected .*0\.0.*, got .*5\.0"),
    (np.zeros(2), -np.zeros(2), r"item\[0\]: expected"),
    (np.float64(1), np.float64(2), "item: expected"),
    (np.array(1), np.array(2), "item: expected"),
    (np.array([{"a": 1}], object), np.array([{"a": 2}], object), r"item\[0\]\['a'\]: expected 1, got 2"),
    (np.zeros(1, [("a", "i1")]), np.ones(1, [("a", "i1")]), r"item\['a'\]\[0\]"),
    (Point(1, 2.0), Point(1, 3.0), r"item\[1\]: expected 2.0 of bits"),
    (Box(1), Box("1"), "item.inside: expected int 1, got str '1'"),
    (Model(value=1), Model(value=2), "item.value: expected 1, got 2"),
    (Model(value=1), Model(value=1, more=1), "item: expected attributes value, got attributes value, more"),
    (Batch(np.zeros(2), np.zeros(2)), Batch(np.zeros(2), np.zeros(2), np.ones(2)), "item.mask: expected NoneType"),
    ({1, 2}, {1, 3}, "item: expected"),
]


@pytest.mark.parametrize(("a", "b", "message"), DIFFERENT)
def test_different_items_are_told_apart_and_the_path_named(a: Any, b: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=f"^{message}"):
        assert_items_equal(a, b)
