"""Whole pipelines, composed as users compose them."""

from __future__ import annotations

import json
import pickle
import re
from functools import partial
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncprefetch import AsyncPrefetcher, AsyncPrefetcherState, IteratorState, StatefulIterator, iterators
from asyncprefetch.iterators import (
    BatchIterator,
    ByteTokenizer,
    DocumentFileIterator,
    FilterIterator,
    LimitIterator,
    LoopingIterator,
    MapIterator,
    PackingIterator,
    PreprocessIterator,
    SamplingIterator,
    ShuffleIterator,
    from_iterable,
)
from asyncprefetch.iterators.text import packing
from asyncprefetch.testing import assert_items_equal, assert_resumes_exactly
from tests.iterators.plans import Plan, joined, labelled, marked, numbers, passes, plans, write_corpus
from tests.iterators.sources import ListIterator, drain

texts = st.lists(st.text(max_size=12), min_size=1, max_size=4)
tokenizers = st.builds(ByteTokenizer, bos=st.booleans(), eos=st.booleans())


@settings(max_examples=40, deadline=None)
@given(
    texts=texts,
    tokenizer=tokenizers,
    epochs=st.integers(1, 3),
    loop_at=st.sampled_from(["texts", "tokens", "batches"]),
    sizes=st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(0, 20)),
)
def test_random_compositions_yield_the_model_and_resume_exactly(
    texts: list[str],
    tokenizer: ByteTokenizer,
    epochs: int,
    loop_at: str,
    sizes: tuple[int, int, int],
) -> None:
    batch_size, sequence_length, anchor_every = sizes

    def make() -> StatefulIterator[Any]:
        pipeline: StatefulIterator[Any] = ListIterator(texts)
        if loop_at == "texts":
            pipeline = LoopingIterator(pipeline, epochs)
        pipeline = PreprocessIterator(pipeline, tokenizer)
        if loop_at == "tokens":
            pipeline = LoopingIterator(pipeline, epochs)
        pipeline = PackingIterator(pipeline, batch_size=batch_size, sequence_length=sequence_length)
        return LoopingIterator(pipeline, epochs) if loop_at == "batches" else pipeline

    stream = list(chain.from_iterable(tokenizer.encode(text).tolist() for text in texts))
    if loop_at == "batches":
        if len(stream) < 2:
            with pytest.raises(ValueError, match="yielded nothing"):
                drain(make())
            return
        expected = list(pairwise(stream)) * epochs
    else:
        expected = list(pairwise(stream * epochs))
    pairs = [pair for b in drain(make()) for pair in zip(b.x[b.mask].tolist(), b.y[b.mask].tolist(), strict=True)]
    assert pairs == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "ANCHOR_EVERY", anchor_every)
        assert_resumes_exactly(make, max_items=12)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("documents"))


@settings(max_examples=200, deadline=None)
@given(plan=plans())
def test_at_every_position_of_a_random_pipeline_its_state_has_the_same_rest_and_the_same_next_states(
    documents: Path, plan: Plan
) -> None:
    uninterrupted = plan.make(documents)
    items, states = uninterrupted.create_iter(), [uninterrupted.get_state().model_dump_json()]
    for number, expected in enumerate(plan.items):
        assert_items_equal(expected, next(items, None), f"item {number}")
        states.append(uninterrupted.get_state().model_dump_json())
    assert list(items) == []
    states.append(uninterrupted.get_state().model_dump_json())

    for position, state in enumerate(states):
        resumed = IteratorState.model_validate_json(state).build()
        again = resumed.create_iter()
        assert resumed.get_state().model_dump_json() == state
        for number, expected in enumerate(plan.items[position:], position):
            assert_items_equal(expected, next(again, None), f"item {number}, resumed at {position}")
            assert resumed.get_state().model_dump_json() == states[number + 1], f"{number + 1}, resumed at {position}"
        assert list(again) == []
        assert resumed.get_state().model_dump_json() == states[-1]


@settings(max_examples=50, deadline=None)
@given(plan=plans())
def test_a_random_pipeline_goes_through_many_resumes_in_a_chain(documents: Path, plan: Plan) -> None:
    got: list[Any] = []
    state = plan.make(documents).get_state()
    for _ in range(len(plan.items) + 2):
        # A state goes to a file as JSON, and to a worker as a pickle.
        state = pickle.loads(pickle.dumps(IteratorState.model_validate_json(state.model_dump_json()), 5))
        iterator = state.build()
        got += islice(iterator.create_iter(), 1)
        state = iterator.get_state()
    assert_items_equal(plan.items, got, "items")


@settings(max_examples=25, deadline=None)
@given(plan=plans())
def test_a_random_pipeline_passes_what_users_test_their_own_iterators_with(documents: Path, plan: Plan) -> None:
    assert_resumes_exactly(lambda: plan.make(documents), max_items=8)


