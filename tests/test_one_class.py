"""An iterator in the one-class form: its annotated fields are its state."""

import asyncio
import copy
import dataclasses
import functools
import json
import pickle
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence  # noqa: F401
from enum import Enum
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, NewType, TypeVar  # noqa: F401

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, InstanceOf, ValidationError  # noqa: F401
from typing_extensions import TypeAliasType, TypedDict

from asyncprefetch import (
    AsyncPrefetcher,
    AsyncPrefetcherState,
    CheckpointError,
    IteratorState,
    Position,
    ProducerError,
    StatefulIterator,
    empty,
    register,
)
from asyncprefetch.base import compare_configuration
from asyncprefetch.iterators import LimitIterator, LoopingIterator, MapIterator, SamplingIterator
from asyncprefetch.testing import assert_items_equal, assert_resumes_exactly
from tests import processes
from tests.inside import encode_state, find_kind
from tests.iterators.sources import ListIterator
from tests.support import Plain, assert_same

T = TypeVar("T")
Bounded = TypeVar("Bounded", bound=StatefulIterator[int])


class Count(StatefulIterator[int], kind="tests.one.count"):
    stop: int
    position: Position[int] = 0

    def create_iter(self) -> Iterator[int]:
        while self.position < self.stop:
            self.position += 1
            yield self.position - 1


class Take(StatefulIterator[T], Generic[T], kind="tests.one.take"):
    inner: StatefulIterator[T]
    n: int = Field(ge=0)
    taken: Position[int] = 0

    def create_iter(self) -> Iterator[T]:
        items = iter(self.inner)
        while self.taken < self.n:
            for item in items:
                self.taken += 1
                yield item
                break
            else:
                return


class Mixture(StatefulIterator[Any], kind="tests.one.mixture"):
    """Takes from the named iterators in turns, then from those of the list, and remembers what it yielded."""

    named: dict[str, StatefulIterator[Any]]
    others: list[StatefulIterator[Any]] = Field(default_factory=list)
    last: "StatefulIterator[Any] | None" = None
    seen: Position[list[Any]] = []  # noqa: RUF012
    nested: Position[dict[str, list[int]]] = {"a": []}  # noqa: RUF012

    def create_iter(self) -> Iterator[Any]:
        for iterator in (*self.named.values(), *self.others, self.last or ()):
            for item in iterator:
                self.seen.append(item)
                self.nested["a"].append(len(self.seen))
                yield item


@register("tests.one.double")
def double(n: int) -> int:
    return 2 * n


class Applied(StatefulIterator[Any], kind="tests.one.applied"):
    """Fields of many types."""

    function: Callable[[int], int] = double
    weights: npt.NDArray[np.float64]
    plain: Plain = Plain(1)
    position: Position[int] = 0
    history: Position[npt.NDArray[np.int64]] = Field(default_factory=lambda: np.zeros(3, np.int64))

    def create_iter(self) -> Iterator[Any]:
        while self.position < 3:
            item = empty((2,), np.float64)
            item[:] = self.function(self.position) * self.weights
            self.history[self.position] += self.position
            self.position += 1
            yield item


def in_mixture() -> Mixture:
    return Mixture(
        named={"a": Count(stop=2), "b": Take(inner=Count(stop=4), n=3)},
        others=[LimitIterator(Count(stop=5), 2), ListIterator(["x"])],
        last=Count(stop=1),
    )


MADE = {
    "count": lambda: Count(stop=6),
    "take": lambda: Take(inner=Take(inner=Count(stop=20), n=7), n=5),
    "parametrised": lambda: Take[int](inner=Count(stop=3), n=5),
    "mixture": in_mixture,
    "applied": lambda: Applied(weights=np.ones(2)),
    "of the library's around it": lambda: MapIterator(Take(inner=LimitIterator(Count(stop=9), 4), n=8), double),
}


@pytest.mark.parametrize("name", MADE)
def test_it_resumes_exactly(name: str) -> None:
    assert_resumes_exactly(MADE[name])


def test_it_is_iterated_directly_and_a_second_for_continues() -> None:
    iterator = Count(stop=4)
    for item in iterator:
        if item == 1:
            break
    assert list(iterator) == [2, 3]
    assert list(iterator) == []
    assert list(LimitIterator(Count(stop=4), 2)) == [0, 1]


