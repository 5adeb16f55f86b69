import dataclasses
import datetime
import enum
import json
import pathlib
import pickle
import tracemalloc
from collections import Counter, OrderedDict, defaultdict, deque
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr

from asyncprefetch import Batch, CheckpointError, IteratorState, register
from tests import support
from tests.inside import MAX_DEPTH, decode, encode, encode_state, explain_unsupported
from tests.support import Count, Model, Open, Pair, Plain, Slotted, assert_same


def through_json(structure):
    return json.loads(json.dumps(structure, allow_nan=False))


def there_and_back(item, *, inline):
    leaves = None if inline else []
    structure = through_json(encode(item, leaves))
    return decode(structure, leaves)


def all_arrays(item):
    if type(item) is np.ndarray:
        yield item
    elif isinstance(item, dict):
        for part in item.values():
            yield from all_arrays(part)
    elif isinstance(item, list | tuple):
        for part in item:
            yield from all_arrays(part)
    elif isinstance(item, BaseModel | Plain):
        yield from all_arrays(vars(item))


# ------------------------------------------------------------------------------------------------------- exactness


@given(support.items(), st.booleans())
@settings(max_examples=500)
def test_every_item_comes_back_to_the_bit(item, inline):
    assert_same(there_and_back(item, inline=inline), item)


@given(support.items(), st.booleans())
def test_decoded_arrays_are_writable_and_own_their_memory(item, inline):
    for array in all_arrays(there_and_back(item, inline=inline)):
        assert array.flags.owndata
        assert array.flags.writeable


@given(support.items())
def test_what_a_checkpoint_holds_is_not_reported_as_unsupported(item):
    assert explain_unsupported(item) is None


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize(
    "scalar",
    [
        np.str_("a\0"),
        np.str_("\ud800"),
        np.str_(""),
        np.bytes_(b"a\0\0"),
        np.bytes_(b""),
        np.void(b"abc"),
        np.void(b""),
        np.longdouble(1) / 3,
        np.float32("nan"),
        np.datetime64("NaT", "s"),
        np.timedelta64(3, "25us"),
        np.bool_(True),
        np.array([(1, 2.0)], [("a", "i1"), ("b", ">f8")])[0],
    ],
    ids=repr,
)
def test_numpy_scalars_come_back_exactly(scalar, inline):
    assert_same(there_and_back(scalar, inline=inline), scalar)


@pytest.mark.parametrize("step", [1, -1, 2])
def test_the_padding_of_structures_comes_back_too(step):
    array = np.zeros(3, np.dtype([("a", "i1"), ("b", "i8")], align=True))
    array.view(np.uint8)[:] = np.arange(48)
    expected = np.arange(48, dtype=np.uint8).reshape(3, 16)[::step].tobytes()
    assert there_and_back(array[::step], inline=False).tobytes() == expected


def test_a_decoded_structured_scalar_can_be_written_to():
    scalar = there_and_back(np.zeros(1, [("a", "i4")])[0], inline=False)
    scalar["a"] = 3
    assert scalar["a"] == 3


def test_the_encoded_item_does_not_change_with_the_item():
    array, leaves = np.arange(5), []
    structure = encode({"x": array, "b": bytearray(b"abc")}, leaves)
    array[:] = 9
    assert_same(decode(structure, leaves)["x"], np.arange(5))


def test_keys_keep_their_order_and_their_types():
    item = {"b": 1, 3: 2, None: 3, (1, "x"): 4, True: 5, b"k": 6, 2.5: 7}
    assert_same(there_and_back(item, inline=True), item)


def test_a_dict_that_looks_like_a_node_is_a_dict():
    item = {"$": "state", "kind": "tests.support.count", "version": 1, "fields": {}}
    assert_same(there_and_back(item, inline=True), item)


def test_long_texts_are_leaves_and_short_ones_are_not():
    leaves = []
    encode(["x" * 1000, "y", {"k" * 1000: 1}], leaves)
    assert leaves == [b"x" * 1000]


def deepest(levels):
    item = 1
    for level in range(levels):
        item = [lambda v: [v], lambda v: (v,), lambda v: {1: v}, lambda v: {"a": v}, Plain][level % 5](item)
    return item


def test_the_deepest_nest_that_is_written_is_read():
    assert_same(there_and_back(deepest(MAX_DEPTH), inline=True), deepest(MAX_DEPTH))
    state = Count(stop=deepest(MAX_DEPTH - 1))
    assert_same(Count.model_validate_json(state.model_dump_json()), state)


