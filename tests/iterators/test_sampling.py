from __future__ import annotations

import math
import time
from collections import Counter
from fractions import Fraction
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncprefetch import IteratorState, register
from asyncprefetch.base import compare_configuration
from asyncprefetch.iterators import FilterIterator, LoopingIterator, SamplingIterator, from_iterable, sampling
from asyncprefetch.testing import assert_resumes_exactly
from tests.iterators import sources
from tests.iterators.plans import mixture_model
from tests.iterators.sources import ListIterator, drain


@register("tests.sampling.broken")
def broken() -> list[Any]:
    raise KeyError("row 3")


@register("tests.sampling.even")
def even(item: int) -> bool:
    return item % 2 == 0


def mixture(
    items: dict[str, list[Any]], weights: dict[str, Any], seed: int = 0, on_exhausted: Any = "stop"
) -> SamplingIterator[Any]:
    return SamplingIterator(
        {name: ListIterator(given) for name, given in items.items()}, weights, seed=seed, on_exhausted=on_exhausted
    )


def endless(weights: dict[str, Any], seed: int = 0) -> SamplingIterator[str]:
    """Return a mixture that yields the names of its sources without end."""
    return mixture({name: [name] for name in weights}, weights, seed, "restart")


def first(iterator: Any, n: int) -> list[Any]:
    return list(islice(iterator.create_iter(), n))


given_weights = st.sampled_from([0, 1, 3, 0.1, 1 / 3, 1e-300, 1e300, 5e-324])


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    weights=st.lists(given_weights, min_size=4, max_size=4),
    seed=st.integers(0, 2**64 - 1),
    mode=st.sampled_from(["stop", "drop"]),
)
def test_yields_the_model_and_resumes_exactly(lengths: list[int], weights: list[float], seed: int, mode: str) -> None:
    items = {f"s{i}": [f"{i}:{k}" for k in range(n)] for i, n in enumerate(lengths)}
    used = weights[: len(lengths)]
    if not any(used):
        used[0] = 1
    given = dict(zip(items, used, strict=True))
    assert drain(mixture(items, given, seed, mode)) == mixture_model(list(items.values()), used, seed, mode, 0)
    assert_resumes_exactly(lambda: mixture(items, given, seed, mode))


def test_across_the_border_of_two_chunks_it_yields_the_model_and_resumes_exactly() -> None:
    items = {"a": list(range(900)), "b": list(range(1200))}
    expected = mixture_model(list(items.values()), [1, 2], 3, "drop", 0)
    iterator = mixture(items, {"a": 1, "b": 2}, 3, "drop")
    assert len(expected) == 2100
    assert first(iterator, 1020) == expected[:1020]
    for position in range(1020, 1030):
        state = IteratorState.model_validate_json(iterator.get_state().model_dump_json())
        assert drain(state.build()) == expected[position:]
        assert next(iterator.create_iter()) == expected[position]