# ------------------------------------------------------------------------------------------------------- construction


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Count, r"1 validation error for Count\nstop\n  Field required"),
        (lambda: Count(stop="many"), r"for Count\nstop\n  Input should be a valid integer"),
        (lambda: Take(inner=Count(stop=1), n=-1), r"for Take\nn\n  Input should be greater than or equal to 0"),
        (lambda: Take(inner=[1, 2], n=1), r"for Take\ninner\n.*must be a StatefulIterator, not \[1, 2\]"),
        (lambda: Take(inner=Count, n=1), r"for Take\ninner\n.*must be a StatefulIterator, not <class"),
        (lambda: Mixture(named={"a": 3}), r"for Mixture\nnamed.a\n.*must be a StatefulIterator, not 3"),
    ],
)
def test_its_arguments_are_validated_at_construction(make: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make()


def test_a_positional_argument_is_an_error_that_shows_the_keywords() -> None:
    with pytest.raises(TypeError, match=r"Count takes its fields by keyword: Count\(stop=..., position=...\)"):
        Count(20)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Count(stpo=1), r"^Count has no field 'stpo'; did you mean 'stop'\? Its fields are: stop, position$"),
        (lambda: Count(stop="x", begin=2), r"^Count has no field 'begin'\. Its fields are: stop, position$"),
        (lambda: Empty(a=2), r"^Empty has no field 'a'\. Its fields are: none$"),
    ],
    ids=["misspelt", "unknown", "no fields"],
)
def test_an_unknown_keyword_is_an_error_that_shows_the_fields(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_an_unknown_name_within_a_value_stays_an_error_of_validation() -> None:
    class Options(BaseModel, extra="forbid"):
        size: int = 1

    class WithOptions(StatefulIterator[int], kind="tests.one.with-options"):
        options: Options

        def create_iter(self): ...

    with pytest.raises(ValidationError, match=r"for \S*WithOptions\noptions.begin\n  Extra inputs are not permitted"):
        WithOptions(options={"begin": 1})


class Empty(StatefulIterator[int], kind="tests.one.empty"):
    def create_iter(self) -> Iterator[int]:
        return iter([])


def test_defaults_are_validated() -> None:
    class Wrong(StatefulIterator[int], kind="tests.one.wrong-default"):
        stop: int = "x"

        def create_iter(self): ...

    with pytest.raises(ValidationError, match="stop"):
        Wrong()


def test_the_iterator_owns_its_fields() -> None:
    given = [1]
    mixture = Mixture(named={}, seen=given)
    mixture.seen.append(2)
    mixture.nested["a"].append(3)
    assert given == [1]
    other = Mixture(named={})
    assert (other.seen, other.nested) == ([], {"a": []})
    plain = Applied(weights=np.ones(2)).plain
    plain.a = 7
    assert Applied(weights=np.ones(2)).plain.a == 1


def test_an_iterator_that_is_given_is_left_alone_and_may_be_given_twice() -> None:
    given = Count(stop=3)
    assert next(iter(given)) == 0
    assert list(Mixture(named={"a": given, "b": given})) == [1, 2, 1, 2]
    assert given.position == 1


def test_a_state_shows_its_iterator_and_its_fields() -> None:
    assert repr(Count(stop=3).get_state()) == "Count.State(stop=3, position=0)"


def test_post_init_is_called_after_construction_and_after_build() -> None:
    iterator = WithPostInit(stop=3)
    assert iterator._twice == 6
    assert iterator.get_state().build()._twice == 6
    with pytest.raises(ValueError, match="stop is odd: 5"):
        WithPostInit(stop=5)


class WithPostInit(Count, kind="tests.one.with-post-init"):
    _cache: ClassVar[dict[str, int]] = {}
    LIMIT: ClassVar[int] = 4

    def post_init(self) -> None:
        super().post_init()
        self._twice = self.stop * 2
        if self.stop > self.LIMIT:
            raise ValueError(f"stop is odd: {self.stop}")


def test_an_init_of_its_own_gives_the_fields_to_the_inherited_one() -> None:
    iterator = Between(3, 5)
    assert list(iterator) == [3, 4]
    assert_resumes_exactly(lambda: Between(3, 5))


class Between(Count, kind="tests.one.between"):
    def __init__(self, first: int, last: int) -> None:
        super().__init__(stop=last, position=first)


def test_get_state_may_set_fields_first() -> None:
    assert_resumes_exactly(lambda: Random(stop=5))


class Random(StatefulIterator[int], kind="tests.one.random"):
    stop: int
    generator: Position[dict[str, Any] | None] = None
    position: Position[int] = 0

    def post_init(self) -> None:
        self._generator = np.random.default_rng(3)
        if self.generator is not None:
            self._generator.bit_generator.state = self.generator

    def get_state(self) -> IteratorState:
        self.generator = self._generator.bit_generator.state
        return super().get_state()

    def create_iter(self) -> Iterator[int]:
        while self.position < self.stop:
            self.position += 1
            yield int(self._generator.integers(1000))


# -------------------------------------------------------------------------------------------------------- the states


def test_a_state_never_changes_when_the_iterator_advances_nor_when_another_is_built_from_it() -> None:
    mixture = in_mixture()
    items = iter(mixture)
    next(items)
    state = mixture.get_state()
    before = state.model_dump_json()
    list(items)
    list(state.build())
    assert state.model_dump_json() == before
    applied = Applied(weights=np.ones(2))
    state = applied.get_state()
    assert len(list(applied)) == len(list(state.build())) == 3
    assert_same(state.history, np.zeros(3, np.int64))


def test_a_state_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Count(stop=1).get_state().stop = 2


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("protocol", [4, 5])
def test_a_state_is_pickled_by_the_name_of_its_class(name: str, protocol: int) -> None:
    state = MADE[name]().get_state()
    again = pickle.loads(pickle.dumps(state, protocol))
    assert type(again) is type(state)
    assert again.model_dump_json() == state.model_dump_json()
    assert (Count.State.__qualname__, Count.State.__module__) == ("Count.State", __name__)


def test_a_state_names_kinds_at_every_depth() -> None:
    structure = json.loads(Take(inner=Count(stop=3), n=2).get_state().model_dump_json())
    count = {"$": "state", "kind": "tests.one.count", "version": 1, "fields": {"stop": 3, "position": 0}}
    fields = {"inner": count, "n": 2, "taken": 0}
    assert structure == {"$": "state", "kind": "tests.one.take", "version": 1, "fields": fields}


def test_a_state_is_read_only_where_its_iterator_fits() -> None:
    text = OfCounts(counts=[Count(stop=1)]).get_state().model_dump_json()
    assert list(IteratorState.model_validate_json(text).build()) == [0]
    other = json.loads(Take(inner=Count(stop=1), n=1).get_state().model_dump_json())
    wrong = json.loads(text)
    wrong["fields"]["counts"] = [other]
    with pytest.raises(CheckpointError, match=r"(?s)tests.one.of-counts.*a Take.State is not a Count.State"):
        IteratorState.model_validate_json(json.dumps(wrong))
    with pytest.raises(ValidationError, match="must be a Count, not <"):
        OfCounts(counts=[Take(inner=Count(stop=1), n=1)])


class OfCounts(StatefulIterator[int], kind="tests.one.of-counts"):
    counts: list[Count]

    def create_iter(self) -> Iterator[int]:
        for count in self.counts:
            yield from count


def test_the_configuration_is_compared_and_positions_are_not() -> None:
    saved, given = in_mixture(), in_mixture()
    next(iter(saved))
    assert compare_configuration(saved.get_state(), given.get_state(), "it") == []
    differing = Take(inner=Count(stop=4), n=3).get_state()
    lines = compare_configuration(Take(inner=Count(stop=5), n=3).get_state(), differing, "it")
    assert lines == ["it.inner.stop: saved 5, given 4"]


def test_iterators_are_found_in_the_alias_of_a_type() -> None:
    sources = TypeAliasType("sources", dict[str, StatefulIterator[int]])

    class Aliased(StatefulIterator[int], kind="tests.one.aliased"):
        named: sources

        def create_iter(self) -> Iterator[int]:
            return iter(self.named["a"])

    assert list(Aliased(named={"a": Count(stop=2)}).get_state().build()) == [0, 1]


def test_a_field_may_be_a_state_that_is_not_built_nor_copied() -> None:
    again = Again(start=Count(stop=2).get_state())
    assert again.get_state().start is again.start
    assert list(again) == [0, 1, 0, 1]
    assert_resumes_exactly(lambda: Again(start=Count(stop=2).get_state()))


class Again(StatefulIterator[Any], kind="tests.one.again"):
    start: IteratorState
    now: Position[StatefulIterator[Any] | None] = None
    times: Position[int] = 0

    def create_iter(self) -> Iterator[Any]:
        while self.times < 2:
            if self.now is None:
                self.now = self.start.build()
            yield from self.now
            self.now = None
            self.times += 1


def test_the_value_of_a_field_that_does_not_fit_is_an_error_of_get_state() -> None:
    iterator = Count(stop=3)
    iterator.position = "two"
    with pytest.raises(ValidationError, match=r"for Count\nposition\n"):
        iterator.get_state()


class Uncopyable:
    """Refuses copies as a tensor that is not a leaf does."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("only leaves are copied")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ((n for n in range(3)), "a generator can't be copied (TypeError: cannot pickle 'generator' object)."),
        ([Uncopyable()], "a Uncopyable can't be copied (RuntimeError: only leaves are copied)."),
    ],
    ids=["generator", "error of its own"],
)
def test_a_field_that_can_not_be_copied_is_named(value: Any, reason: str) -> None:
    iterator = Holding(thing=1)
    iterator.thing = value
    advice = "belongs in an attribute whose name begins with an underscore: make it in post_init()"
    for use in (iterator.get_state, lambda: Holding(thing=value)):
        with pytest.raises(TypeError) as caught:
            use()
        assert str(caught.value) == f"Holding.thing: {reason} What is not data {advice}"


class Holding(StatefulIterator[int], kind="tests.one.holding"):
    thing: Any

    def create_iter(self) -> Iterator[int]:
        yield from ()

    @functools.cached_property
    def half(self) -> int:
        return 1


def test_an_iterator_in_a_field_that_is_not_declared_as_one_is_refused_by_a_checkpoint() -> None:
    with pytest.raises(CheckpointError, match=r"state\.thing: .*Count"):
        encode_state(Holding(thing=Count(stop=1)).get_state(), None)


def test_a_field_without_a_value_is_named() -> None:
    class Forgets(StatefulIterator[int], kind="tests.one.forgets"):
        stop: int

        def __init__(self) -> None:
            pass

        def create_iter(self): ...

    message = r"Forgets.stop has no value: if \S+Forgets has an __init__, it must call super\(\).__init__\(stop=...\)"
    with pytest.raises(AttributeError, match=message):
        Forgets().get_state()


def test_an_attribute_that_is_no_field_is_found_by_the_test_helper() -> None:
    class Forgetful(Count, kind="tests.one.forgetful"):
        def create_iter(self) -> Iterator[int]:
            self.started = True
            self._private = self.half
            yield from super().create_iter()

        @functools.cached_property
        def half(self) -> int:
            return self.stop // 2

    with pytest.raises(AssertionError, match="Forgetful has the attribute 'started', which is not a field"):
        assert_resumes_exactly(lambda: Forgetful(stop=3))


# --------------------------------------------------------------------------------- kinds, inheritance, and versions


class Stepped(Count, kind="tests.one.stepped", version=3, aliases=("tests.one.former",)):
    step: int = 1
    stop: int = 12

    def create_iter(self) -> Iterator[int]:
        while self.position < self.stop:
            self.position += self.step
            yield self.position

    @classmethod
    def upgrade(cls, data: dict[str, Any], from_version: int) -> dict[str, Any]:
        if from_version == 1:
            data["stop"] = data.pop("end")
        return data | {"step": 2}


def test_fields_are_inherited_and_may_be_declared_anew() -> None:
    assert list(Stepped.State.model_fields) == ["stop", "position", "step"]
    assert list(Stepped(step=5)) == [5, 10, 15]
    assert_resumes_exactly(lambda: Stepped(step=5))
    assert list(Count.State.model_fields) == ["stop", "position"]


def test_an_earlier_version_is_upgraded_and_an_alias_is_read() -> None:
    node = {"$": "state", "kind": "tests.one.former", "version": 1, "fields": {"end": 6, "position": 2}}
    assert list(IteratorState.model_validate_json(json.dumps(node)).build()) == [4, 6]
    node["version"] = 4
    with pytest.raises(CheckpointError, match="written as version 4"):
        IteratorState.model_validate_json(json.dumps(node))


def test_a_class_that_does_not_define_upgrade_is_named() -> None:
    class Second(Count, kind="tests.one.second", version=2): ...

    node = {"$": "state", "kind": "tests.one.second", "version": 1, "fields": {"stop": 6}}
    with pytest.raises(CheckpointError, match=r"Second can't read version 1 of 'tests.one.second': define upgrade"):
        IteratorState.model_validate_json(json.dumps(node))


def test_a_subclass_without_a_kind_of_its_own_can_not_be_used() -> None:
    class Kindless(Count): ...

    class Parametrised(Take[int]): ...

    with pytest.raises(TypeError, match=r"Kindless has no kind of its own.*class Kindless\(..., kind='package.name'\)"):
        Kindless(stop=3)

    class WithGetState(Random): ...

    with pytest.raises(TypeError, match="WithGetState has no kind of its own"):
        WithGetState(stop=3)
    with pytest.raises(TypeError, match="Parametrised has no kind of its own"):
        Parametrised(inner=Count(stop=3), n=1)


def test_a_class_without_a_kind_is_an_abstract_base_of_others() -> None:
    class Base(StatefulIterator[T], Generic[T]):
        stop: int
        seen: Position[list[int]] = []  # noqa: RUF012

        def create_iter(self) -> Iterator[T]: ...

    with pytest.raises(TypeError, match=r"Base has no kind of its own.*, or define get_state\(\)"):
        Base(stop=3)
    for kind in ("tests.one.derived-1", "tests.one.derived-2"):

        class Derived(Base[int], kind=kind):
            __qualname__ = kind.rpartition(".")[2]
            more: int = 1

        assert Derived(stop=3).seen == []
        assert list(Derived.State.model_fields) == ["stop", "seen", "more"]


def test_the_two_class_form_stays_and_needs_get_state() -> None:
    class Without(StatefulIterator[int]):
        def create_iter(self): ...

    with pytest.raises(TypeError, match=r"Without has no kind of its own, .*, or define get_state\(\)"):
        Without()

    class Two(ListIterator):
        annotated: int

    assert list(Two([1, 2])) == [1, 2]
    with pytest.raises(TypeError):
        StatefulIterator.__init__(Two([1]), 3)


def test_a_kind_that_is_taken_is_refused_also_within_one_module() -> None:
    with pytest.raises(TypeError, match=r"'tests.one.count' is taken: .*\.Count\.State has it, and .*\.Usurper\.State"):

        class Usurper(StatefulIterator[int], kind="tests.one.count"): ...

    assert find_kind("tests.one.count").cls is Count.State


def test_a_class_may_be_defined_again() -> None:
    def define() -> Any:
        class Again(Count, kind="tests.one.defined-again"): ...

        return Again

    define()
    assert define().State is find_kind("tests.one.defined-again").cls


def define_again() -> Any:
    class Again(StatefulIterator[int], kind="tests.one.once-more"):
        stop: int

        def create_iter(self) -> Iterator[int]:
            yield from range(self.stop)

    return Again


def test_an_object_of_an_earlier_definition_is_an_error_that_says_so() -> None:
    older, newer = define_again(), define_again()

    class OfOlder(StatefulIterator[int], kind="tests.one.of-older"):
        again: older

        def create_iter(self): ...

    message = (
        "Again was defined twice, as by a notebook cell that ran again, .*: define the class that has the field again"
    )
    for given in (newer(stop=1), newer(stop=1).get_state()):
        with pytest.raises(ValidationError, match=message):
            OfOlder(again=given)
    with pytest.raises(CheckpointError, match=message):
        IteratorState.model_validate_json(OfOlder(again=older(stop=1)).get_state().model_dump_json())

    def define_box() -> Any:
        class Box(IteratorState, Generic[T], kind="tests.one.box-again"):
            value: T

        return Box

    older_box, newer_box = define_box(), define_box()

    class OfBox(IteratorState, kind="tests.one.of-older-box"):
        box: older_box[int]

    with pytest.raises(ValidationError, match=message.replace("Again", "Box")):
        OfBox(box=newer_box(value=1))

    message = "Again was defined again after this object was made, .*: make the object again from the new class"
    with pytest.raises(pickle.PicklingError, match=message):
        pickle.dumps(older(stop=1).get_state())
    (line,) = compare_configuration(newer(stop=1).get_state(), older(stop=1).get_state(), "it")
    assert re.fullmatch(rf"it: \S*{message}", line)


def test_a_state_of_another_class_is_named_though_a_base_class_fits() -> None:
    class Box(IteratorState, Generic[T], kind="tests.one.box"):
        value: T

    class Other(Box[T], Generic[T], kind="tests.one.other-box"): ...

    class OfBox(IteratorState, kind="tests.one.of-box"):
        box: Box[int]

    with pytest.raises(ValidationError, match=r"a \S*Other is not a \S*Box\[int\]"):
        OfBox(box=Other(value=1))


def test_annotations_of_classes_in_a_function_and_of_the_class_itself_are_found() -> None:
    class Mode(Enum):
        A = "a"

    class Node(StatefulIterator[Any], kind="tests.one.node"):
        mode: "Mode"
        next: "Node | None" = None

        def create_iter(self) -> Iterator[Any]:
            if self.next is not None:
                yield from self.next

    node = Node(mode=Mode.A, next=Node(mode="a"))
    again = IteratorState.model_validate_json(node.get_state().model_dump_json()).build()
    assert again.next.mode is Mode.A


def not_below_position(stop: int, info: Any) -> int:
    if stop < info.data.get("position", 0):
        raise ValueError("stop is before the position")
    return stop


def test_fields_are_checked_together_by_a_validator() -> None:
    class Checked(StatefulIterator[int], kind="tests.one.checked"):
        position: Position[int] = 0
        stop: Annotated[int, AfterValidator(not_below_position)]

        def create_iter(self): ...

    with pytest.raises(ValidationError, match="stop is before the position"):
        Checked(stop=2, position=3)


# ------------------------------------------------------------------------------------------- mistakes in the class body


def define(**body: Any) -> Any:
    annotations = {name: value[0] for name, value in body.items() if isinstance(value, list)}
    values = {name: value[1] for name, value in body.items() if isinstance(value, list) and len(value) > 1}
    others = {name: value for name, value in body.items() if not isinstance(value, list)}

    class Wrong(Count, kind="tests.one.mistaken"):
        locals().update(values, **others)
        __annotations__ = annotations

    return Wrong


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"create_iter": [int]}, "the field 'create_iter' of .*Wrong has the name of a method or attribute of Count"),
        ({"get_state": [int]}, "the field 'get_state' of .*Wrong has the name of a method"),
        ({"State": [int]}, "the field 'State' of .*Wrong has the name of a method"),
        ({"build": [int]}, "the field 'build' of .*Wrong has a name that every state uses for itself: rename it"),
        ({"model_fields": [dict]}, "the field 'model_fields' of .*Wrong has a name that every state uses"),
        ({"half": [int, property(lambda self: 1)]}, "the field 'half' of .*Wrong has the name of a method"),
        ({"limit": 3}, r"Wrong.limit has no annotation: write 'limit: int = ...' for a field, 'limit: ClassVar\[int\]"),
        ({"stop": 3}, "Wrong.stop hides the field of the same name of a base class: annotate it, or rename it"),
        ({"stop": lambda self: 3}, "Wrong.stop hides the field of the same name"),
        ({"State": int}, "Wrong.State can't be defined beside a kind"),
        ({"limit": ["Unknown"]}, r"annotation of .*Wrong.limit can't be evaluated \(name 'Unknown' is not defined\)"),
    ],
    ids=[
        "create_iter",
        "get_state",
        "State",
        "build",
        "model_fields",
        "a property",
        "no annotation",
        "a field of the base",
        "a method for a field",
        "an attribute State",
        "an unknown name",
    ],
)
def test_a_mistake_in_the_class_body_is_an_error_at_its_definition(body: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        define(**body)


def test_a_field_can_not_be_called_state() -> None:
    with pytest.raises(TypeError, match="State can't be defined beside a kind"):

        class Stated(StatefulIterator[int], kind="tests.one.stated"):
            State: int


def test_a_method_that_is_annotated_too_is_refused() -> None:
    with pytest.raises(TypeError, match=r"the field 'stop' of .*Twice has the name of a method: rename one of them"):

        class Twice(StatefulIterator[int], kind="tests.one.twice"):
            stop: int

            def stop(self): ...


@pytest.mark.parametrize("kind", ["undotted", 3])
def test_a_kind_that_is_no_dotted_name_is_a_type_error(kind: Any) -> None:
    with pytest.raises(TypeError, match="kind must be a dotted name"):

        class Wrong(StatefulIterator[int], kind=kind): ...


def test_names_with_an_underscore_and_class_variables_are_no_fields() -> None:
    class Odd(Count, kind="tests.one.odd"):
        _hidden: "NotEvaluated" = 1  # noqa: F821
        SIZE: ClassVar[int] = 3
        OTHER: "ClassVar[int]" = 4

        @property
        def half(self) -> int:
            return 1

        class Inner: ...

        @staticmethod
        def helper() -> None: ...

    assert list(Odd.State.model_fields) == ["stop", "position"]
    assert copy.copy(Odd(stop=1)).stop == 1


# --------------------------------------------------------------------------------------------------------- in a loader


@pytest.mark.both_loops
async def test_in_a_loader_it_is_exact_through_a_checkpoint(executor_factory, tmp_path) -> None:
    pipeline = [Take(inner=Count(stop=9), n=7), in_mixture()]
    async with AsyncPrefetcher(pipeline, n_batches_to_prefetch=3, workers=executor_factory) as loader:
        expected = [item async for item in loader]
    assert len(expected) == 7 + 9
    async with AsyncPrefetcher(pipeline, n_batches_to_prefetch=3, workers=executor_factory) as loader:
        first = [await anext(loader) for _ in range(5)]
        await (await loader.get_state()).save(tmp_path / "state")
    state = await AsyncPrefetcherState.load(tmp_path / "state", expect=pipeline)
    async with state.build(workers=executor_factory) as loader:
        assert first + [item async for item in loader] == expected
    with pytest.raises(CheckpointError, match=r"shard 0.n: saved 7, given 8"):
        await AsyncPrefetcherState.load(tmp_path / "state", expect=[Take(inner=Count(stop=9), n=8), in_mixture()])


async def test_a_loader_takes_an_iterator_for_one_shard_though_it_is_iterable() -> None:
    async with AsyncPrefetcher(Count(stop=3)) as loader:
        assert [item async for item in loader] == [0, 1, 2]
    with pytest.raises(TypeError, match="shard 0 must be a StatefulIterator, not 0"):
        AsyncPrefetcher([*Count(stop=3)])


PROGRAM = """
import asyncio, sys
from asyncprefetch import AsyncPrefetcher, AsyncPrefetcherState, Position, StatefulIterator
from asyncprefetch.executors import ProcessExecutor


class Count(StatefulIterator[int], kind="program.count"):
    stop: int
    position: Position[int] = 0

    def create_iter(self):
        while self.position < self.stop:
            self.position += 1
            yield self.position - 1


def factory(number):
    return ProcessExecutor(start_method=sys.argv[1])


async def main():
    async with AsyncPrefetcher([Count(stop=4), Count(stop=2)], workers=factory) as loader:
        items = [await anext(loader) for _ in range(3)]
        state = await loader.get_state()
    restored = AsyncPrefetcherState.from_bytes(state.to_bytes())
    async with restored.build(workers=factory) as loader:
        print(items + [item async for item in loader])


if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
async def test_a_class_of_the_main_module_works_with_each_start_method(tmp_path, start_method: str) -> None:
    program = processes.launch(tmp_path, PROGRAM, start_method)
    out, errors = await asyncio.to_thread(program.communicate)
    assert (out, errors) == ("[0, 0, 1, 1, 2, 3]\n", "")


# ------------------------------------------------------------------------------------------ what a review has found


BUILT: list[int] = []


class Heavy(StatefulIterator[int]):
    """A two-class iterator that is built in a worker only."""

    class State:
        """No state of the library: a class of the user's own."""

    def __init__(self, position: int = 0) -> None:
        super().__init__()
        self.cache = self.State()
        self.position = position

    def get_state(self) -> IteratorState:
        return HeavyState(position=self.position)

    def create_iter(self) -> Iterator[int]:
        while self.position < 3:
            self.position += 1
            yield self.position - 1


class HeavyState(IteratorState, kind="tests.one.heavy"):
    position: Position[int]

    def build(self) -> Heavy:
        BUILT.append(self.position)
        return Heavy(self.position)


def test_iterators_of_a_pipeline_are_not_built_before_they_are_used() -> None:
    BUILT.clear()
    pipeline = LimitIterator(LoopingIterator(Heavy()), 5)
    AsyncPrefetcher(pipeline)
    state = pipeline.get_state()
    SamplingIterator({"a": Heavy()}, weights={"a": 1}, on_exhausted="restart").get_state()
    assert BUILT == []
    assert list(pipeline) == [0, 1, 2, 0, 1] == list(state.build())
    assert BUILT == [0, 0] * 2  # each epoch has one of its own


def test_a_two_class_iterator_may_have_a_class_called_state() -> None:
    assert list(Heavy()) == [0, 1, 2]
    assert_resumes_exactly(Heavy)

    class Derived(Heavy):
        pass

    assert list(Derived()) == [0, 1, 2]


def test_a_field_that_was_set_anew_is_the_one_in_the_state() -> None:
    iterator = LimitIterator(Heavy(), 5)
    iterator.inner = Heavy(2)
    assert list(iterator.get_state().build()) == [2]


@pytest.fixture
def built() -> list[int]:
    BUILT.clear()
    return BUILT


class Defaulted(StatefulIterator[int], kind="tests.one.defaulted"):
    inner: StatefulIterator[int] | None = None
    other: StatefulIterator[int] = Heavy(1)

    def create_iter(self) -> Iterator[int]:
        yield from self.inner or self.other


class Further(Defaulted, kind="tests.one.further"):
    more: int = 1


class Furthest(Further, kind="tests.one.furthest"): ...


@pytest.mark.parametrize("cls", [Defaulted, Further, Furthest])
def test_a_field_with_a_default_in_the_class_is_not_built_before_it_is_read(cls: Any, built: list[int]) -> None:
    iterator = cls(inner=Heavy(2))
    copies = [iterator, copy.copy(iterator), copy.deepcopy(iterator), pickle.loads(pickle.dumps(iterator))]
    assert (iterator.get_state().inner.position, iterator.get_state().other.position, built) == (2, 1, [])
    assert [list(each) for each in copies] == [[2]] * 4
    assert built == [2] * 4
    assert iterator.inner is iterator.inner
    assert list(cls()) == [1, 2]
    assert (cls.inner, list(Furthest.State.model_fields)) == (None, ["inner", "other", "more"])


def test_a_class_has_no_attribute_for_a_field_without_a_default() -> None:
    assert not hasattr(Take, "inner")
    assert not hasattr(Take.__new__(Take), "inner")
    with pytest.raises(AttributeError, match="type object 'Take' has no attribute 'inner'"):
        Take.inner  # noqa: B018


def test_fields_of_a_base_class_without_a_kind_are_built_when_they_are_read(built: list[int]) -> None:
    class Base(StatefulIterator[int]):
        inner: StatefulIterator[int] | None = None

        def create_iter(self) -> Iterator[int]:
            yield from self.inner or ()

    class WithKind(Base, kind="tests.one.with-kind"): ...

    iterator = WithKind(inner=Heavy(2))
    assert (iterator.get_state().inner.position, built) == (2, [])
    assert list(iterator) == [2]


class Delegating(Take[T], Generic[T], kind="tests.one.delegating"):
    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_an_iterator_may_delegate_attributes_to_the_iterator_in_a_field(built: list[int]) -> None:
    iterator = Delegating(inner=Heavy(), n=2)
    assert (iterator.get_state().inner.position, built) == (0, [])
    assert iterator.position == 0
    assert iterator.inner is iterator.inner
    assert list(iterator) == [0, 1]
    assert iterator.position == 2
    with pytest.raises(AttributeError, match="'Heavy' object has no attribute 'missing'"):
        iterator.missing  # noqa: B018


def test_only_fields_with_iterators_cost_more_than_a_plain_attribute() -> None:
    assert not hasattr(Take, "__getattr__")
    descriptor = vars(Take)["inner"]
    assert not hasattr(descriptor, "__set__")  # so the value in the instance comes first
    iterator = Take(inner=Count(stop=1), n=1)
    assert iterator.inner is vars(iterator)["inner"]
    del iterator.inner  # it is not built again: its position would be an earlier one
    assert not hasattr(iterator, "inner")


def test_a_failed_get_state_leaves_the_fields_as_they_were(built: list[int]) -> None:
    iterator = Defaulted(inner=Heavy(2))
    iterator.other = [(n for n in range(3))]
    with pytest.raises(TypeError, match=r"Defaulted\.other: a generator can't be copied"):
        iterator.get_state()
    assert (list(iterator), built) == ([2], [2])


Pair = NamedTuple("Pair", [("count", "Count"), ("n", int)])  # noqa: UP014


@dataclasses.dataclass
class PairData:
    count: "Count | None"


@dataclasses.dataclass
class PairOf(Generic[T]):
    one: T


class PairDict(TypedDict):
    count: Count


class PairModel(BaseModel):
    counts: list[StatefulIterator[int]]


@dataclasses.dataclass
class Linked:
    after: "Linked | None" = None


NewCount = NewType("NewCount", Count)
JSON = TypeAliasType("JSON", "dict[str, JSON] | int")
Nested = TypeAliasType("Nested", "list[Nested] | Count")
Named = TypeAliasType("Named", dict[str, T], type_params=(T,))
Same = TypeAliasType("Same", T, type_params=(T,))
Quoted = TypeVar("Quoted", bound="Count | int")


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ("deque[Count]", "Held.inner: iterators can be held in lists, tuples and dicts, not in collections.deque"),
        ("OrderedDict[str, Count]", "Held.inner: iterators can be held in lists, tuples and dicts, not in"),
        ("Sequence[Count]", "Held.inner: iterators can be held in lists, tuples and dicts, not in"),
        ("list[deque[Count] | None]", "Held.inner: iterators can be held in lists, tuples and dicts, not in"),
        ("list['Count']", "Held.inner: put the whole annotation in quotes, and not only a part of it"),
        ("Pair", "Held.inner: iterators can be held in lists, tuples and dicts, not in Pair$"),
        ("list[PairData]", "Held.inner: iterators can be held in lists, tuples and dicts, not in PairData$"),
        ("PairOf[Count]", r"Held.inner: iterators can be held in lists, tuples and dicts, not in \S*PairOf\["),
        ("PairDict", "Held.inner: iterators can be held in lists, tuples and dicts, not in PairDict$"),
        ("PairModel", "Held.inner: iterators can be held in lists, tuples and dicts, not in PairModel$"),
        ("dict[Count, int]", r"Held.inner: iterators .*, not in the keys of dict\[.*Count, int\]$"),
        ("dict[str, dict[NewCount, int]]", r"Held.inner: iterators .*, not in the keys of dict\["),
        ("set[NewCount]", r"Held.inner: iterators .*, not in set\["),
        ("deque[Named[Count]]", r"Held.inner: iterators .*, not in collections.deque\["),
        ("Nested | deque[Nested]", r"Held.inner: iterators .*, not in collections.deque\["),
        ("InstanceOf[Count]", "Held.inner: iterators .*, not in InstanceOf$"),
    ],
)
def test_iterators_in_other_types_are_refused(annotation: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        define_held(annotation)


def define_held(annotation: str) -> Any:
    class Held(StatefulIterator[int], kind="tests.one.held"):
        __annotations__ = {"inner": annotation}

        def create_iter(self) -> Iterator[int]:
            yield from self.inner

    return Held


@pytest.mark.parametrize(
    ("annotation", "wrap"),
    [
        ("Bounded", lambda count: count),
        ("Quoted", lambda count: count),
        ("list[Bounded]", lambda count: [count]),
        ("dict[str, tuple[Count, ...]]", lambda count: {"a": (count,)}),
        ("Count | None", lambda count: count),
        ("NewCount", lambda count: count),
        ("Annotated[list[Count], Field(min_length=1)]", lambda count: [count]),
        ("Nested", lambda count: [[count], count]),
        ("Named[Count]", lambda count: {"a": count}),
        ("Same[Count]", lambda count: count),
        ("list[Named[int] | Named[Count]]", lambda count: [{"a": count}]),
    ],
)
def test_iterators_in_these_are_built(annotation: str, wrap: Any) -> None:
    held = define_held(annotation)(inner=wrap(Count(stop=2)))
    assert "StatefulIterator" not in repr(held.get_state())
    assert leaves(held.inner) == [Count] * len(leaves(wrap(0)))
    assert leaves(held.get_state().inner) == [Count.State] * len(leaves(wrap(0)))
    assert_items_equal(held.get_state().build().get_state(), held.get_state())


def leaves(value: Any) -> list[type]:
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for part in value for leaf in leaves(part)] if isinstance(value, list | tuple) else [type(value)]