def test_a_deeper_nest_and_a_nest_within_itself_are_refused():
    loop: list[Any] = []
    loop.append(loop)
    for item in (deepest(MAX_DEPTH + 1), loop):
        with pytest.raises(CheckpointError, match="nested deeper than"):
            encode(item, None)


def test_cached_properties_and_fields_without_a_value_come_back():
    item = Plain(1)
    assert item.twice == [1, 1]
    del item.a
    assert_same(there_and_back(item, inline=True), item)


def test_models_keep_private_attributes_extra_fields_and_which_fields_were_set():
    model = Model(a=1)
    model._seen = np.arange(3)
    assert model.twice == [1, 1]
    opened = Open(**{"more": [1], "other": 2, "$": 3})
    for item in (model, opened, Model.model_construct()):
        assert_same(there_and_back(item, inline=True), item)


def test_neither_init_nor_post_init_nor_validators_run_again():
    item = Once(1)
    assert there_and_back(item, inline=True).value == 2


@register("tests.items.Once")
@dataclasses.dataclass
class Once:
    value: int

    def __post_init__(self):
        self.value += 1


# ----------------------------------------------------------------------------------------------------- unsupported


@dataclasses.dataclass
class Unregistered:
    a: int = 1


class UnregisteredModel(BaseModel):
    a: int = 1


class UnregisteredPair(NamedTuple):
    a: int = 1


def unregistered_function(): ...


@register("tests.items.Tagged")
class Tagged:
    """A registered class that the codec can't take apart."""


@register("tests.items.DictAndMore")
@dataclasses.dataclass
class DictAndMore(dict):
    a: int = 1


class Child(Pair):
    """A subclass of a registered class that is not registered itself: subclasses do not inherit tags."""


class Colour(enum.Enum):
    RED = 1


class Text(str):
    __slots__ = ()


class Moment(datetime.datetime):
    """A subclass like pandas.Timestamp."""


class Span(datetime.timedelta):
    """A subclass like pandas.Timedelta."""


class Zone(datetime.tzinfo):
    """A time zone of the user's own."""


class Number(np.float64):
    """A subclass that would be read back as its base class."""


with_metadata = np.zeros(2, np.dtype("i4", metadata={"meaning": "lost"}))

with_attribute = Plain(1)
with_attribute.more = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Unregistered(), "Unregistered is not registered; decorate it with @asyncprefetch.register"),
        (UnregisteredModel(), "UnregisteredModel is not registered"),
        (UnregisteredPair(), "UnregisteredPair is not registered"),
        (Child(1), "Child is not registered"),
        (unregistered_function, "unregistered_function is not registered"),
        (Unregistered, "Unregistered is not registered"),
        (len, "builtins.len is not registered"),
        (np.add, "is not registered|can't hold a numpy.ufunc"),  # it has no qualified name in numpy 1
        (Tagged(), "is registered, but is not a plain dataclass"),
        (DictAndMore(), "is registered, but is not a plain dataclass"),
        (with_attribute, "has no field 'more'"),
        (Colour.RED, "can't hold a .*Colour"),
        (Text("a"), "can't hold a .*Text"),
        (Number(1), "can't hold a .*Number"),
        ({1, 2}, "can't hold a builtins.set"),
        (OrderedDict(a=1), "can't hold a collections.OrderedDict"),
        (
            Moment(2024, 1, 1),
            "can't hold a .*Moment, .* yield a plain datetime: to_pydatetime\\(\\) of a pandas.Timestamp",
        ),
        (Span(1), "can't hold a .*Span, .* yield a plain timedelta"),
        (datetime.time(tzinfo=Zone()), "can't hold a time with a tzinfo of class .*Zone; use datetime.timezone or"),
        (datetime.datetime(1, 1, 1, tzinfo=Zone()), "can't hold a datetime with a tzinfo of class .*Zone"),
        (Fraction(1, 2**5000), "can't hold a Fraction of more than 4096 bits"),
        (np.zeros((1, 1)).view(np.matrix), "can't hold a numpy.*matrix, .*: numpy.asarray\\(value\\) makes one"),
        (object(), "can't hold a builtins.object"),
        (memoryview(b"a"), "can't hold a builtins.memoryview"),
        (np.zeros(1, [("a", "O")]), "can't hold dtype"),
        (with_metadata, "can't hold dtype"),
        (np.zeros(1, [("\ud800", "i4")]), "can't hold dtype"),
    ],
    ids=lambda value: type(value).__qualname__,
)
def test_what_a_checkpoint_cannot_hold_is_named_by_its_path_and_reason(value, reason):
    for item, path in [
        (value, "item"),
        ({"rows": [1, (value,)]}, r"item\['rows'\]\[1\]\[0\]"),
        ({1: Plain(b=value, a=0)}, r"item\[1\]\.b"),
        (Model(a={"x": value}), r"item\.a\['x'\]"),
        (Count(stop=value), r"item\.stop"),
    ]:
        with pytest.raises(CheckpointError, match=f"^{path}: .*({reason})"):
            encode(item, [])
        with pytest.raises(CheckpointError) as refusal:
            encode(item, None)
        assert explain_unsupported(item) == str(refusal.value)


