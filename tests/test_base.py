import copy
import json
import pickle
from typing import Any, Generic, TypeVar

import numpy as np
import pytest
from pydantic import Field, ValidationError

from asyncprefetch import Batch, CheckpointError, IteratorState, Position, StatefulIterator
from asyncprefetch.base import compare_configuration
from tests.inside import _codec
from tests.support import Count, Plain, assert_same

T = TypeVar("T")


class Leaf(IteratorState, kind="tests.base.leaf"):
    value: Any = 0


class Special(Leaf, kind="tests.base.special"):
    more: int = 1


class Tree(IteratorState, kind="tests.base.tree"):
    one: IteratorState | None = None
    leaf: Leaf = Field(default_factory=Leaf)
    many: list[IteratorState] = Field(default_factory=list)
    named: dict[str, list[IteratorState]] = Field(default_factory=dict)
    anything: Any = None


class Box(IteratorState, Generic[T], kind="tests.base.box", version=2, aliases=("tests.base.crate",)):
    value: T
    inner: IteratorState | None = None


class Holder(IteratorState, kind="tests.base.holder"):
    box: Box[int]


class WithoutKind(Leaf):
    pass


def through_json(state):
    return IteratorState.model_validate_json(state.model_dump_json())


def through_leaves(state):
    leaves: list[bytes] = []
    return _codec.decode(json.loads(json.dumps(_codec.encode_state(state, leaves))), leaves)


both_ways = pytest.mark.parametrize("through", [through_json, through_leaves])


# ------------------------------------------------------------------------------------------------- abstract classes


@pytest.mark.parametrize("cls", [WithoutKind, IteratorState])
@pytest.mark.parametrize(
    "use",
    [
        lambda cls: cls(),
        lambda cls: cls(value=1),
        lambda cls: cls.model_construct(),
        lambda cls: cls.__new__(cls),
        lambda cls: cls.model_validate({"value": 1}),
    ],
    ids=["called", "called with fields", "model_construct", "__new__", "model_validate"],
)
def test_a_class_without_a_kind_of_its_own_cannot_be_used(cls, use):
    with pytest.raises(
        (TypeError, ValidationError), match=f"{cls.__name__} has no kind of its own.*kind='package.name'"
    ):
        use(cls)


def test_a_call_of_an_abstract_class_is_a_type_error():
    with pytest.raises(TypeError):
        WithoutKind()


def test_build_must_be_defined():
    with pytest.raises(NotImplementedError, match="Leaf must define build"):
        Leaf().build()


def test_an_iterator_must_say_where_it_is():
    with pytest.raises(TypeError, match=r"abstract methods? .*create_iter"):
        StatefulIterator()  # type: ignore[abstract]


def test_a_state_refuses_unknown_fields():
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Leaf(vaule=1)


# --------------------------------------------------------------------------------------------------- nested states


@both_ways
def test_states_at_every_depth_come_back_by_their_runtime_type(through):
    tree = Tree(
        one=Special(value=np.arange(3)),
        leaf=Special(value=1, more=2),
        many=[Leaf(), Special(), Tree(one=Box[int](value=3, inner=Special()))],
        named={"a": [Count(stop=1)], "$": [Tree(many=[Special(more=9)])]},
        anything=(Special(), {"x": [Leaf(value=b"\xff")]}, Plain(Special())),
    )
    read = through(tree)
    # At the top and in a field of type IteratorState, the library reads a parametrised generic as its origin.
    expected = tree.model_copy(deep=True)
    expected.many[2].one = Box(value=3, inner=Special())
    assert_same(read, expected)


def test_every_state_names_its_kind_at_every_depth():
    structure = json.loads(Tree(leaf=Special(), many=[Leaf()]).model_dump_json())
    assert structure == {
        "$": "state",
        "kind": "tests.base.tree",
        "version": 1,
        "fields": {
            "one": None,
            "leaf": {"$": "state", "kind": "tests.base.special", "version": 1, "fields": {"value": 0, "more": 1}},
            "many": [{"$": "state", "kind": "tests.base.leaf", "version": 1, "fields": {"value": 0}}],
            "named": {},
            "anything": None,
        },
    }


def state(kind, fields, version=1):
    return {"$": "state", "kind": kind, "version": version, "fields": fields}


@pytest.mark.parametrize(
    "fields",
    [
        {"leaf": state("tests.base.tree", {})},
        {"leaf": None},
        {"leaf": 3},
        {"leaf": {"value": 1, "x": 2}},
        {"many": [3]},
        {"many": [{"value": 1}]},
        {"named": {"a": [None]}},
        {"one": state("tests.base.leaf", {"x": 1})},
        {"many": [state("tests.base.tree", {"leaf": state("tests.base.tree", {})})]},
    ],
    ids=repr,
)
def test_a_nested_state_is_checked_against_the_declared_type_of_its_field(fields):
    with pytest.raises(CheckpointError, match="does not fit"):
        _codec.decode(state("tests.base.tree", fields), None)
    with pytest.raises((CheckpointError, ValidationError)):
        IteratorState.model_validate_json(json.dumps(state("tests.base.tree", fields)))