@pytest.mark.parametrize(
    "annotation",
    [
        "Callable[[Count], int]",
        "Callable[..., list[Count]] | None",
        "type[Count]",
        "Literal['Count']",
        "Take.State",
        "list[IteratorState]",
        "JSON",
        "Linked",
        "PairOf[int]",
        "Named[int]",
        "Plain",
        "Any",
    ],
)
def test_an_annotation_without_iterators_is_accepted(annotation: str) -> None:
    assert vars(define_held(annotation)).get("inner") is None


def test_a_dataclass_in_a_function_may_name_itself() -> None:
    @dataclasses.dataclass
    class Local:
        after: "Local | None" = None

    class OfLocal(StatefulIterator[int], kind="tests.one.of-local"):
        local: Local

        def create_iter(self): ...

    assert OfLocal(local=Local(Local())).get_state().local == Local(Local())


def test_a_type_variable_whose_bound_can_not_be_evaluated_is_named() -> None:
    unknown = TypeVar("unknown", bound="Unknown")  # noqa: F821

    with pytest.raises(
        TypeError, match=r"OfUnknown\.items: unknown can't be evaluated \(name 'Unknown' is not defined\)"
    ):

        class OfUnknown(StatefulIterator[int], kind="tests.one.of-unknown"):
            items: list[unknown]

            def create_iter(self): ...


