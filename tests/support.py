"""Exact equality, strategies for all items that a checkpoint can contain, and ways to damage documents."""

import copy
import ctypes
import dataclasses
import datetime
import decimal
import functools
import json
import pathlib
import struct
import uuid
import zoneinfo
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel, ConfigDict, PrivateAttr

from asyncprefetch import IteratorState, Position, register

# ---------------------------------------------------------------------------------------------------------- equality


def assert_same(a, b, path="item"):
    """Assert bitwise equality: types, dtypes, the order of keys, NaN payloads, all attributes."""
    assert type(a) is type(b), f"{path}: {type(a)} and {type(b)}"
    if isinstance(a, float | complex) and not isinstance(a, np.generic):
        pack = struct.Struct("<dd").pack
        assert pack(a.real, a.imag) == pack(b.real, b.imag), f"{path}: {a!r} and {b!r}"
    elif isinstance(a, np.ma.MaskedArray):
        assert_same(np.ma.getdata(a), np.ma.getdata(b), f"{path}.data")
        # numpy chooses the memory order of a mask.
        masks = [[v is np.ma.nomask, np.array(v, order="C")] for v in map(np.ma.getmask, (a, b))]
        assert_same(*masks, f"{path}.mask")
        assert (repr(a.fill_value), a.hardmask) == (repr(b.fill_value), b.hardmask), path
    elif isinstance(a, np.ndarray) and a.dtype.hasobject:
        assert repr(a.dtype) == repr(b.dtype), path
        assert a.shape == b.shape, path
        assert_same(a.ravel().tolist(), b.ravel().tolist(), path)
        assert _is_fortran(a) == _is_fortran(b), f"{path}: memory order"
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, path
        assert repr(a.dtype) == repr(b.dtype), path
        assert a.shape == b.shape, path
        assert _raw(a) == _raw(b), path
        assert _is_fortran(a) == _is_fortran(b), f"{path}: memory order"
    elif isinstance(a, np.str_):  # str() and == ignore NULs at the end
        assert a.encode("utf-8", "surrogatepass") == b.encode("utf-8", "surrogatepass"), path
    elif isinstance(a, np.bytes_):
        assert bytes(a) == bytes(b), path
    elif isinstance(a, np.generic):
        assert a.dtype == b.dtype, path
        if a.dtype.char in "gG":  # the bytes of the padding are undefined
            assert repr(a) == repr(b), path
        else:
            assert a.tobytes() == b.tobytes(), path
    elif isinstance(a, dict):
        assert len(a) == len(b), path
        for (ka, va), (kb, vb) in zip(a.items(), b.items(), strict=True):
            assert_same(ka, kb, f"{path} key {ka!r}")
            assert_same(va, vb, f"{path}[{ka!r}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{i}]")
    elif isinstance(a, IteratorState):  # reading validates a state again, so the set of given fields is lost
        assert_same(a.__dict__, b.__dict__, path)
    elif isinstance(a, BaseModel):
        x, y = (v.__getstate__() | {"__pydantic_fields_set__": sorted(v.model_fields_set)} for v in (a, b))
        assert_same(x, y, path)
    elif dataclasses.is_dataclass(a):
        x, y = (object.__getstate__(v) for v in (a, b))
        assert_same(x if isinstance(x, tuple) else (x,), y if isinstance(y, tuple) else (y,), path)
    elif isinstance(a, _VALUE_TYPES):  # == ignores zones, folds and exponents, and NaN differs from itself
        assert (repr(a), getattr(a, "is_safe", None)) == (repr(b), getattr(b, "is_safe", None)), path
    else:
        assert a == b, f"{path}: {a!r} and {b!r}"


_VALUE_TYPES = (datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo, decimal.Decimal, uuid.UUID)


def _is_fortran(array):
    return array.flags.f_contiguous and not array.flags.c_contiguous


