from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyncprefetch import AsyncPrefetcher, AsyncPrefetcherState, CheckpointError, IteratorState, register
from asyncprefetch.base import compare_configuration
from asyncprefetch.iterators import from_iterable
from asyncprefetch.testing import assert_resumes_exactly
from tests.conftest import inline
from tests.inside import encode_state
from tests.iterators.sources import drain

_given: list[Any] = []


@register("tests.from_iterable.given")
def given_items() -> list[Any]:
    return _given


@register("tests.from_iterable.arrays")
def arrays() -> Iterator[Any]:
    for i in range(5):
        yield {"x": np.full(i, i, np.float32), "i": i}


@register("tests.from_iterable.broken")
def breaks_at_two() -> Iterator[int]:
    yield 0
    yield 1
    raise KeyError("two")


@register("tests.from_iterable.no_iterable")
def returns_an_int() -> Any:
    return 7


@register("tests.from_iterable.argument")
def needs_an_argument(n: int) -> list[int]:
    return list(range(n))


@register("tests.from_iterable.default")
def has_a_default(n: int = 3) -> range:
    return range(n)


@pytest.fixture
def given() -> Iterator[list[Any]]:
    _given[:] = [1, None, "three", (4.0, float("nan"))]
    yield _given
    _given.clear()


def test_yields_what_the_factory_gives_in_its_order(given: list[Any]) -> None:
    assert drain(from_iterable(given_items)) == given


@pytest.mark.parametrize("factory", [given_items, arrays, has_a_default])
def test_resumes_exactly(factory: Any, given: list[Any]) -> None:
    assert_resumes_exactly(lambda: from_iterable(factory))


def test_of_an_empty_iterable_resumes_exactly(given: list[Any]) -> None:
    given.clear()
    assert_resumes_exactly(lambda: from_iterable(given_items))


def test_its_state_names_the_factory_by_its_tag() -> None:
    text = from_iterable(arrays).get_state().model_dump_json()
    assert "tests.from_iterable.arrays" in text
    assert "test_from_iterable" not in text


def test_goes_on_at_the_item_whose_making_failed() -> None:
    iterator = from_iterable(breaks_at_two)
    items = iterator.create_iter()
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(KeyError):
        next(items)
    assert iterator.get_state().position == 2
    with pytest.raises(KeyError):
        next(iterator.create_iter())


def test_refuses_to_resume_an_iterable_that_became_shorter(given: list[Any]) -> None:
    iterator = from_iterable(given_items)
    items = iterator.create_iter()
    for _ in range(3):
        next(items)
    state = iterator.get_state()
    del given[1:]
    with pytest.raises(ValueError, match=r"'tests.from_iterable.given' gave 1 items, fewer than the 3"):
        drain(state.build())


def test_refuses_a_factory_that_is_not_registered() -> None:
    def unknown() -> list[int]:
        return []

    with pytest.raises(TypeError, match=r"unknown is not registered.*@asyncprefetch.register\('your.tag'\)"):
        from_iterable(unknown)


@pytest.mark.parametrize("factory", [[1, 2], 7, None])
def test_refuses_what_is_not_callable(factory: Any) -> None:
    with pytest.raises(TypeError, match="takes a function that returns an iterable"):
        from_iterable(factory)


def test_refuses_a_factory_that_needs_arguments() -> None:
    with pytest.raises(TypeError, match=r"must be callable without arguments.*'n'"):
        from_iterable(needs_an_argument)  # type: ignore[arg-type]


def test_refuses_a_factory_that_returns_no_iterable() -> None:
    with pytest.raises(TypeError, match=r"'tests.from_iterable.no_iterable' must return an iterable, not 7"):
        drain(from_iterable(returns_an_int))


def test_the_factory_is_configuration_and_the_position_is_not() -> None:
    started = from_iterable(arrays)
    next(started.create_iter())
    assert compare_configuration(started.get_state(), from_iterable(arrays).get_state(), "it") == []
    differing = compare_configuration(started.get_state(), from_iterable(has_a_default).get_state(), "it")
    assert [line.partition(":")[0] for line in differing] == ["it.factory"]


def test_a_position_below_zero_is_no_state() -> None:
    text = from_iterable(arrays).get_state().model_dump_json().replace('"position":0', '"position":-1')
    with pytest.raises(Exception, match="position"):
        IteratorState.model_validate_json(text)


# ------------------------------------------------------------------------------------- one function for several shards


@register("tests.from_iterable.rows")
def rows(table: str, keep: Any = None, *, shard: int, count: int = 2) -> Iterator[str]:
    yield from (f"{table}{i}" for i in range(shard, 8, count) if keep is None or keep(i))


@register("tests.from_iterable.multiple")
def is_multiple(of: int, number: int) -> bool:
    return number % of == 0


