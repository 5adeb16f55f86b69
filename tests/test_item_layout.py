from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from asyncprefetch import Batch
from asyncprefetch.testing import assert_items_equal
from tests.inside import (
    MAX_ARRAYS,
    MAX_LAYOUTS,
    MIN_PLACED,
    ItemPickler,
    Layouts,
    fingerprint,
    item_layout,
    item_pickler,
)

DTYPES = st.one_of(
    hnp.scalar_dtypes(), hnp.unicode_string_dtypes(max_len=3), hnp.array_dtypes(), st.just(np.dtype("g"))
)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=20)
SPECS = st.lists(
    st.tuples(st.sampled_from(["x", "y", "<i8", "ndarray", "a" * 50, "\x96\0"]), DTYPES, SHAPES), max_size=4
)


def make_array(dtype, shape, seed):
    array = np.zeros(shape, dtype)
    if array.dtype.kind == "U":
        array[...] = str(seed)
    elif array.nbytes:
        array.reshape(-1).view(np.uint8)[...] = np.random.default_rng(seed).integers(0, 256, array.nbytes)
    return array


def assert_pickled_as_ever(pickler, item):
    """Check that frame and fingerprint are those of a pickler that knows no layout."""
    frame, checksum, _ = pickler.encode(item)
    assert frame == ItemPickler().dumps(item)
    assert checksum == fingerprint(item)


@given(SPECS, st.data())
def test_a_known_layout_changes_neither_frame_nor_fingerprint(specs, data):
    pickler = ItemPickler()
    for seed in range(5):
        item = {name: make_array(dtype, shape, seed + i) for i, (name, dtype, shape) in enumerate(specs)}
        if item and data.draw(st.booleans()):
            odd = data.draw(st.sampled_from(sorted(item)))
            match data.draw(st.sampled_from(["read-only", "fortran", "strided", "shared"])):
                case "read-only":
                    item[odd].setflags(write=False)
                case "fortran":
                    item[odd] = np.asfortranarray(item[odd])
                case "strided":
                    item[odd] = np.repeat(item[odd], 2, -1)[..., ::2] if item[odd].ndim else item[odd]
                case "shared":
                    first = next(iter(item))
                    item[odd] = item[first]
        assert_pickled_as_ever(pickler, item)
        crossed = item_pickler.loads(pickler.dumps(item))
        assert_items_equal(crossed, item)
        assert [a is b for a in crossed.values() for b in crossed.values()] == [
            a is b for a in item.values() for b in item.values()
        ]


def test_one_array_under_two_names_arrives_as_one():
    pickler = ItemPickler()
    for n in range(5):
        one, other = np.full(3, n), np.full(3, n)
        crossed = item_pickler.loads(pickler.dumps({"x": one, "y": other}))
        assert crossed["x"] is not crossed["y"]
        crossed = item_pickler.loads(pickler.dumps({"x": one, "y": one}))
        assert crossed["x"] is crossed["y"]


class Counting(ItemPickler):
    """Counts how often it walks an item."""

    walks = 0

    def _walk(self, item):
        self.walks += 1
        return super()._walk(item)


def test_a_frame_of_a_known_layout_is_filled_in():
    pickler = Counting()
    items = [{"x": np.full((3, 5), n), "y": np.full(2, n, np.float32)} for n in range(100)]
    for item in items:
        assert_items_equal(item_pickler.loads(pickler.dumps(item)), item)
    assert pickler.walks < 6


def small_and_large(n, count=114):
    """Return arrays of 1 KB to 20 KB, like the parameters of a model."""
    return {f"layer.{i}": np.full(128 + (i * 997) % 2433, n * count + i) for i in range(count)}


@pytest.mark.parametrize("count", [17, 48, 49, 114, MAX_ARRAYS])
def test_an_item_of_many_arrays_is_pickled_as_ever_without_a_walk(count):
    pickler = Counting()
    for n in range(9):
        item = {name: array[:1000].copy() for name, array in small_and_large(n, count).items()}
        assert_pickled_as_ever(pickler, item)
        assert_items_equal(item_pickler.loads(pickler.dumps(item)), item)
    assert pickler.walks < 6


def test_large_arrays_in_a_frame_are_not_copied_to_make_a_template():
    pickler = Counting()
    item = {"x": np.arange(MIN_PLACED), "y": np.arange(3)}
    for _ in range(9):
        assert_pickled_as_ever(pickler, item)
    assert pickler.walks == 9


ODD = {
    "read-only": lambda array: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),
    "fortran": np.asfortranarray,
    "strided": lambda array: np.repeat(array, 2, -1)[..., ::2],
    "unaligned": lambda array: np.frombuffer(bytearray(1) + array.tobytes(), array.dtype, offset=1).reshape(
        array.shape
    ),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_array_of_a_known_layout_is_pickled_as_ever(odd):
    pickler = ItemPickler()
    for n in range(4):
        assert_pickled_as_ever(pickler, {"x": np.full((3, 4), n), "y": np.full(3, n)})
    item = {"x": ODD[odd](np.arange(12).reshape(3, 4)), "y": np.arange(3)}
    assert_pickled_as_ever(pickler, item)
    assert_items_equal(item_pickler.loads(pickler.dumps(item)), item)


