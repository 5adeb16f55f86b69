"""An iterator in the one-class form: its annotated fields are its state."""

import asyncio
import copy
import functools
import json
import pickle
from collections import OrderedDict, deque  # noqa: F401 - annotations name them
from collections.abc import Callable, Iterator, Sequence  # noqa: F401
from enum import Enum
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar  # noqa: F401

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import AfterValidator, Field, ValidationError
from typing_extensions import TypeAliasType

from asyncprefetch import (
    AsyncPrefetcher,
    AsyncPrefetcherState,
    CheckpointError,
    IteratorState,
    Position,
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
        (lambda: Count(stop=1, begin=2), r"for Count\nbegin\n  Extra inputs are not permitted"),
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


def test_a_field_that_can_not_be_copied_is_named() -> None:
    iterator = Holding(thing=1)
    iterator.thing = (n for n in range(3))
    with pytest.raises(TypeError, match="generator") as caught:
        iterator.get_state()
    assert "copying the field 'thing' of Holding" in caught.value.__notes__[0]


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

    with pytest.raises(AttributeError, match="stop") as caught:
        Forgets().get_state()
    assert "an __init__ did not call super().__init__" in caught.value.__notes__[0]


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


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ("deque[Count]", "Held.inner: iterators can be held in lists, tuples and dicts, not in collections.deque"),
        ("OrderedDict[str, Count]", "Held.inner: iterators can be held in lists, tuples and dicts, not in"),
        ("Sequence[Count]", "Held.inner: iterators can be held in lists, tuples and dicts, not in"),
        ("list[deque[Count] | None]", "Held.inner: iterators can be held in lists, tuples and dicts, not in"),
        ("list['Count']", "Held.inner: put the whole annotation in quotes, and not only a part of it"),
    ],
)
def test_iterators_in_other_containers_are_refused(annotation: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        define_held(annotation)


def define_held(annotation: str) -> Any:
    class Held(StatefulIterator[int], kind="tests.one.held"):
        __annotations__ = {"inner": annotation}

        def create_iter(self) -> Iterator[int]:
            yield from self.inner

    return Held


@pytest.mark.parametrize(
    "annotation", ["Bounded", "list[Bounded]", "dict[str, tuple[Count, ...]]", "Count | None", "Literal['Count']"]
)
def test_iterators_in_these_are_built(annotation: str) -> None:
    values: dict[str, Any] = {
        "Bounded": Count(stop=2),
        "list[Bounded]": [Count(stop=2)],
        "dict[str, tuple[Count, ...]]": {"a": (Count(stop=2),)},
        "Count | None": Count(stop=2),
        "Literal['Count']": "Count",
    }
    iterator = define_held(annotation)(inner=values[annotation])
    assert type(iterator.inner) is type(values[annotation])
    assert_items_equal(iterator.get_state().build().get_state(), iterator.get_state())


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