def test_a_key_that_is_unsupported_is_named():
    with pytest.raises(CheckpointError, match=r"^batch key <Colour.RED: 1>: a checkpoint can't hold a"):
        encode({Colour.RED: 1}, None, name="batch")


def test_string_dtypes_with_another_object_for_missing_texts_are_refused():
    strings = getattr(np.dtypes, "StringDType", None)
    if strings is None:
        pytest.skip("numpy 1")
    reason = explain_unsupported(np.array(["a"], strings(na_object="none"))) or ""
    assert "with na_object='none'; use None or nan" in reason


def test_an_unsupported_element_of_an_array_of_objects_is_named():
    reason = explain_unsupported({"x": np.array([[1, object()]])}) or ""
    assert reason.startswith("item['x'].ravel('C')[1]: a checkpoint can't hold a builtins.object")
    assert "item.ravel('F')[1]" in (explain_unsupported(np.asfortranarray([[1, 2], [object(), 3]])) or "")


def test_an_explanation_copies_no_array():
    item = {"x": np.zeros(10_000_000, np.uint8), "y": (b"a" * 10_000_000, "b" * 10_000_000)}
    tracemalloc.start()
    explain_unsupported(item)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_the_refusal_crosses_a_process():
    with pytest.raises(CheckpointError) as refusal:
        encode(object(), None)
    assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)


# ---------------------------------------------------------------------------------------------------- malformed data


@given(st.data(), support.items(), st.booleans())
@settings(max_examples=300)
def test_a_damaged_structure_gives_an_item_or_a_checkpoint_error_and_nothing_else(data, item, inline):
    leaves = None if inline else []
    structure = data.draw(support.damaged(encode(item, leaves)))
    if leaves and data.draw(st.booleans()):
        leaves[data.draw(st.integers(0, len(leaves) - 1))] = data.draw(st.binary(max_size=20))
    try:
        decode(structure, leaves)
    except CheckpointError as error:
        assert str(error)  # noqa: PT017


@given(support.json_values())
def test_any_json_gives_an_item_or_a_checkpoint_error(value):
    try:
        decode(value, [])
    except CheckpointError as error:
        assert str(error)  # noqa: PT017


def array(dtype="<i8", shape=(1,), order="C", v="AAAAAAAAAAA="):
    return {"$": "array", "dtype": dtype, "shape": list(shape), "order": order, "v": v}


def fields(*parts, itemsize=8, aligned=False):
    return {
        "fields": [[f"f{i}", part, 0, None] for i, part in enumerate(parts)],
        "itemsize": itemsize,
        "aligned": aligned,
    }


def within(depth, node):
    for _ in range(depth):
        node = [node]
    return node


class UnfriendlyError(Exception):
    pass


@register("tests.items.Unhashable")
@dataclasses.dataclass(frozen=True)
class Unhashable:
    a: Any

    def __hash__(self):
        raise UnfriendlyError("no")