@pytest.mark.parametrize("mode", ["stop", "drop", "restart"])
def test_resumes_exactly_wherever_chunks_end(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_CHUNK", 3)
    items = {"a": [1, 2, 3], "b": [], "c": [4, 5]} if mode != "restart" else {"a": [1, 2, 3], "c": [4, 5]}
    weights = {"c": 2, "a": 1, "b": 0.5} if mode != "restart" else {"c": 2, "a": 1}
    assert_resumes_exactly(lambda: mixture(items, weights, 5, mode), max_items=14)


def test_these_draws_are_for_ever() -> None:
    assert "".join(first(endless({"a": 3, "b": 1, "c": 0.7}, seed=7), 24)) == "acaaaaabaaaaaabaaaaaaaab"


def test_contributes_by_weight() -> None:
    weights = {"a": 5, "b": 0, "c": 3.5, "d": np.float32(1.5)}
    iterator = endless(weights, seed=1)
    counts = Counter(first(iterator, 20_000))
    state = iterator.get_state()
    assert {name: n for name, n in zip(state.names, state.drawn, strict=True) if n} == dict(counts)
    assert state.draws == sum(state.drawn) == 20_000
    for weight, n in zip(state.weights, state.drawn, strict=True):
        assert abs(n / 20_000 - weight / 10) < 0.01


def test_only_the_proportion_of_the_weights_counts_and_the_order_of_the_sources() -> None:
    reference = first(endless({"a": 1, "b": 3}), 50)
    assert first(endless({"a": Fraction(1, 4), "b": 0.75}), 50) == reference
    swapped = SamplingIterator({name: LoopingIterator(ListIterator([name])) for name in "ab"}, weights={"b": 3, "a": 1})
    assert first(swapped, 50) == reference
    assert first(endless({"b": 3, "a": 1}), 50) != reference


def test_stop_ends_where_an_ended_source_is_drawn_again() -> None:
    items = drain(mixture({"a": ["a"] * 3, "b": ["b"] * 50}, {"a": 1, "b": 1}))
    assert items.count("a") == 3
    assert 0 < items.count("b") < 50


def test_drop_yields_every_item_of_every_source_that_has_a_weight() -> None:
    iterator = mixture(
        {"a": ["a"] * 3, "b": ["b"] * 50, "c": ["c"], "d": []}, {"a": 1, "b": 1, "c": 0, "d": 9}, 0, "drop"
    )
    assert Counter(drain(iterator)) == {"a": 3, "b": 50}
    state = iterator.get_state()
    assert state.drawn == (3, 50, 0, 0)
    assert state.ended == (True, True, False, True)
    assert state.draws == 53 + 3


def test_after_a_drop_the_others_keep_their_proportion() -> None:
    endless_ones = {name: LoopingIterator(ListIterator([name])) for name in "bc"}
    sampled = SamplingIterator(
        {"a": ListIterator(["a"] * 10), **endless_ones}, {"a": 8, "b": 3, "c": 1}, on_exhausted="drop"
    )
    counts = Counter(first(sampled, 4010))
    assert counts["a"] == 10
    assert abs(counts["b"] / 4000 - 0.75) < 0.02


def test_restart_begins_a_source_again_where_it_was_when_it_was_given() -> None:
    source = ListIterator([0, 1, 2])
    next(source.create_iter())
    sampled = SamplingIterator({"a": source}, {"a": 1}, on_exhausted="restart")
    assert first(sampled, 5) == [1, 2, 1, 2, 1]
    assert sampled.get_state().sources[0].epoch == 2  # type: ignore[attr-defined]


def test_restarting_a_source_without_items_is_an_error_that_names_it() -> None:
    iterator = mixture({"a": [1], "empty": []}, {"a": 1, "empty": 1}, 0, "restart")
    with pytest.raises(ValueError, match=r"epoch 0 of .* yielded nothing") as caught:
        first(iterator, 100)
    assert caught.value.__notes__ == ["raised in source 'empty' of a SamplingIterator"]


def test_an_error_out_of_a_source_names_it_and_counts_no_draw() -> None:
    iterator = SamplingIterator({"a": ListIterator([1] * 9), "b": from_iterable(broken)}, {"a": 1, "b": 1})
    with pytest.raises(KeyError) as caught:
        drain(iterator)
    assert caught.value.__notes__ == ["raised in source 'b' of a SamplingIterator"]
    assert iterator.get_state().draws == sum(iterator.get_state().drawn)


class Unbuildable(IteratorState, kind="tests.sampling.unbuildable"):
    pass


def test_a_source_of_weight_zero_is_not_even_built() -> None:
    source = ListIterator([])
    source.get_state = Unbuildable  # type: ignore[method-assign, assignment]
    for mode in ("stop", "drop"):
        sampled = SamplingIterator(
            {"a": source, "b": ListIterator([1, 2]), "c": source}, {"a": 0, "b": 1, "c": 0}, on_exhausted=mode
        )
        assert drain(sampled) == [1, 2]


def test_a_number_on_the_border_of_two_shares_chooses_no_source_of_weight_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "uniforms", lambda seed, block, n: np.array([0, 0.5, 1 - 2.0**-53, 0.25]))
    monkeypatch.setattr(sampling, "_CHUNK", 4)
    weights = {"a": 0, "b": 1, "c": 0, "d": 1, "e": 0}
    assert first(endless(weights), 5) == ["b", "d", "d", "b", "b"]


def test_the_end_of_a_source_is_in_the_state_whether_or_not_one_asked_for_it_before() -> None:
    def make() -> SamplingIterator[int]:
        # A filter at its end has read past its last item.
        filtered = FilterIterator(ListIterator([2, 4, 5, 7]), even)
        return SamplingIterator({"a": filtered, "b": ListIterator([1] * 6)}, {"a": 3, "b": 1}, on_exhausted="drop")

    assert_resumes_exactly(make)
    asked, not_asked = make(), make()
    for _ in asked.create_iter():
        asked.get_state()
    drain(not_asked)
    assert asked.get_state() == not_asked.get_state()


def test_one_iterator_can_be_two_sources() -> None:
    source = ListIterator([1, 2])
    assert sorted(drain(SamplingIterator({"a": source, "b": source}, {"a": 1, "b": 1}, on_exhausted="drop"))) == [
        1,
        1,
        2,
        2,
    ]


def test_the_order_of_the_sources_survives_a_file() -> None:
    state = endless({"b": 1, "a": 2, "c": 0}).get_state()
    read: Any = IteratorState.model_validate_json(state.model_dump_json())
    assert read.names == ("b", "a", "c")
    assert read == state


