from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from asyncprefetch import Batch
from asyncprefetch.testing import assert_items_equal
from tests.inside import fingerprint, fingerprint_module, flatten, item_pickler

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


@given(SPECS, st.data())
def test_what_is_kept_of_a_layout_changes_neither_frame_nor_fingerprint(specs, data):
    pickler, plain = item_pickler.ItemPickler(), item_pickler.ItemPickler()
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
        flat = flatten(item)
        assert flat is not None
        frame = pickler.dumps(item, flat)
        assert frame == plain.dumps(item)
        assert fingerprint(item, flat) == fingerprint(item)
        crossed = item_pickler.loads(frame)
        assert_items_equal(crossed, item)
        assert [a is b for a in crossed.values() for b in crossed.values()] == [
            a is b for a in item.values() for b in item.values()
        ]


def test_one_array_under_two_names_arrives_as_one():
    pickler = item_pickler.ItemPickler()
    for n in range(5):
        one, other = np.full(3, n), np.full(3, n)
        crossed = item_pickler.loads(pickler.dumps(item := {"x": one, "y": other}, flatten(item)))
        assert crossed["x"] is not crossed["y"]
        crossed = item_pickler.loads(pickler.dumps(item := {"x": one, "y": one}, flatten(item)))
        assert crossed["x"] is crossed["y"]


def test_a_frame_of_a_known_layout_is_filled_in():
    class Counting(item_pickler.ItemPickler):
        walks = 0

        def _dumps(self, item):
            self.walks += 1
            return super()._dumps(item)

    pickler = Counting()
    items = [{"x": np.full((3, 5), n), "y": np.full(2, n, np.float32)} for n in range(100)]
    for item in items:
        assert_items_equal(item_pickler.loads(pickler.dumps(item, flatten(item))), item)
    assert pickler.walks < 5


@pytest.mark.parametrize(
    "item",
    [[np.ones(3)], {"x": np.ones(3), "y": 1}, {1: np.ones(3)}, {"x": np.ma.masked_array([1], [0])}, np.ones(3), None],
)
def test_other_items_are_not_flat(item):
    assert flatten(item) is None


def test_layouts_that_go_on_changing_take_no_memory():
    pickler = item_pickler.ItemPickler()
    for n in range(1, 2000):
        item = {"x": np.zeros(n, np.int8)}
        for _ in range(2):
            frame = pickler.dumps(item, flatten(item))
            fingerprint(item, flatten(item))
        assert_items_equal(item_pickler.loads(frame), item)
    assert len(fingerprint_module._checksums) <= 256
    assert len(pickler._templates._pieces) <= 256


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
    pickler = item_pickler.ItemPickler()
    for n in (1, 1, 1, 2, 2, 2):
        item = make(n)
        flat = flatten(item)
        crossed = item_pickler.loads(pickler.dumps(item, flat))
        assert type(crossed) is type(item)
        assert_items_equal(crossed, item)
        assert fingerprint(item, flat) == fingerprint(item)
    assert fingerprint(make(1), flatten(make(1))) != fingerprint(make(2), flatten(make(2)))