def _raw(array):
    if not array.dtype.fields:
        return array.tobytes()
    # Read item by item from memory: for a view, tobytes() leaves undefined bytes in the padding of structures.
    starts = [sum(i * step for i, step in zip(index, array.strides, strict=True)) for index in np.ndindex(array.shape)]
    return b"".join(ctypes.string_at(array.ctypes.data + start, array.itemsize) for start in starts)


# ------------------------------------------------------------------------------------------------- registered types


@register("tests.support.Plain")
@dataclasses.dataclass
class Plain:
    a: Any
    b: Any = 2

    @functools.cached_property
    def twice(self):
        return [self.a, self.a]


@register("tests.support.Slotted")
@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    a: Any
    later: Any = dataclasses.field(init=False, default=None)


@register("tests.support.Pair")
class Pair(NamedTuple):
    left: Any
    right: Any = None


@register("tests.support.Model")
class Model(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    a: Any
    b: Any = 1
    _seen: Any = PrivateAttr(default=None)

    @functools.cached_property
    def twice(self):
        return [self.a, self.a]


@register("tests.support.Open")
class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: Any = None


@register("tests.support.function")
def function():
    return 1


class Count(IteratorState, kind="tests.support.count", version=2, aliases=("tests.support.counter",)):
    stop: Any = 10
    child: IteratorState | None = None
    position: Position[int] = 0

    @classmethod
    def upgrade(cls, data, from_version):
        data["stop"] = data.pop("end")
        return data


# -------------------------------------------------------------------------------------------------------- strategies


def texts():
    """Generate any text, including lone surrogates and long texts."""
    any_text = st.text(st.characters(exclude_categories=()), max_size=8)
    return any_text | st.builds(lambda t, n: t * n, any_text, st.integers(1, 100))


def bits(size):
    return st.binary(min_size=size, max_size=size)


def floats():
    return st.floats() | bits(8).map(lambda data: struct.unpack("<d", data)[0])


def complexes():
    return bits(16).map(lambda data: complex(*struct.unpack("<dd", data)))


def dtypes():
    """Generate numbers in both byte orders, times, strings, bytes, raw bytes, and structures with and without holes."""
    simple = st.one_of(
        hnp.scalar_dtypes(),
        hnp.unicode_string_dtypes(max_len=3),
        hnp.byte_string_dtypes(max_len=3),
        st.sampled_from(
            ["f2", "f16", "c32", ">f8", ">i2", ">U2", "M8", "M8[25us]", "m8[7D]", "V3", "V0", "S0", "U0"]
        ).map(np.dtype),
    )
    structures = hnp.array_dtypes(simple.filter(lambda dtype: dtype.itemsize), max_size=3, allow_subarrays=True)
    aligned = st.lists(simple, min_size=1, max_size=3).map(
        lambda parts: np.dtype([(f"f{i}", part) for i, part in enumerate(parts)], align=True)
    )
    overlapping = st.builds(
        lambda a, b, gap: np.dtype(
            {"names": ["b", "a"], "formats": [b, a], "offsets": [gap, 0], "itemsize": gap + a.itemsize + b.itemsize + 3}
        ),
        simple,
        simple,
        st.integers(0, 5),
    )
    return simple | structures | aligned | overlapping


@st.composite
def arrays(draw):
    """Generate arrays of any bits: 0-d, empty, in C order, in Fortran order, and views in neither order."""
    dtype = draw(dtypes())
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    array = np.ndarray(shape, dtype, order=draw(st.sampled_from("CF")))
    if array.nbytes:
        flat = array.ravel("K").view(np.uint8)
        flat[:] = np.frombuffer(draw(bits(64)), np.uint8)[np.arange(flat.size) % 64]
        array = flat.view(dtype).reshape(shape, order="F" if array.flags.f_contiguous else "C")
    view = draw(st.sampled_from(["whole", "transposed", "reversed", "strided"]))
    if view == "transposed":
        return array.T
    if view == "reversed":
        return array[::-1] if array.ndim else array
    if view == "strided":
        return array[..., ::2] if array.ndim else array
    return array


@st.composite
def numpy_scalars(draw):
    dtype = draw(
        hnp.scalar_dtypes() | hnp.array_dtypes(max_size=2) | st.sampled_from(["f16", "c32", "V3"]).map(np.dtype)
    )
    array = np.zeros(1, dtype)
    if dtype.kind not in "b":
        array.view(np.uint8)[:] = np.frombuffer(draw(bits(dtype.itemsize)), np.uint8)
    return array[0]


def zones():
    """Generate time zones: fixed offsets with and without a name, and zones of the time zone database."""
    offsets = st.timedeltas(
        datetime.timedelta(hours=-24, microseconds=1), datetime.timedelta(hours=24, microseconds=-1)
    )
    fixed = st.builds(datetime.timezone, offsets) | st.builds(datetime.timezone, offsets, texts())
    keys = st.sampled_from(["UTC", "Etc/GMT+1", "Europe/Berlin", "America/Argentina/Ushuaia"])
    return st.just(datetime.UTC) | fixed | keys.map(zoneinfo.ZoneInfo)


def decimals():
    """Generate decimals of any exponent, infinities, and NaNs of both kinds with and without a payload."""
    digits = st.lists(st.integers(0, 9), min_size=1, max_size=300).map(tuple)
    exponents = st.integers(-400, 400) | st.integers(-(10**17), 10**17)
    return st.builds(
        lambda *parts: decimal.Decimal(parts), st.integers(0, 1), digits, exponents | st.sampled_from("FnN")
    )


def _with_fold(values):
    return st.builds(lambda value, fold: value.replace(fold=fold), values, st.integers(0, 1))


VALUES = {
    "datetime": _with_fold(st.datetimes(timezones=st.none() | zones())),
    "date": st.dates(),
    "time": _with_fold(st.times(timezones=st.none() | zones())),
    "timedelta": st.timedeltas(),
    "tzinfo": zones(),
    "Decimal": decimals(),
    "Fraction": st.fractions(),
    "UUID": st.builds(
        lambda number, safe: uuid.UUID(int=number, is_safe=safe),
        st.integers(0, 2**128 - 1),
        st.sampled_from(uuid.SafeUUID),
    ),
    "Path": st.builds(
        lambda cls, text: cls(text.replace("\0", "")),
        st.sampled_from([pathlib.PurePosixPath, pathlib.PureWindowsPath, type(pathlib.Path())]),
        texts(),
    ),
}
"""Strategies for the standard library's value types that a checkpoint can contain, by name."""


def values():
    return st.one_of(*VALUES.values())


@st.composite
def masked_arrays(draw):
    """Generate masked arrays. A mask of all elements, because pickle makes one of a mask that is not there."""
    dtype = draw(st.sampled_from(["i4", "f8", "U2", "M8[s]"]) | st.just([("a", "i4"), ("b", "f8")]))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3))
    array = np.zeros(shape, dtype, order=draw(st.sampled_from("CF")))
    mask = np.zeros(shape, np.ma.make_mask_descr(array.dtype))
    mask[...] = draw(st.booleans())
    masked = np.ma.MaskedArray(array, mask=mask)
    if array.dtype.kind in "if":
        masked.fill_value = draw(st.integers(-9, 9))
    return masked


