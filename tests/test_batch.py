import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncprefetch import Batch, CheckpointError
from tests import support
from tests.inside import encode
from tests.support import assert_same


def optional(strategy):
    return st.none() | strategy


batches = st.builds(
    Batch,
    support.arrays(),
    support.arrays(),
    optional(support.arrays()),
    optional(support.arrays()),
    optional(support.arrays()),
)


@given(batches)
@settings(max_examples=30)
def test_a_batch_comes_back_from_its_dict_with_dtypes_and_shapes(batch):
    assert_same(Batch.from_python_dict(batch.to_python_dict()), batch)


@given(batches)
@settings(max_examples=30)
def test_its_dict_is_json(batch):
    assert_same(Batch.from_python_dict(json.loads(json.dumps(batch.to_python_dict(), allow_nan=False))), batch)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (2, 0, 3), ()])
@pytest.mark.parametrize("dtype", ["int64", "int32", "float32", "bool", ">u2", "U3"])
def test_empty_arrays_keep_dtype_and_shape(shape, dtype):
    array = np.zeros(shape, dtype)
    batch = Batch.from_python_dict(Batch(array, array, array).to_python_dict())
    for read in (batch.x, batch.y, batch.mask):
        assert read.dtype == array.dtype
        assert read.shape == shape


def test_arrays_that_come_back_can_be_written_to():
    batch = Batch.from_python_dict(Batch(np.arange(3), np.arange(3)).to_python_dict())
    batch.x[0] = 7
    assert batch.x.tolist() == [7, 1, 2]


def test_optional_arrays_may_be_left_out():
    batch = Batch(np.arange(3), np.arange(3))
    described = {name: part for name, part in batch.to_python_dict().items() if part is not None}
    assert_same(Batch.from_python_dict(described), batch)


def test_an_object_in_an_array_that_a_checkpoint_can_not_hold_is_named_with_its_place():
    with pytest.raises(CheckpointError, match=r"^mask\.ravel\('C'\)\[0\]: a checkpoint can't hold a builtins\.object"):
        Batch(np.arange(3), np.arange(3), np.array([object()])).to_python_dict()


whole = Batch(np.arange(3), np.arange(3)).to_python_dict()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({}, "needs an array 'x'"),
        ({"x": whole["x"]}, "needs an array 'y'"),
        (whole | {"x": None}, "needs an array 'x'"),
        (whole | {"y": [1, 2]}, "needs an array 'y'"),
        (whole | {"mask": [True]}, "'mask' of a Batch must be an array or None"),
        (whole | {"z": whole["x"]}, "a Batch has no 'z'"),
        (whole | {"z": None, 3: None}, "a Batch has no 'z', 3"),
        (whole | {"x": whole["x"] | {"shape": [4]}}, "malformed"),
        (whole | {"x": {"$": "array"}}, "malformed"),
        (None, "described by a dict"),
        ([["x", 1]], "described by a dict"),
    ],
    ids=repr,
)
def test_malformed_data_is_refused(data, reason):
    with pytest.raises(CheckpointError, match=reason):
        Batch.from_python_dict(data)


@pytest.mark.parametrize("name", ["x", "mask"])
def test_a_value_without_a_repr_in_place_of_an_array_is_refused(name):
    unprintable = np.array([5]).view("M8")[0]  # numpy makes no text of a time without a unit
    with pytest.raises(ValueError, match="generic units"):
        repr(unprintable)
    data = whole | {name: encode(unprintable, None)}
    with pytest.raises(CheckpointError, match=r"array.*not a numpy\.datetime64"):
        Batch.from_python_dict(data)


@given(st.data(), batches)
@settings(max_examples=40)
def test_damaged_data_gives_a_batch_or_a_checkpoint_error(data, batch):
    described = data.draw(support.damaged(batch.to_python_dict()))
    try:
        Batch.from_python_dict(described)
    except CheckpointError as error:
        assert str(error)  # noqa: PT017


@given(support.json_values())
def test_other_json_is_a_checkpoint_error(value):
    with pytest.raises(CheckpointError):
        Batch.from_python_dict(value)