def test_a_function_and_a_class_of_iterators_are_held_as_they_are() -> None:
    held = define_held("tuple[type[Count], Callable[[Count], int]]")(inner=(Count, double))
    assert held.inner == (Count, double) == held.get_state().inner


@pytest.mark.parametrize(
    ("validator", "container"),
    [
        (deque, "deque"),
        (lambda counts: Pair(counts[0], 1), "Pair"),
        (lambda counts: PairData(counts[0]), "PairData"),
        (lambda counts: OrderedDict(a=counts[0]), "OrderedDict"),
    ],
    ids=["deque", "named tuple", "dataclass", "ordered dict"],
)
def test_a_validator_that_puts_iterators_into_another_container_is_an_error(validator: Any, container: str) -> None:
    class Hiding(StatefulIterator[int], kind="tests.one.hiding"):
        counts: Annotated[list[Count], AfterValidator(validator)]

        def create_iter(self): ...

    message = f"Hiding.counts: a {container} can't hold iterators: hold them in a list, a tuple or the values of a dict"
    with pytest.raises(TypeError, match=message):
        Hiding(counts=[Count(stop=1)])

    iterator = OfCounts(counts=[])
    iterator.counts = deque([Count(stop=1)])
    with pytest.raises(TypeError, match=r"OfCounts\.counts: a deque can't hold iterators"):
        iterator.get_state()