MALFORMED = {
    "an unknown node": {"$": "nothing"},
    "a node named by no text": {"$": 3},
    "a node named by a deep nest": {"$": within(900, 1)},
    "a node without its parts": {"$": "tuple"},
    "a node with a part too many": {"$": "tuple", "v": [], "w": 1},
    "the mark of an unset field outside of a dataclass": {"$": "unset"},
    "a nest that is too deep": within(MAX_DEPTH + 1, 1),
    "NaN": float("nan"),
    "infinity": [float("-inf")],
    "an object that is no JSON": {"x": object()},
    "an array as it is": {"x": np.zeros(2)},
    "a leaf that is not there": {"$": "bytes", "v": 7},
    "a leaf of negative number": {"$": "bytes", "v": -1},
    "a leaf numbered by a bool": {"$": "bytes", "v": False},
    "base64 with a foreign character": {"$": "bytes", "v": "QU!JD"},
    "base64 that is no ASCII": {"$": "bytes", "v": "é"},
    "a leaf used twice": [{"$": "bytes", "v": 0}, {"$": "bytes", "v": 0}],
    "text that is no UTF-8": {"$": "str", "v": "/w=="},
    "an int of no digits": {"$": "int", "v": "xyz"},
    "an int that is no text": {"$": "int", "v": 3},
    "a float of 7 bytes": {"$": "float", "v": "00" * 7},
    "a complex of 8 bytes": {"$": "complex", "v": "00" * 8},
    "a dict with more values than keys": {"$": "dict", "k": [1], "v": [1, 2]},
    "a dict with a key twice": {"$": "dict", "k": [1, 1], "v": [1, 2]},
    "a dict with keys that are equal": {"$": "dict", "k": [1, True], "v": [1, 2]},
    "a dict with a list for a key": {"$": "dict", "k": [[1]], "v": [1]},
    "a dict with a key whose hash fails": {
        "$": "dict",
        "k": [{"$": "dataclass", "tag": "tests.items.Unhashable", "v": {"a": 1}}],
        "v": [1],
    },
    "an array of objects": array("|O"),
    "an array of a dtype that numpy reads and we do not write": array("i4,i4"),
    "a dtype that numpy warns of": array("a8"),
    "a dtype that is no text": array(3),
    "a dtype with a field of objects": array(fields("|O")),
    "a dtype with fields that overlap its end": array(fields("<i8", "<c16")),
    "a dtype with two fields of one name": array({"fields": [["a", "<i4", 0, None]] * 2, "itemsize": 8, "aligned": False}),
    "a dtype with a field that lies before it": array({"fields": [["a", "<i8", -8, None]], "itemsize": 8, "aligned": False}),
    "a dtype with a ragged field": array({"fields": [["a", "<i8"]], "itemsize": 8, "aligned": False}),
    "a dtype that is nothing but a subarray": array({"base": "<i4", "shape": [2]}, ()),
    "a dtype nested too deeply": array(fields(fields(fields(fields(within(900, "<i8")))))),
    "a shape with a negative number": array(shape=(-1, -1)),
    "a shape with a bool": array(shape=(True,)),
    "a shape with a float": array(shape=(1.0,)),
    "a shape that needs more bytes": array(shape=(2,)),
    "a shape that needs fewer bytes": array(shape=(0,)),
    "a shape with too many dimensions": array(shape=(1,) * 65),
    "a shape that overflows": array(shape=(2**62, 2**62, 0), v=""),
    "an unknown order": array(order="K"),
    "a scalar of two items": {"$": "scalar", "dtype": "<i4", "v": "AAAAAAAAAAA="},
    "a scalar without its bytes": {"$": "scalar", "dtype": "|V2147483647", "v": ""},
    "an unknown tag": {"$": "registered", "tag": "nobody.registered.this"},
    "a tag that is no text": {"$": "registered", "tag": ["a"]},
    "a dataclass tag that names a function": {"$": "dataclass", "tag": "tests.support.function", "v": {}},
    "a dataclass tag that names a model": {"$": "dataclass", "tag": "tests.support.Model", "v": {"a": 1, "b": 2}},
    "a named tuple tag that names a dataclass": {"$": "namedtuple", "tag": "tests.support.Plain", "v": [1, 2]},
    "a model tag that names a dataclass": {
        "$": "model", "tag": "tests.support.Plain", "v": {"a": 1, "b": 2}, "extra": None, "private": None, "set": [],
    },
    "a dataclass without a field": {"$": "dataclass", "tag": "asyncprefetch.Batch", "v": {"x": 1}},
    "a dataclass with a foreign field": {"$": "dataclass", "tag": "tests.support.Plain", "v": {"a": 1, "b": 2, "c": 3}},
    "a dataclass with its class replaced": {
        "$": "dataclass", "tag": "tests.support.Plain", "v": {"a": 1, "b": 2, "__class__": 3},
    },
    "a dataclass of a list": {"$": "dataclass", "tag": "tests.support.Plain", "v": [1, 2]},
    "a named tuple that is too short": {"$": "namedtuple", "tag": "tests.support.Pair", "v": [1]},
    "a model with a foreign field": {
        "$": "model", "tag": "tests.support.Model", "v": {"a": 1, "b": 1, "c": 1}, "extra": None, "private": None, "set": [],
    },
    "a model with extra fields that it does not take": {
        "$": "model", "tag": "tests.support.Model", "v": {"a": 1, "b": 1}, "extra": {"c": 1}, "private": None, "set": [],
    },
    "a model with a foreign private attribute": {
        "$": "model", "tag": "tests.support.Model", "v": {"a": 1, "b": 1}, "extra": None, "private": {"_x": 1}, "set": [],
    },
    "a model that has set what it has not": {
        "$": "model", "tag": "tests.support.Model", "v": {"a": 1, "b": 1}, "extra": None, "private": None, "set": ["x"],
    },
    "a state of an unknown kind": {"$": "state", "kind": "nobody.defined.this", "version": 1, "fields": {}},
    "a state of version 0": {"$": "state", "kind": "tests.support.count", "version": 0, "fields": {"end": 1}},
    "a state of version true": {"$": "state", "kind": "tests.support.count", "version": True, "fields": {"end": 1}},
    "a state with foreign fields": {"$": "state", "kind": "tests.support.count", "version": 2, "fields": {"x": 1}},
    "a state whose fields are a list": {"$": "state", "kind": "tests.support.count", "version": 2, "fields": []},
    "a state whose fields look like a state": {
        "$": "state", "kind": "tests.support.count", "version": 2,
        "fields": {"$": "state", "kind": "tests.support.count", "version": 2, "fields": {}},
    },
}  # fmt: skip