def record_arrays():
    return hnp.array_shapes(max_dims=2, max_side=3).map(
        lambda n: np.zeros(n, [("a", "i4"), ("b", "f8")]).view(np.recarray)
    )


@st.composite
def object_arrays(draw, inner):
    elements = draw(st.lists(inner, max_size=4))
    array = np.fromiter(elements, object, len(elements))
    return draw(st.sampled_from([array, array[::-1], array.reshape(1, -1), np.asfortranarray(array.reshape(-1, 1))]))


@st.composite
def text_arrays(draw):
    """Generate arrays of texts of any length, in numpy 2."""
    make = getattr(np.dtypes, "StringDType", None)
    texts_ = st.text(max_size=8) | st.text(max_size=8).map(lambda text: text * 100)
    if make is None:
        return draw(arrays())
    missing = draw(st.sampled_from([{}, {"na_object": None}, {"na_object": float("nan")}]))
    elements = draw(st.lists(st.one_of(texts_, *map(st.just, missing.values())), max_size=4))
    array = np.array(elements, make(coerce=draw(st.booleans()), **missing))
    return draw(st.sampled_from([array, array[::-1], array.reshape(1, -1)]))


def hashables():
    simple = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        floats(),
        complexes(),
        texts(),
        st.binary(max_size=5),
        st.integers().map(hex),
    )
    simple |= texts().map(np.str_) | st.integers(-9, 9).map(np.int32)
    simple |= values().filter(lambda value: not (isinstance(value, decimal.Decimal) and value.is_snan()))
    return simple | st.tuples(simple) | st.builds(Slotted, simple) | st.builds(Pair, simple, simple)