@register("tests.from_iterable.takes_all")
def takes_all(paths: list[str]) -> Iterator[str]:
    while paths:
        yield paths.pop(0)


@register("tests.from_iterable.Range")
@dataclass
class Range:
    stop: int

    def __call__(self) -> range:
        return range(self.stop)


PARTIALS = [
    (partial(rows, "t", shard=1), ["t1", "t3", "t5", "t7"]),
    (partial(partial(rows, "t"), shard=0, count=4), ["t0", "t4"]),
    (partial(rows, "t", partial(is_multiple, 3), shard=0, count=1), ["t0", "t3", "t6"]),
    (partial(takes_all, ["a", "b", "c"]), ["a", "b", "c"]),
    (partial(Range(3)), [0, 1, 2]),
    (Range(3), [0, 1, 2]),
]


@pytest.mark.parametrize(("factory", "items"), PARTIALS)
def test_a_factory_with_bound_arguments_resumes_exactly(factory: Any, items: list[Any]) -> None:
    assert drain(from_iterable(factory)) == items
    assert_resumes_exactly(lambda: from_iterable(factory))


@pytest.mark.parametrize(("factory", "items"), PARTIALS)
def test_a_state_with_bound_arguments_is_written_and_read_exactly(factory: Any, items: list[Any]) -> None:
    iterator = from_iterable(factory)
    next(iter(iterator))
    state = iterator.get_state()
    leaves: list[bytes] = []
    read = IteratorState.model_validate_json(state.model_dump_json())
    assert encode_state(read, leaves) == encode_state(state, leaves)
    assert drain(read.build()) == drain(state.build()) == items[1:]


def test_a_list_that_the_caller_or_the_factory_changes_does_not_change_the_state() -> None:
    paths = ["a", "b"]
    iterator = from_iterable(partial(takes_all, paths))
    paths.append("c")
    before = iterator.get_state()
    assert drain(iterator) == ["a", "b"]
    assert drain(before.build()) == ["a", "b"]


@pytest.mark.both_loops
async def test_one_function_for_several_shards_goes_through_save_load_and_build(tmp_path: Path) -> None:
    def shards(table: str = "t", count: int = 3) -> list[Any]:
        return [from_iterable(partial(rows, table, shard=i, count=count)) for i in range(3)]

    path = tmp_path / "state"
    async with AsyncPrefetcher(shards(), workers=inline) as loader:
        seen = [await anext(loader) for _ in range(4)]
        await (await loader.get_state()).save(path)
    state = await AsyncPrefetcherState.load(path, expect=shards())
    assert AsyncPrefetcherState.from_bytes(state.to_bytes()) == state
    async with state.build(workers=inline) as loader:
        seen += [item async for item in loader]
    assert seen == [f"t{i}" for i in range(8)]
    with pytest.raises(CheckpointError) as caught:
        await AsyncPrefetcherState.load(path, expect=shards("u", 3))
    assert "shard 2.factory.args[0]: saved 't', given 'u'" in str(caught.value)
    with pytest.raises(CheckpointError) as caught:
        await AsyncPrefetcherState.load(path, expect=shards("t", 4))
    lines = str(caught.value).splitlines()[1:]
    assert [line.strip(" -") for line in lines] == [
        f"shard {i}.factory.keywords['count']: saved 3, given 4" for i in range(3)
    ]


def test_a_difference_of_factories_is_shown_by_their_tags() -> None:
    saved, given = from_iterable(arrays).get_state(), from_iterable(has_a_default).get_state()
    assert compare_configuration(saved, given, "it") == [
        "it.factory: saved 'tests.from_iterable.arrays', given 'tests.from_iterable.default'"
    ]


def test_an_error_names_the_factory_and_what_it_binds() -> None:
    iterator = from_iterable(partial(takes_all, ["a", "b"]))
    iterator.position = 3
    with pytest.raises(ValueError, match=r"the factory 'tests.from_iterable.takes_all' with \['a', 'b'\] gave 2 items"):
        drain(iterator)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (
            lambda: [1],
            r"from_iterable's factory: .*<lambda> is not registered.*: write it as a function at the top level",
        ),
        (partial(lambda n: [n], 1), r"<lambda> is not registered.*: write it as a function at the top level"),
        (partial(rows, "t", lambda i: i, shard=0), r"args\[1\], which it binds: .*<lambda> is not registered"),
        (partial(rows, "t", shard={1}), r"keywords\['shard'\], which it binds: a checkpoint can't hold a builtins.set"),
        (partial(rows, "t"), r"must be callable without arguments.*'shard'"),
        (partial(rows, "t", shrad=0), r"can't take the arguments that the partial binds: .*'shrad'"),
    ],
)
def test_refuses_a_factory_that_no_checkpoint_can_hold_or_that_can_not_be_called(factory: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        from_iterable(factory)