def test_only_sources_that_were_drawn_from_are_asked_for_their_states(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [ListIterator([i] * 9) for i in range(3)]
    waiting = iter(asked)
    monkeypatch.setattr(sources, "ListIterator", lambda *args: next(waiting))
    sampled = SamplingIterator({str(i): it for i, it in enumerate(asked)}, {"0": 1, "1": 1, "2": 0})
    [chosen] = first(sampled, 1)
    sampled.get_state()
    sampled.get_state()
    assert [it.asked for it in asked] == [1 + (i == chosen) for i in range(3)]


def test_get_state_with_8_sources_takes_well_under_a_millisecond_and_little_room() -> None:
    sampled = endless({f"source {i}": i + 1 for i in range(8)})
    items, shortest = sampled.create_iter(), math.inf
    for _ in range(20):
        list(islice(items, 50))
        began = time.perf_counter()
        sampled.get_state()
        shortest = min(shortest, time.perf_counter() - began)
    assert shortest < 0.5e-3
    assert len(sampled.get_state().model_dump_json()) < 8_000


NAMES = "sources and weights must have the same names; got "


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ({"a": -1, "b": 1}, ValueError, "the weight of 'a' is -1: a weight must be a finite number, 0 or more"),
        ({"a": 1, "b": math.nan}, ValueError, "the weight of 'b' is nan: a weight must be"),
        ({"a": 1, "b": math.inf}, ValueError, "the weight of 'b' is inf: a weight must be"),
        ({"a": 10**400, "b": 1}, ValueError, "the weight of 'a' is 1000.*: a weight must be"),
        ({"a": 0, "b": 0.0}, ValueError, "all weights are zero"),
        ({"a": 1.7e308, "b": 1.7e308}, ValueError, "too large to be added up"),
        ({"a": "3", "b": 1}, TypeError, "the weight of 'a' must be a number, not '3'"),
        ({"a": None, "b": 1}, TypeError, "the weight of 'a' must be a number, not None"),
        ({"a": 1}, ValueError, NAMES + "'b' without a weight"),
        ({"a": 1, "b": 1, "c": 1}, ValueError, NAMES + "'c' with a weight, but no source"),
        ({"a": 1, "c": 1}, ValueError, NAMES + "'b' without a weight and 'c' with a weight, but no source"),
        ({"a": 1, 2: 1}, TypeError, "weights are named by strings, not 2"),
        ([1, 2], TypeError, r"weights must be a mapping by name, not \[1, 2\]"),
    ],
)
def test_refuses_weights_that_say_nothing(weights: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mixture({"a": [1], "b": [2]}, weights)


def test_refuses_sources_that_are_none() -> None:
    with pytest.raises(ValueError, match="no sources: give at least one"):
        SamplingIterator({}, {})
    with pytest.raises(TypeError, match="SamplingIterator's source 'a' must be a StatefulIterator"):
        SamplingIterator({"a": [1]}, {"a": 1})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="sources are named by strings, not 3"):
        SamplingIterator({3: ListIterator([1])}, {3: 1})  # type: ignore[dict-item]


@pytest.mark.parametrize("given", ["loop", None, ["stop"]])
def test_refuses_another_way_to_go_on(given: Any) -> None:
    with pytest.raises(ValueError, match="on_exhausted must be 'stop', 'drop' or 'restart', not"):
        mixture({"a": [1]}, {"a": 1}, 0, given)


def test_a_state_of_which_the_parts_do_not_fit_is_refused() -> None:
    text = mixture({"a": [1]}, {"a": 1}).get_state().model_dump_json().replace('["a"]', '["a","b"]')
    with pytest.raises(Exception, match="2 names, but a different number of weights, sources, or counts"):
        IteratorState.model_validate_json(text)


def test_names_weights_and_ways_are_configuration_and_the_draws_are_not() -> None:
    items = {"a": [1, 2, 3], "b": [4]}
    saved = mixture(items, {"a": 1, "b": 2})
    first(saved, 2)
    assert compare_configuration(saved.get_state(), mixture(items, {"a": 1, "b": 2}).get_state(), "it") == []
    lines = compare_configuration(saved.get_state(), mixture(items, {"a": 1, "b": 3}, 1, "drop").get_state(), "it")
    assert [line.partition(":")[0] for line in lines] == ["it.weights[1]", "it.seed", "it.on_exhausted"]
    swapped = mixture(dict(reversed(items.items())), {"a": 1, "b": 2}).get_state()
    assert "it.names[0]" in {line.partition(":")[0] for line in compare_configuration(saved.get_state(), swapped, "it")}