def leaves():
    numpy_texts = texts().map(np.str_) | st.binary(max_size=5).map(np.bytes_)
    definitions = st.sampled_from([function, Plain, Model])
    more_arrays = masked_arrays() | record_arrays() | text_arrays()
    plain = hashables() | values() | st.binary().map(bytearray) | arrays() | more_arrays
    return plain | numpy_scalars() | numpy_texts | definitions


def items():
    """Generate nested items of all values that a checkpoint can contain."""
    return st.recursive(leaves(), _containers, max_leaves=8)


def _containers(inner):
    return st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(texts(), inner, max_size=3),
        st.dictionaries(hashables(), inner, max_size=3),
        st.dictionaries(st.sampled_from(["$", "v", "tag", "dtype", "state"]), inner, max_size=3),
        object_arrays(inner),
        st.builds(Plain, inner, inner),
        st.builds(_unset, inner),
        st.builds(Pair, inner, inner),
        st.builds(_model, inner, inner),
        st.builds(lambda a, b: Open(a=a, more=b), inner, inner),
        st.builds(lambda a, n: Count(stop=a, child=Count(position=n)), inner, st.integers()),
    )


def _unset(value):
    """Return an item with a cached property and without a value for one field."""
    item = Plain(value)
    assert len(item.twice) == 2
    del item.b
    return item


def _model(value, private):
    item = Model(a=value)
    item._seen = private
    assert len(item.twice) == 2
    return item


def json_values():
    scalars = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5)
    )
    return st.recursive(
        scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3), max_leaves=5
    )


# ------------------------------------------------------------------------------------------------------------ damage


@st.composite
def damaged(draw, structure):
    """Generate copies of the structure with changes in one to three places."""
    structure = json.loads(json.dumps(structure))
    for _ in range(draw(st.integers(1, 3))):
        holder = [structure]
        places = list(_places(holder))
        container, key = draw(st.sampled_from(places))
        other, other_key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["replace", "swap", "remove", "add", "hostile"])):
            case "replace":
                container[key] = draw(json_values())
            case "hostile":
                container[key] = copy.deepcopy(draw(st.sampled_from(_HOSTILE)))
            case "swap":
                container[key] = json.loads(json.dumps(other[other_key]))
            case "remove" if isinstance(container, dict):
                del container[key]
            case "add" if isinstance(container, dict):
                container[draw(st.sampled_from(["$", "v", "k", "tag", "shape", "x"]))] = draw(json_values())
        structure = holder[0]
    return structure


_HOSTILE = [-1, 2**31, 2**63, 10**30, 1e300, float("nan"), True, [], [0], [2**40], {}, {"$": []}, {"$": "state"}]
_HOSTILE += ["", "O", "<f8", "|S0", "|V2147483647", "(01)i4", "a5", "AAAA", "é", "model", "dataclass", "array", "F"]
_HOSTILE += ["datetime", "zoneinfo", "decimal", "fraction", "masked", "objects", "strings", "records", "9E999999999"]
_HOSTILE += ["tests.support.count", "tests.support.Plain", "tests.support.function", "asyncprefetch.Batch"]


def _places(container):
    keys = range(len(container)) if isinstance(container, list) else list(container)
    for key in keys:
        yield container, key
        if isinstance(container[key], list | dict):
            yield from _places(container[key])