def test_a_state_of_another_class_than_asked_for_is_refused():
    with pytest.raises(ValidationError, match="a Leaf is not a Special"):
        Special.model_validate_json(Leaf().model_dump_json())
    with pytest.raises(ValidationError, match="a Leaf is not a Special"):
        Special.model_validate(Leaf())
    assert type(Leaf.model_validate_json(Special().model_dump_json())) is Special


def test_an_unknown_kind_is_named_at_any_depth():
    fields = {"many": [state("tests.base.leaf", {"value": [state("nobody.has.this", {})]})]}
    with pytest.raises(CheckpointError, match=r"unknown kind 'nobody.has.this'.*Import"):
        IteratorState.model_validate_json(json.dumps(state("tests.base.tree", fields)))


# ------------------------------------------------------------------------------------------------------- generics


@both_ways
def test_a_parametrised_generic_is_written_as_its_origin_and_read_by_its_declaration(through):
    holder = Holder(box=Box[int](value=3, inner=Box[str](value="x")))
    assert '"kind":"tests.base.box","version":2' in holder.model_dump_json()
    read = through(holder)
    assert type(read.box) is Box[int]
    assert type(read.box.inner) is Box
    assert type(Box[int].model_validate_json(Box[int](value=3).model_dump_json())) is Box[int]


def test_the_declared_parameter_is_checked():
    text = Box[str](value="no number").model_dump_json()
    with pytest.raises(ValidationError):
        Box[int].model_validate_json(text)
    with pytest.raises(ValidationError, match=r"a Box\[str\] is not a Box\[int\]"):
        Box[int].model_validate(Box[str](value="1"))
    with pytest.raises(CheckpointError, match="does not fit"):
        _codec.decode(state("tests.base.holder", {"box": json.loads(text)}), None)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_parametrised_generics_are_pickled_and_copied_wherever_they_were_parametrised(protocol):
    class Local(IteratorState, kind="tests.base.local"):
        pass

    for original in (Box[int](value=3), Box[Box[int]](value=Box[int](value=4)), Box[list[Leaf]](value=[Special()])):
        for again in (pickle.loads(pickle.dumps(original, protocol)), copy.copy(original), copy.deepcopy(original)):
            assert type(again) is type(original)
            assert_same(again, original)


def test_a_subclass_of_a_generic_needs_a_kind_of_its_own():
    class Kinded(Box[int], kind="tests.base.kinded"):
        pass

    class Kindless(Box[int]):
        pass

    assert type(through_json(Kinded(value=1))) is Kinded
    with pytest.raises(TypeError, match="Kindless has no kind"):
        Kindless(value=1)


def test_the_parametrised_form_of_an_abstract_generic_is_abstract():
    class Open(IteratorState, Generic[T]):
        value: T

    with pytest.raises(TypeError, match="no kind of its own"):
        Open[int](value=1)


# --------------------------------------------------------------------------------------------- aliases and versions


def test_aliases_are_read_and_never_written():
    read = IteratorState.model_validate_json(json.dumps(state("tests.base.crate", {"value": 1}, 2)))
    assert type(read) is Box
    assert "crate" not in read.model_dump_json()


def test_an_earlier_version_is_upgraded_before_unknown_fields_are_refused():
    for kind in ("tests.support.count", "tests.support.counter"):
        read = _codec.decode(state(kind, {"end": {"$": "tuple", "v": [7]}, "position": 3}, 1), None)
        assert_same(read, Count(stop=(7,), position=3))
    nested = state("tests.support.count", {"stop": 1, "child": state("tests.support.count", {"end": 2}, 1)}, 2)
    assert IteratorState.model_validate_json(json.dumps(nested)).child.stop == 2


def test_the_current_version_is_not_upgraded():
    with pytest.raises(CheckpointError, match="does not fit"):
        _codec.decode(state("tests.support.count", {"end": 7}, 2), None)


def test_a_newer_version_is_refused():
    with pytest.raises(
        CheckpointError, match=r"written as version 3, and .*Count here reads up to 2: use the newer code"
    ):
        _codec.decode(state("tests.support.count", {"stop": 7}, 3), None)


def test_a_class_that_does_not_say_how_to_upgrade_is_named():
    with pytest.raises(CheckpointError, match=r"can't read version 1 of 'tests.base.box': define upgrade"):
        _codec.decode(state("tests.base.box", {"value": 1}, 1), None)


def test_an_upgrade_or_a_validator_that_fails_is_a_checkpoint_error():
    with pytest.raises(
        CheckpointError, match=r"reading version 1 of state 'tests.support.count' by .*Count failed: KeyError"
    ):
        _codec.decode(state("tests.support.count", {}, 1), None)


# ------------------------------------------------------------------------------------------------------ exactness


