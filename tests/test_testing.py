from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import pytest
from pydantic import BaseModel

import asyncprefetch
from asyncprefetch import Batch, IteratorState, Position, StatefulIterator, arrays
from asyncprefetch.testing import assert_items_equal, assert_resumes_exactly
from tests.inside import use_after_yield
from tests.pipelines.arrays import RIGHT_WAYS, Arrays


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
    """Counts. It is exact unless it has a flaw."""

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
    """Counts, and moves its position when its generator is closed."""

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
        ("repeats the last item", r"^resumed at position 1: the state at position 1 differs: state.position"),
        ("loses the dtype", r"^resumed at position 0: item 0\['x'\]: expected dtype int64, got dtype int32"),
        ("state differs after build", r"^resumed at position 0: .*state.stop: expected 4, got 14"),
        ("asking moves it", r"get_state\(\) at position 0: a second call returned another state"),
        (
            "asking twice differs",
            r"get_state\(\) at position 0: a second call returned another state: state.stop: expected",
        ),
        ("state aliases", r"^the state taken at position 0 changed when the iterator continued: state.position"),
        ("second iter starts anew", r"^a second create_iter\(\) at position 1: item 1\['x'\]\[0\]"),
        (
            "end is not in the state",
            r"^resumed after the end: the iterator yielded .* where the uninterrupted one ends",
        ),
        ("build gives a list", r"^resumed at position 0: build\(\) returned \[1, 2\], which is not a StatefulIterator"),
        ("state is a dict", r"get_state\(\) returned .*which is not an IteratorState"),
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


def test_a_make_that_gives_another_iterator_each_time_is_distinguished_from_an_inexact_one() -> None:
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


# ------------------------------------------------------------------------------- arrays that are used after their yield


@pytest.mark.parametrize("way", sorted(RIGHT_WAYS))
def test_what_belongs_to_the_iterator_can_be_used(way: str) -> None:
    assert_resumes_exactly(lambda: Arrays(9, way, size=128))


@pytest.mark.parametrize(
    ("way", "what"),
    [
        ("again", r"item 1: ValueError: an array .* was yielded before, .*: make a new one for each item"),
        ("one buffer of empty", r"ValueError: .* after its yield, and is read-only\n.*    buffer.fill\(n\)"),
        ("write late", r"ValueError: .* after its yield, and is read-only\n.*    array\[0\] = -1"),
        (
            "write late through a view",
            r"an array made .* \(SIGSEGV\) by\n.*, in _write_late_through_a_view\n    view\[0\] = -1",
        ),
        ("read late", r"an array made .* \(SIGSEGV\) by\n.*, in _read_late\n    following\[...\] = array \+ 1"),
    ],
)
def test_a_use_of_an_array_after_its_yield_is_found_and_its_line_named(way: str, what: str) -> None:
    with pytest.raises(
        AssertionError, match=rf"(?s)^with its arrays in shared memory, after item 0 was yielded: {what}"
    ):
        assert_resumes_exactly(lambda: Arrays(5, way, size=100))


class GuardedState(IteratorState, kind="tests.testing.guarded"):
    flaw: str
    position: Position[int] = 0
    seen: int = 0

    def build(self) -> Guarded:
        return Guarded(self.flaw, self.position, self.seen)


lock = threading.Lock()


class Guarded(StatefulIterator[Any]):
    """Yields four items. After the second item it has a flaw that shows only with arrays in shared memory."""

    def __init__(self, flaw: str, position: int = 0, seen: int = 0) -> None:
        self.state = GuardedState(flaw=flaw, position=position, seen=seen)
        self.last: Any = None

    def get_state(self) -> GuardedState:
        if self.state.flaw == "its state is read from what was yielded" and self.last is not None:
            self.state.seen = int(self.last[0])
        return self.state.model_copy()

    def create_iter(self) -> Iterator[Any]:
        while self.state.position < 4:
            self.state.position += 1
            array = asyncprefetch.full(5, self.state.position)
            if self.state.position == 3 and array.base is not None:
                array = self.go_wrong(array)
            self.last = array
            yield {"x": array}

    def go_wrong(self, array: Any) -> Any:
        match self.state.flaw:
            case "another item":
                array[2] = 7
            case "raises":
                raise KeyError("missing")
            case "exits":
                os._exit(3)
            case "dies":
                os.kill(os.getpid(), signal.SIGTERM)
            case "waits for a lock":
                lock.acquire()
            case "yields what can't be pickled":
                return (n for n in array)
            case "yields a part of an earlier one, as another type":
                return self.last[1:3].view(np.recarray)
        return array