@pytest.mark.parametrize("structure", MALFORMED.values(), ids=MALFORMED)
def test_malformed_structures_are_refused(structure):
    with pytest.raises(CheckpointError):
        decode(structure, [b"leaf"])


@pytest.mark.parametrize("shape", [(-1, -1), (True,), (1.0,), ("1",), (None,), (1,) * 65])
def test_a_malformed_shape_is_reported(shape):
    with pytest.raises(CheckpointError, match="malformed structure: shape"):
        decode(array(shape=shape), None)


@pytest.mark.parametrize("node", ["dataclass", "namedtuple", "model"])
def test_a_tag_that_does_not_fit_its_node_is_reported(node):
    structure = {"$": node, "tag": "tests.support.function", "v": {}}
    if node == "model":
        structure |= {"extra": None, "private": None, "set": []}
    with pytest.raises(CheckpointError, match=rf"the tag 'tests\.support\.function' does not name a {node}"):
        decode(structure, None)


@pytest.mark.parametrize(
    "structure",
    [
        {"$": "scalar", "dtype": "|V1000000000", "v": ""},
        {"$": "scalar", "dtype": "|S1000000000", "v": ""},
        array("|S0", (10**9,), v=""),
        array("|V0", (10**9,), v=""),
        array("<U0", (10**9,), v=""),
        array("|V1000000000", (0,), v=""),
        [{"$": "bytearray", "v": 0}] * 1000,
    ],
    ids=repr,
)
def test_a_small_structure_never_takes_much_memory(structure):
    leaves = [b"a" * 1_000_000]
    tracemalloc.start()
    try:
        decode(structure, leaves)
    except CheckpointError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 10_000_000


def test_strings_of_length_zero_keep_their_dtype():
    item = np.zeros(3, [("a", "S0"), ("b", "U0")])
    for part in (item["a"], item["b"], item):
        assert_same(there_and_back(part, inline=True), part)


def test_an_unknown_name_says_what_to_import():
    with pytest.raises(
        CheckpointError,
        match=r"unknown kind 'corpus\.lines'.* has an IteratorState with kind='corpus\.lines'.*'corpus'",
    ):
        decode({"$": "state", "kind": "corpus.lines", "version": 1, "fields": {}}, None)
    with pytest.raises(CheckpointError, match=r"unknown tag 'corpus\.lines'.* has @register\('corpus\.lines'\)"):
        decode({"$": "registered", "tag": "corpus.lines"}, None)
    with pytest.raises(CheckpointError) as refusal:
        decode({"$": "registered", "tag": "{}" * 1_000_000}, None)
    assert len(str(refusal.value)) < 1000