@pytest.mark.parametrize(
    "array",
    [
        np.array([1, "a", None], object),
        np.arange(3).astype("M8[s]"),
        np.arange(3, dtype=">i4"),
        np.array(["a", "bc"]),
        np.zeros(3, [("a", "i1"), ("b", "f8")]),
        np.zeros((3, 0)),
        np.longdouble([1.5, 2.5]),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays_of_other_dtypes_and_empty_ones_are_pickled_as_ever(array):
    pickler = ItemPickler()
    for n in range(5):
        item = {"n": np.full(3, n), "array": array}
        frame, checksum, _ = pickler.encode(item)
        assert frame == ItemPickler().dumps(item)
        assert checksum == fingerprint(item)


def test_with_more_arrays_an_item_is_walked():
    item = {str(n): np.full(2, n) for n in range(MAX_ARRAYS + 1)}
    layouts = Layouts()
    assert [layouts.find(item) for _ in range(3)] == [None] * 3
    assert len(layouts) == 0


class FirstFree:
    """Places large arrays one after another, and copies nothing."""

    handed_out = False

    def __init__(self):
        self.used = 0

    def place(self, array):
        if array.nbytes < MIN_PLACED:
            return None
        self.used += array.nbytes
        return self.used - array.nbytes

    def place_all(self, arrays):
        return tuple(map(self.place, arrays))


def test_a_frame_with_small_arrays_and_the_offsets_of_large_ones_is_filled_in():
    placer = FirstFree()
    pickler = Counting(placer)
    for n in range(9):
        placer.used = 0
        item = small_and_large(n)
        frame, checksum, _ = pickler.encode(item)
        placer.used = 0
        assert frame == ItemPickler(placer).dumps(item)
        assert checksum == fingerprint(item)
    assert pickler.walks < 6
    for _ in range(9):  # the same item at other offsets
        placer.used = 64
        frame = pickler.dumps(item)
        placer.used = 64
        assert frame == ItemPickler(placer).dumps(item)
    assert pickler.walks < 11


def test_offsets_that_go_on_changing_take_no_memory():
    placer = FirstFree()
    pickler = ItemPickler(placer)
    for n in range(500):
        placer.used = 64 * n
        item = {"x": np.full(3, n), "y": np.full(MIN_PLACED, n % 7, np.uint8)}
        frame = pickler.dumps(item)
        placer.used = 64 * n
        assert frame == ItemPickler(placer).dumps(item)
    layout, _, _ = pickler.layouts.find(item)
    assert len(layout._templates) <= item_layout._MAX_TEMPLATES


@pytest.mark.parametrize(
    "item",
    [[np.ones(3)], {"x": np.ones(3), "y": 1}, {1: np.ones(3)}, {"x": np.ma.masked_array([1], [0])}, np.ones(3), None],
)
def test_other_items_have_no_layout(item):
    layouts = Layouts()
    assert [layouts.find(item) for _ in range(3)] == [None] * 3
    assert len(layouts) == 0


def test_a_layout_is_known_from_the_second_item_on():
    layouts = Layouts()
    found = [layouts.find({"x": np.full(3, n)}) for n in range(3)]
    assert found[0] is None
    assert found[1][0] is found[2][0]
    assert layouts.find({"y": np.full(3, 0)}) is None
    assert layouts.find({"x": np.full(4, 0)}) is None
    assert layouts.find({"x": np.full(3, 0, np.int8)}) is None


def test_names_that_are_equal_and_no_plain_strings_are_not_known():
    class Name(str):
        __slots__ = ()

    layouts = Layouts()
    found = [layouts.find({"x": np.full(3, n)}) for n in range(3)]
    assert found[2] is not None
    assert layouts.find({Name("x"): np.full(3, 0)}) is None


def test_layouts_that_go_on_changing_take_no_memory():
    pickler = ItemPickler()
    for n in range(1, 2000):
        item = {"x": np.zeros(n, np.int8)}
        for _ in range(2):
            frame = pickler.dumps(item)
        assert_items_equal(item_pickler.loads(frame), item)
    assert len(pickler.layouts) <= MAX_LAYOUTS


@dataclass
class Labelled(Batch):
    label: str = ""


@pytest.mark.parametrize(
    "make",
    [
        lambda n: Batch(np.full(3, n), None),
        lambda n: Batch(np.full(3, n), np.full(3, -n)),
        lambda n: Batch(np.full(3, n), np.full(3, -n), np.full(3, True), np.arange(n), np.full((2, 3), n)),
        lambda n: Batch(np.full((64, 64), n), np.full(3, -n)),
        lambda n: Labelled(np.full(3, n), np.full(3, -n), label=f"row {n}"),
    ],
)
def test_batches_and_their_subclasses_cross_as_they_are(make):
    pickler = ItemPickler()
    for n in (1, 1, 1, 2, 2, 2):
        item = make(n)
        assert_pickled_as_ever(pickler, item)
        crossed = item_pickler.loads(pickler.dumps(item))
        assert type(crossed) is type(item)
        assert_items_equal(crossed, item)
    assert pickler.encode(make(1))[1] != pickler.encode(make(2))[1]