@settings(max_examples=25, deadline=None)
@given(plan=plans(), taken=st.lists(st.integers(0, 4), max_size=6))
def test_a_random_pipeline_goes_on_in_a_second_iterator_over_it(documents: Path, plan: Plan, taken: list[int]) -> None:
    got: list[Any] = []
    iterator, left_half_way = plan.make(documents), []
    for n in taken:
        left_half_way.append(iterator.create_iter())
        got += islice(left_half_way[-1], n)
    got += iterator.create_iter()
    assert_items_equal(plan.items, got, "items")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("alpha " * 20, "utf-8")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": "b" * n}) + "\n" for n in range(9)), "utf-8")
    return tmp_path


def from_files(corpus: Path, index: int = 0) -> PackingIterator:
    documents = DocumentFileIterator(corpus, shard=(index, 2))
    tokens = PreprocessIterator(LoopingIterator(documents, epochs=3), tokenizer=ByteTokenizer())
    return PackingIterator(tokens, batch_size=2, sequence_length=8)


@pytest.mark.parametrize("index", [0, 1])
def test_a_pipeline_from_files_resumes_exactly(corpus: Path, index: int) -> None:
    assert_resumes_exactly(lambda: from_files(corpus, index))


def test_a_chain_of_many_resumes_changes_nothing(corpus: Path) -> None:
    expected = [batch.to_python_dict() for batch in drain(from_files(corpus))]
    got, state = [], from_files(corpus).get_state()
    for _ in range(len(expected)):
        iterator = IteratorState.model_validate_json(state.model_dump_json()).build()
        got.append(next(iterator.create_iter()).to_python_dict())
        state = iterator.get_state()  # type: ignore[assignment]
    assert got == expected


def test_a_state_crosses_to_a_worker_by_pickle(corpus: Path) -> None:
    iterator = from_files(corpus)
    batches = iterator.create_iter()
    next(batches)
    state = iterator.get_state()
    assert pickle.loads(pickle.dumps(state, 5)) == state


@pytest.mark.both_loops
async def test_a_mixture_in_a_worker_yields_the_same_and_goes_on_from_a_checkpoint(documents: Path) -> None:
    def make() -> StatefulIterator[Any]:
        lines = MapIterator(DocumentFileIterator(documents), partial(labelled, "x", times=2))
        sources = {
            "shuffled": ShuffleIterator(lines, buffer_size=3),
            "loop": LoopingIterator(from_iterable(numbers), 2),
        }
        mixture = SamplingIterator(sources, {"shuffled": 1, "loop": 2}, seed=3, on_exhausted="drop")
        return BatchIterator(FilterIterator(mixture, passes), 2, collate=joined)

    expected = drain(make())
    async with AsyncPrefetcher(make(), n_batches_to_prefetch=2) as loader:
        got = [await anext(loader) for _ in range(3)]
        state = await loader.get_state()
    async with AsyncPrefetcherState.from_bytes(state.to_bytes()).build() as loader:
        got += [item async for item in loader]
    assert got == expected


def test_a_state_does_not_grow_with_the_position(documents: Path) -> None:
    def source(seed: int) -> StatefulIterator[Any]:
        numbered = MapIterator(LoopingIterator(DocumentFileIterator(documents)), marked)
        return ShuffleIterator(FilterIterator(numbered, passes), buffer_size=4, seed=seed)

    mixture = SamplingIterator({"a": source(1), "b": source(2)}, {"a": 2, "b": 1}, on_exhausted="restart")
    iterator = LimitIterator(BatchIterator(mixture, 3), 10_000)
    batches = iterator.create_iter()
    sizes = set()
    for n in (1, 10, 100, 1000):
        list(islice(batches, n))
        text = iterator.get_state().model_dump_json()
        assert len(text) < 8_000
        sizes.add(len(re.sub(r"[0-9a-f]{8,}|\d+", "0", text)))  # ignoring digests and the digits of numbers
    assert max(sizes) - min(sizes) < 20  # a source that was not drawn from has no digest of its file's head


def test_a_state_is_no_handle_on_the_iterator(corpus: Path) -> None:
    state = from_files(corpus).get_state()
    with pytest.raises(ValueError, match="frozen"):
        state.offset = 3  # type: ignore[misc]


def test_one_iterator_can_feed_two_pipelines() -> None:
    source = ListIterator(["one", "two"])
    first, second = PreprocessIterator(source), PreprocessIterator(source)
    assert [t.tolist() for t in drain(first)] == [t.tolist() for t in drain(second)] != []


def test_every_public_name_is_there() -> None:
    for name in iterators.__all__:
        assert getattr(iterators, name).__doc__