def test_a_validator_may_make_the_iterator() -> None:
    class Made(StatefulIterator[int], kind="tests.one.made"):
        count: Annotated[Count, BeforeValidator(lambda given: Count(stop=given) if isinstance(given, int) else given)]

        def create_iter(self) -> Iterator[int]:
            return iter(self.count)

    assert list(Made(count=2).get_state().build()) == [0, 1]


def test_a_state_class_that_is_borrowed_is_not_made_from_the_fields() -> None:
    class Borrowing(StatefulIterator[int]):
        State = Count.State

        def __init__(self, stop: int) -> None:
            super().__init__()
            self.stop = stop

        def get_state(self) -> IteratorState:
            return self.State(stop=self.stop)

        def create_iter(self) -> Iterator[int]:
            return iter(range(self.stop))

    assert list(Borrowing(2)) == [0, 1] == list(Borrowing(2).get_state().build())
    assert list(Take(inner=Borrowing(2), n=1)) == [0]

    class Mistaken(StatefulIterator[int]):
        State = Count.State

        def create_iter(self): ...

    with pytest.raises(TypeError, match=r"Mistaken has no kind of its own, .*, or define get_state\(\)"):
        Mistaken()

    class Counting(Count):
        State = Take.State

        def get_state(self) -> IteratorState:
            return super().get_state()

    assert type(Counting(stop=1).get_state()) is Count.State


