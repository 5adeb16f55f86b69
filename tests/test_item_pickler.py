import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from asyncprefetch.testing import assert_items_equal
from tests.inside import _codec, item_pickler
from tests.pipelines.items import make_item

DTYPES = st.one_of(
    hnp.scalar_dtypes(),
    hnp.unicode_string_dtypes(max_len=5),
    hnp.byte_string_dtypes(max_len=5),
    hnp.array_dtypes(),
)


@given(hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, min_side=0, max_side=4)), st.sampled_from("CFTSR"))
def test_arrays_cross_and_the_checkpoint_codec_agrees(array, layout):
    match layout:
        case "F":
            array = np.asfortranarray(array)
        case "T":
            array = array.T
        case "S":
            array = array[..., ::2] if array.ndim else array
        case "R":
            array.setflags(write=False)
    item = {"a": array, "b": [array]}
    crossed = item_pickler.loads(item_pickler.ItemPickler().dumps(item))
    assert_items_equal(crossed, item)
    assert crossed["a"].flags.writeable
    leaves = []
    assert_items_equal(_codec.decode(_codec.encode(item, leaves), leaves), crossed)


@pytest.mark.parametrize("kind", ["none", "batch", "nest", "big"])
def test_items_cross_and_the_checkpoint_codec_agrees(kind):
    item = make_item(kind, 7)
    assert_items_equal(item_pickler.loads(item_pickler.ItemPickler().dumps(item)), item)
    leaves = []
    assert_items_equal(_codec.decode(_codec.encode(item, leaves), leaves), item)


def test_objects_and_subclasses_of_arrays_cross_as_numpy_has_it():
    masked = np.ma.masked_array([1, 2, 3], [0, 1, 0])
    item = {"objects": np.array([1, "a", None], object), "masked": masked}
    crossed = item_pickler.loads(item_pickler.ItemPickler().dumps(item))
    assert crossed["objects"].tolist() == [1, "a", None]
    assert (crossed["masked"].mask == masked.mask).all()


def test_texts_and_bytes_of_numpy_keep_the_zeros_at_their_end():
    text, data = item_pickler.loads(item_pickler.ItemPickler().dumps([np.str_("a\0"), np.bytes_(b"b\0\0")]))
    assert (type(text), text[:], type(data), data[:]) == (np.str_, "a\0", np.bytes_, b"b\0\0")


def test_the_memory_order_of_an_array_is_kept():
    crossed = item_pickler.loads(item_pickler.ItemPickler().dumps(np.asfortranarray(np.zeros((3, 4)))))
    assert crossed.flags.f_contiguous
    assert not crossed.flags.c_contiguous


def test_a_large_array_of_fortran_order_crosses_in_a_frame():
    item = [np.asfortranarray(np.arange(60_000).reshape(300, 200)), np.arange(60_000).reshape(300, 200)[::-1].T]
    assert_items_equal(item_pickler.loads(item_pickler.ItemPickler().dumps(item)), item)


class Wrapped:
    """An object with its own reduction that contains an array."""

    def __init__(self, array):
        self.array = array

    def __reduce_ex__(self, protocol):
        return _unwrap, (pickle.PickleBuffer(self.array), self.array.shape)


def _unwrap(buffer, shape):
    return np.frombuffer(buffer, np.int64).reshape(shape, order="F")


def test_a_large_buffer_of_fortran_order_of_the_users_own_crosses():
    array = np.asfortranarray(np.arange(60_000).reshape(300, 200))
    assert_items_equal(item_pickler.loads(item_pickler.ItemPickler().dumps(Wrapped(array))), array)


def test_each_opening_of_a_frame_is_an_item_of_its_own():
    frame = item_pickler.ItemPickler().dumps(np.zeros(3))
    first = item_pickler.loads(frame)
    first[:] = 1
    assert item_pickler.loads(frame).tolist() == [0, 0, 0]
    assert not np.shares_memory(first, item_pickler.loads(frame))


def test_a_frame_is_not_much_larger_than_its_arrays():
    assert len(item_pickler.ItemPickler().dumps(np.zeros(10_000, np.uint8))) < 10_200
    assert len(pickle.dumps(np.zeros(4))) > len(item_pickler.ItemPickler().dumps(np.zeros(4)))