@both_ways
def test_numbers_that_json_does_not_have_come_back(through):
    nan = np.frombuffer(b"\x01\x00\x00\x00\x00\x00\xf4\xff", "<f8")[0].item()
    values = [
        float("inf"),
        -float("inf"),
        nan,
        -0.0,
        10**40,
        -(2**63),
        2**63,
        1e-310,
        "\ud800",
        "\0",
        (),
        b"",
        {1: 2, "\ud83d\ude00": 3},
    ]
    assert_same(through(Leaf(value=values)), Leaf(value=values))


def test_raw_nan_is_refused():
    with pytest.raises(CheckpointError, match="nan"):
        IteratorState.model_validate_json('{"$":"state","kind":"tests.base.leaf","version":1,"fields":{"value":NaN}}')


@both_ways
def test_pydantic_aliases_do_not_reach_the_file(through):
    read = through(Aliased(Start=3))
    assert read.start == 3
    assert '"start":3' in read.model_dump_json()


class Aliased(IteratorState, kind="tests.base.aliased"):
    start: int = Field(alias="Start")


@both_ways
def test_extra_fields_come_back_where_a_class_takes_them(through):
    assert_same(through(Loose(a=1, more=np.arange(2))).model_extra, {"more": np.arange(2)})


def test_an_extra_field_whose_name_would_not_come_back_is_refused():
    with pytest.raises(CheckpointError, match=r"state: .*Loose has an extra field with a name"):
        _codec.encode_state(Loose(**{"a": 1, "$": 2}), None)


class Loose(IteratorState, kind="tests.base.loose", extra="allow"):
    a: int


# ------------------------------------------------------------------------------------------ compare_configuration


class Source(IteratorState, kind="tests.base.source"):
    path: str = "a"
    weights: Any = None
    buffer: Position[list[int]] = Field(default_factory=list)
    offset: Position[int] = Field(default=0, ge=0)


class Pipeline(IteratorState, kind="tests.base.pipeline"):
    sources: list[IteratorState]
    options: dict[str, Any] = Field(default_factory=dict)
    current: Position[IteratorState | None] = None


def test_positions_are_no_configuration():
    saved = Pipeline(sources=[Source(offset=3, buffer=[1])], current=Leaf())
    assert compare_configuration(saved, Pipeline(sources=[Source()]), "pipeline") == []


def test_every_difference_has_its_line():
    saved = Pipeline(sources=[Source(), Source(path="b"), Leaf()], options={"a": 1, "b": [1, 2], "c": (1,)})
    given = Pipeline(sources=[Source(path="c"), Special(), Leaf(value=1)], options={"a": 1.0, "b": [1, 3], "c": [1]})
    assert compare_configuration(saved, given, "pipeline") == [
        "pipeline.sources[0].path: saved 'a', given 'c'",
        "pipeline.sources[1]: saved Source, given Special",
        "pipeline.sources[2].value: saved 0, given 1",
        "pipeline.options['a']: saved 1, given 1.0",
        "pipeline.options['b'][1]: saved 2, given 3",
        "pipeline.options['c']: saved (1,), given [1]",
    ]


def test_long_values_are_cut_short():
    (line,) = compare_configuration(Leaf(value="a" * 1000), Leaf(value="b" * 1000), "leaf")
    assert len(line) < 250


@pytest.mark.parametrize(
    "make",
    [
        lambda: float("nan"),
        lambda: np.array([1.0, np.nan]),
        lambda: np.array(["NaT"], "M8[s]"),
        lambda: {"a": np.arange(3), "b": [np.arange(2)]},
        lambda: Batch(np.arange(3), np.arange(3)),
        lambda: Plain(np.arange(3)),
        lambda: {1, 2},
        lambda: np.zeros(4, np.dtype([("a", "i1"), ("b", "i8")], align=True))[::-2],
        lambda: Box[int](value=3),
    ],
)
def test_what_is_the_same_is_no_difference(make):
    assert compare_configuration(Leaf(value=make()), Leaf(value=make()), "leaf") == []


def test_the_order_of_keys_and_of_memory_is_no_difference():
    saved = {"a": 1, "b": np.zeros((2, 3))}
    given = {"b": np.zeros((2, 3), order="F"), "a": 1}
    assert compare_configuration(saved, given, "options") == []


@pytest.mark.parametrize(
    ("saved", "given"),
    [
        (np.arange(3), np.arange(3.0)),
        (np.arange(3), np.arange(4)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        ({"a": np.arange(3), "b": 1}, {"a": np.arange(4), "c": 1}),
        ([np.arange(3)], [np.arange(3), 1]),
        (Batch(np.arange(3), np.arange(3)), Batch(np.arange(3), np.arange(3), np.ones(3, bool))),
        (Plain(1), Plain(1.0)),
        (True, 1),
        (0.0, -0.0),
        ({1, 2}, {1, 3}),
        (Leaf(), None),
        (None, Leaf()),
        (Leaf(), {"value": 0}),
    ],
    ids=repr,
)
def test_what_differs_is_one_line(saved, given):
    assert len(compare_configuration(saved, given, "it")) == 1


def test_a_generic_read_from_a_file_is_compared_by_its_kind():
    pipeline = Pipeline(sources=[Box[int](value=3)])
    assert compare_configuration(through_json(pipeline), pipeline, "pipeline") == []