def test_get_state_of_the_base_class_needs_fields() -> None:
    class Calls(StatefulIterator[int]):
        def get_state(self) -> IteratorState:
            return super().get_state()

        def create_iter(self): ...

    with pytest.raises(TypeError, match=r"Calls has no kind of its own, .*, or define get_state\(\)"):
        Calls().get_state()


@pytest.mark.parametrize(
    ("base", "keywords", "message"),
    [
        (
            StatefulIterator[int],
            {"verison": 2},
            r"^Mistyped has the unknown class keyword 'verison'; did you mean 'version'\? "
            "The keywords are kind, version, aliases, init$",
        ),
        (
            IteratorState,
            {"verison": 2},
            r"^Mistyped has the unknown class keyword 'verison'; did you mean 'version'\? "
            "The keywords are kind, version, aliases and those of pydantic.ConfigDict$",
        ),
        (IteratorState, {"frozn": True}, r"'frozn'; did you mean 'frozen'\?"),
        (StatefulIterator[int], {"x": 2}, r"^Mistyped has the unknown class keyword 'x'\. The keywords are"),
    ],
    ids=["iterator", "state", "option of pydantic", "nothing like it"],
)
def test_an_unknown_class_keyword_is_an_error_that_shows_the_known_ones(
    base: Any, keywords: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):

        class Mistyped(base, kind="tests.one.mistyped", **keywords):
            __qualname__ = "Mistyped"