# ------------------------------------------------------------------------------- states: read by declared type


class Colours(IteratorState, kind="tests.items.colours"):
    colour: Colour = Colour.RED
    path: pathlib.Path = pathlib.Path("a")
    options: UnregisteredModel = UnregisteredModel()
    pair: Unregistered = Unregistered()
    numbers: frozenset[int] = frozenset()
    names: set[str] = Field(default_factory=set)
    queue: deque[bytes] = Field(default_factory=deque)
    counts: Counter[str] = Field(default_factory=Counter)
    lists: defaultdict[str, list[int]] = Field(default_factory=lambda: defaultdict(list))
    secret: SecretStr | None = None
    ratio: float = 0.5
    anything: Any = None


@pytest.mark.parametrize("inline", [True, False])
def test_fields_of_other_types_are_read_back_through_their_declared_types(inline):
    state = Colours(
        path=pathlib.Path("b/\udcff"),
        names={"x", "y", "z"},
        queue=deque([b"\xff"]),
        counts=Counter("aab"),
        lists=defaultdict(list, a=[1]),
        anything=[Plain(np.arange(3))],
    )
    leaves = None if inline else [b"another's"]
    read = decode(through_json(encode_state(state, leaves)), leaves)
    assert_same(read.anything, state.anything)
    assert read.model_dump(exclude={"anything"}) == state.model_dump(exclude={"anything"})
    for name in Colours.model_fields:
        assert type(getattr(read, name)) is type(getattr(state, name))
    assert read.__dict__ | {"anything": None} == state.__dict__ | {"anything": None}


class SubOptions(UnregisteredModel):
    b: int = 2


@pytest.mark.parametrize(
    "changed",
    [
        {"anything": {1, 2}},
        {"anything": [Colour.RED]},
        {"anything": Unregistered()},
        {"anything": {"a": UnregisteredModel()}},
        {"anything": deque([1])},
        {"anything": OrderedDict(a=1)},
        {"anything": UnregisteredPair()},
        {"anything": (i for i in "ab")},
        {"anything": lambda: 1},
        {"options": SubOptions()},
        {"secret": SecretStr("lost")},
        {"queue": deque([b"a"], maxlen=3)},
        {"lists": defaultdict(int)},
    ],
    # An id must be the same in every process, but the repr of a generator contains its address.
    ids=lambda changed: "-".join([*changed, *(type(value).__name__ for value in changed.values())]),
)
def test_a_field_that_its_declared_type_does_not_restore_is_refused_when_it_is_written(changed):
    state = Colours.model_construct(**{**Colours().__dict__, **changed})
    with pytest.raises(CheckpointError, match=rf"^state\.{next(iter(changed))}"):
        encode_state(state, [])


def test_an_iterator_in_a_state_is_refused_and_not_used_up():
    numbers = iter([1, 2])
    with pytest.raises(CheckpointError):
        encode_state(Colours(anything=numbers), None)
    assert list(numbers) == [1, 2]


def test_a_state_that_its_own_class_would_not_read_is_refused_when_it_is_written():
    state = Colours.model_construct(**{**Colours().__dict__, "names": "no set"})
    with pytest.raises(CheckpointError, match="could not be read back"):
        encode_state(state, None)


def test_a_value_that_its_declared_type_turns_into_another_is_refused_when_it_is_written():
    state = Colours.model_construct(**{**Colours().__dict__, "ratio": 1})
    with pytest.raises(CheckpointError, match=r"^state: a field would be read back as something else"):
        encode_state(state, None)


def test_sets_are_written_in_one_order():
    # 0 and 8 have the same slot in a small set, so the set keeps the order of insertion.
    one, other = Colours(anything=None, numbers={0, 8}), Colours(anything=None, numbers={8, 0})
    assert list(one.numbers) != list(other.numbers)
    assert encode_state(one, None) == encode_state(other, None)


def test_a_state_without_a_field_is_refused():
    with pytest.raises(CheckpointError, match="incomplete"):
        encode_state(Incomplete.model_construct(), None)


class Incomplete(IteratorState, kind="tests.items.incomplete"):
    a: int


def test_a_batch_in_a_state_comes_back():
    state = Colours(anything=[Batch(np.arange(4), np.arange(4.0)), Slotted(b"a")])
    leaves: list[bytes] = []
    assert_same(decode(through_json(encode_state(state, leaves)), leaves).anything, state.anything)