@pytest.mark.parametrize(
    ("flaw", "what"),
    [
        ("its state is read from what was yielded", r"after item 0 .* \(SIGSEGV\) by\n.*in get_state\n"),
        ("another item", r"after item 1 was yielded: item 2\['x'\]\[2\]: expected np.int64\(3\), got np.int64\(7\)"),
        ("raises", r"after item 1 was yielded: KeyError: 'missing'\n  File [^\n]*, in create_iter\n.*, in go_wrong\n"),
        ("exits", r"after item 1 was yielded: its process ended with exit code 3"),
        ("dies", r"after item 1 was yielded: its process ended by SIGTERM at\n"),
        (
            "yields what can't be pickled",
            r"after item 1 was yielded: item 2: TypeError: cannot pickle 'generator' object",
        ),
        ("yields a part of an earlier one, as another type", r"after item 1 .*\(SIGSEGV\) by\n  the item itself"),
    ],
)
def test_a_flaw_that_shows_only_with_shared_memory_is_reported(flaw: str, what: str) -> None:
    with pytest.raises(AssertionError, match=rf"(?s)^with its arrays in shared memory, {what}"):
        assert_resumes_exactly(lambda: Guarded(flaw))


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The pids of the child processes. Each child inherits a locked lock that is never released."""
    pids = []
    fork = os.fork

    def fork_with_lock() -> int:
        lock.acquire()
        pids.append(fork())
        if pids[-1]:
            lock.release()
        return pids[-1]

    monkeypatch.setattr(os, "fork", fork_with_lock)
    yield pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_pass_that_hangs_ends_and_says_where(monkeypatch: pytest.MonkeyPatch, forks: list[int]) -> None:
    monkeypatch.setattr(use_after_yield, "_MIN_SECONDS", 0.3)
    with pytest.raises(
        AssertionError,
        match=r"the pass did not end within \S+ s \(in a forked process, .*\); it was at\n(.*\n)*    lock.acquire",
    ):
        assert_resumes_exactly(lambda: Guarded("waits for a lock"))
    assert len(forks) == 1


def test_an_interrupt_ends_the_pass(monkeypatch: pytest.MonkeyPatch, forks: list[int]) -> None:
    waitpid = os.waitpid

    def interrupted(pid: int, options: int) -> tuple[int, int]:
        monkeypatch.setattr(os, "waitpid", waitpid)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "waitpid", interrupted)
    with pytest.raises(KeyboardInterrupt):
        assert_resumes_exactly(lambda: Guarded("waits for a lock"))
    assert len(forks) == 1


def test_an_iterator_that_makes_no_such_arrays_needs_no_pass_of_its_own(forks: list[int]) -> None:
    assert_resumes_exactly(lambda: Arrays(3, "one plain buffer"))
    assert forks == []


def test_what_arrays_are_made_of_is_as_before_afterwards() -> None:
    own = use_after_yield.Notice()
    before = arrays.use(own)
    try:
        assert_resumes_exactly(lambda: Arrays(3, "made in place"))
    finally:
        after = arrays.use(before)
    assert after is own


def test_where_there_is_no_shared_memory_nothing_can_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert_resumes_exactly(lambda: Arrays(3, "write late through a view"))


def test_the_pass_leaves_alone_what_its_parent_has_planned_for_its_end() -> None:
    script = """
import atexit, os
from asyncprefetch.testing import assert_resumes_exactly
from tests.pipelines.arrays import Arrays
atexit.register(print, "at exit")
print("printed before", end=" ")
parent = os.getpid()
def make():
    if os.getpid() != parent:
        print("in the child", end=" ", flush=True)
    return Arrays(3, way)
for way in ("made in place", "read late"):
    try:
        assert_resumes_exactly(make)
    except AssertionError:
        print("found", end=" ")
"""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("printed before in the child in the child found at exit\n", "")


# ------------------------------------------------------------------------------------------------------- equality


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
def test_different_items_are_distinguished_and_the_path_is_named(a: Any, b: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=f"^{message}"):
        assert_items_equal(a, b)


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


def test_tensors_are_compared_by_all_that_they_are(torch: Any) -> None:
    def tensors() -> list[Any]:
        plain = torch.tensor([[1.0, float("nan")], [3.0, -0.0]])
        more = [
            plain.T,
            plain.to(torch.bfloat16),
            torch.tensor([float("nan")], requires_grad=True),
            torch.zeros(0),
            torch.tensor(5),
        ]
        return [plain, *more, torch.nn.Parameter(torch.ones(2)), torch.tensor([1 + 2j]).conj()]

    assert_items_equal(tensors(), tensors())
    ones = torch.ones(2, 2)
    for other, message in [
        (torch.tensor([[1.0, 1.0], [1.0, 2.0]]), r"item\[1, 1\]: expected .*1.0.*, got .*2.0"),
        (torch.ones(2, 2, dtype=torch.float64), "item: expected dtype torch.float32, got dtype torch.float64"),
        (torch.ones(4), r"item: expected shape \(2, 2\), got shape \(4,\)"),
        (torch.ones(2, 2, requires_grad=True), "item: expected requires_grad False, got requires_grad True"),
        (torch.ones(2, 2).to_sparse(), "item: expected layout torch.strided, got layout torch.sparse_coo"),
    ]:
        with pytest.raises(AssertionError, match=f"^{message}"):
            assert_items_equal(ones, other)
    with pytest.raises(AssertionError, match=r"^item: expected tensor.*1.-2.j.*, got tensor.*1.-3.j"):
        assert_items_equal(torch.tensor([1 + 2j]).conj(), torch.tensor([1 + 3j]).conj())


class TensorState(IteratorState, kind="tests.testing.tensors"):
    late: bool
    position: Position[int] = 0

    def build(self) -> Tensors:
        return Tensors(self.late, self.position)


class Tensors(StatefulIterator[Any]):
    """Yields tensors on arrays made in place. If ``late`` is true, it writes to them after the yield."""

    def __init__(self, late: bool, position: int = 0) -> None:
        self.state = TensorState(late=late, position=position)

    def get_state(self) -> TensorState:
        return self.state.model_copy()

    def create_iter(self) -> Iterator[Any]:
        while self.state.position < 3:
            self.state.position += 1
            tensor = sys.modules["torch"].from_numpy(asyncprefetch.full(900, self.state.position))
            yield tensor
            if self.state.late:
                tensor[5] = -1


def test_a_late_use_through_a_tensor_is_found(torch: Any) -> None:
    assert_resumes_exactly(lambda: Tensors(late=False))
    with pytest.raises(AssertionError, match=r"\(SIGSEGV\) by\n.*, in create_iter\n    tensor\[5\] = -1"):
        assert_resumes_exactly(lambda: Tensors(late=True))