def test_class_keywords_of_another_base_class_are_passed_on() -> None:
    class Mixin:
        def __init_subclass__(cls, colour: str = "", **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            cls.colour = colour

    class Mixed(StatefulIterator[int], Mixin, kind="tests.one.mixed", colour="red"):
        colour: ClassVar[str]

        def create_iter(self): ...

    class MixedState(IteratorState, Mixin, kind="tests.one.mixed-state", colour="red"):
        colour: ClassVar[str]

    assert (Mixed.colour, MixedState.colour) == ("red", "red")


async def asynchronous(self: Any) -> Any: ...


async def asynchronous_generator(self: Any) -> Any:
    yield 1


def returns_nothing(self: Any) -> Any: ...


ASYNCHRONOUS = r"\S*Wrong\.create_iter\(\) is asynchronous, and a worker has no event loop: write it with 'def'"
NO_ITERATOR = r"\S*Wrong\.create_iter\(\) must return an iterator, not None: use 'yield' in it"
wrong_iterators = pytest.mark.parametrize(
    ("function", "message"),
    [(asynchronous, ASYNCHRONOUS), (asynchronous_generator, ASYNCHRONOUS), (returns_nothing, NO_ITERATOR)],
    ids=["coroutine", "asynchronous generator", "None"],
)


class Wrong(StatefulIterator[int], kind="tests.one.wrong-iterator"):
    function: Callable[..., Any]

    def create_iter(self) -> Any:
        return self.function(self)


@wrong_iterators
def test_a_create_iter_that_returns_no_iterator_is_an_error_that_names_the_class(function: Any, message: str) -> None:
    iterator = Wrong(function=function)
    pipelines = [iterator, LimitIterator(iterator, 2), MapIterator(iterator, double)]
    for each in pipelines:
        with pytest.raises(TypeError, match=message):
            list(each)
    with pytest.raises(TypeError, match=message):
        assert_resumes_exactly(lambda: iterator)


@wrong_iterators
async def test_a_worker_names_the_class_whose_create_iter_returns_no_iterator(function: Any, message: str) -> None:
    async with AsyncPrefetcher(Wrong(function=function)) as loader:
        with pytest.raises(ProducerError, match=rf"\(create_iter\): TypeError: {message}"):
            await anext(loader)


def test_a_version_needs_a_kind() -> None:
    with pytest.raises(TypeError, match="version and aliases belong to a kind"):

        class Versioned(StatefulIterator[int], version=2): ...


def test_a_subclass_of_a_library_iterator_needs_a_kind_or_a_state_of_its_own() -> None:
    class Renamed(LimitIterator[int]): ...

    with pytest.raises(TypeError, match="has no kind"):
        Renamed(Heavy(), 3)

    class Stated(LimitIterator[int]):
        def get_state(self) -> IteratorState:
            return HeavyState(position=self.yielded)

    assert list(Stated(Heavy(), 2)) == [0, 1]


class Unbuildable(StatefulIterator[int], kind="tests.one_class.unbuildable"):
    def post_init(self) -> None:
        raise AttributeError("no such source")

    def create_iter(self) -> Iterator[int]:
        yield 0


class Around(StatefulIterator[int], kind="tests.one_class.around"):
    inner: StatefulIterator[int]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"asked for {name}")

    def create_iter(self) -> Iterator[int]:
        yield from self.inner


def test_an_attribute_error_while_an_iterator_of_a_field_is_built_is_not_taken_for_a_missing_field() -> None:
    around = Around(inner=Unbuildable.State())
    with pytest.raises(RuntimeError, match=r"Around\.inner can't be built: no such source"):
        around.inner  # noqa: B018
