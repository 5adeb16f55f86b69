from __future__ import annotations

from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncprefetch import IteratorState
from asyncprefetch.base import compare_configuration
from asyncprefetch.iterators import (
    ByteTokenizer,
    LoopingIterator,
    PreprocessIterator,
    SequenceIterator,
    SpacePatcher,
    TokenSequence,
)
from asyncprefetch.testing import assert_items_equal, assert_resumes_exactly
from tests.inside import _blocks, permutation
from tests.iterators.sources import ListIterator, drain

Documents = list[list[int]]  # the patch lengths of each document


def items(documents: Documents, patched: bool, dtype: Any = np.uint16) -> list[Any]:
    ids = iter(range(1, 10_000))
    arrays = [np.array([next(ids) for _ in range(sum(lengths))], dtype) for lengths in documents]
    if not patched:
        return arrays
    return [TokenSequence(a, np.array(lengths, np.int64)) for a, lengths in zip(arrays, documents, strict=True)]


def make(documents: Documents, patched: bool, length: int, **options: Any) -> SequenceIterator:
    return SequenceIterator(ListIterator(items(documents, patched)), sequence_length=length, **options)


def model(
    documents: Documents, patched: bool, length: int, *, buffer_size: int = 1, seed: int = 0, drop_last: bool = False
) -> list[tuple[list[int], list[int] | None]]:
    """Return the expected sequences as plain lists: tokens and patch lengths."""
    lengths = list(chain.from_iterable(documents))
    if not patched:
        lengths = [1] * sum(lengths)
    if not lengths:
        return []
    rest = lengths if lengths[0] == 1 else [1, lengths[0] - 1, *lengths[1:]]
    ends = list(accumulate(rest))
    units = length - 1 if patched else length
    sequences = []
    for begin in range(1, len(rest), units):
        part = rest[begin : begin + units]
        if len(part) < units and drop_last:
            continue
        tokens = list(range(ends[begin - 1], ends[begin - 1 + len(part)] + 1))
        sequences.append((tokens, [1, *part] if patched else None))
    shuffled = []
    for number, at in enumerate(range(0, len(sequences), buffer_size)):
        block = sequences[at : at + buffer_size]
        shuffled += [block[i] for i in permutation(seed, number, len(block))]
    return shuffled


def plain(sequences: list[TokenSequence]) -> list[tuple[list[int], list[int] | None]]:
    return [(s.tokens.tolist(), None if s.patch_lengths is None else s.patch_lengths.tolist()) for s in sequences]


documents_ = st.lists(st.lists(st.integers(1, 5), max_size=7), max_size=7)
options_ = st.fixed_dictionaries(
    {"buffer_size": st.integers(1, 4), "seed": st.integers(0, 3), "drop_last": st.booleans()}
)


@settings(max_examples=150, deadline=None)
@given(documents=documents_, patched=st.booleans(), length=st.integers(2, 5), options=options_)
def test_is_what_plain_lists_give(documents: Documents, patched: bool, length: int, options: dict[str, Any]) -> None:
    sequences = drain(make(documents, patched, length, **options))
    assert plain(sequences) == model(documents, patched, length, **options)
    for sequence in sequences:
        assert sequence.tokens.dtype == np.uint16
        assert sequence.patch_lengths is None or sequence.patch_lengths.dtype == np.int64


@settings(max_examples=60, deadline=None)
@given(
    documents=documents_,
    patched=st.booleans(),
    length=st.integers(2, 5),
    options=options_,
    anchor_every=st.integers(0, 12),
)
def test_resumes_exactly_however_far_apart_its_anchors_lie(
    documents: Documents, patched: bool, length: int, options: dict[str, Any], anchor_every: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_blocks, "ANCHOR_EVERY", anchor_every)
        assert_resumes_exactly(lambda: make(documents, patched, length, **options))


@settings(max_examples=60, deadline=None)
@given(documents=documents_, patched=st.booleans(), length=st.integers(2, 5), buffer_size=st.integers(1, 4))
def test_every_token_but_the_first_is_a_target_exactly_once(
    documents: Documents, patched: bool, length: int, buffer_size: int
) -> None:
    sequences = drain(make(documents, patched, length, buffer_size=buffer_size))
    pairs = [pair for s in sequences for pair in pairwise(s.tokens.tolist())]
    assert sorted(pairs) == list(pairwise(range(1, sum(map(sum, documents)) + 1)))
    for sequence in sequences:
        if sequence.patch_lengths is not None:
            assert sequence.patch_lengths[0] == 1
            assert sequence.patch_lengths.sum() == sequence.tokens.size
            assert sequence.patch_lengths.size <= length


def test_sequences_of_patches_look_like_this() -> None:
    # Tokens 1 to 9 in the patches 12 3 | 45 6789; the first patch is longer than one token, and is split.
    got = plain(drain(make([[2, 1], [2, 4]], True, 3)))
    assert got == [([1, 2, 3], [1, 1, 1]), ([3, 4, 5, 6, 7, 8, 9], [1, 2, 4])]


def test_sequences_of_tokens_look_like_this() -> None:
    assert plain(drain(make([[5], [2]], False, 3))) == [([1, 2, 3, 4], None), ([4, 5, 6, 7], None)]


def test_a_block_is_permuted_and_the_next_one_otherwise() -> None:
    got = [s.tokens[0] for s in drain(make([[41]], False, 1, buffer_size=20, seed=3))]
    assert sorted(got[:20]) == list(range(1, 21))
    assert sorted(got[20:]) == list(range(21, 41))
    assert got[:20] != sorted(got[:20])
    assert [t - 20 for t in got[20:]] != got[:20]
    assert got != [s.tokens[0] for s in drain(make([[41]], False, 1, buffer_size=20, seed=4))]


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("documents", [[], [[]], [[], []], [[1]], [[], [1], []]])
def test_a_stream_without_a_target_has_no_sequence(documents: Documents, patched: bool) -> None:
    assert drain(make(documents, patched, 2)) == []
    assert_resumes_exactly(lambda: make(documents, patched, 2, buffer_size=2))


def test_its_state_is_small_at_any_place_of_a_long_document() -> None:
    tokens = TokenSequence(np.zeros(200_000, np.uint16), np.full(100_000, 2))
    iterator = SequenceIterator(
        LoopingIterator(PreprocessIterator(ListIterator(["a word " * 9]), patcher=SpacePatcher()), 9_000),
        sequence_length=8,
        buffer_size=4,
    )
    sizes = set()
    for number, _ in enumerate(iterator.create_iter()):
        if number % 1000 == 0:
            sizes.add(len(iterator.get_state().model_dump_json()))
    assert max(sizes) - min(sizes) < 20
    long = SequenceIterator(ListIterator([tokens]), sequence_length=101, buffer_size=7)
    sequences = long.create_iter()
    for _ in range(900):
        next(sequences)
    state = long.get_state()
    assert (state.inner.position, state.offset, state.block, state.emitted) == (0, 89_600, 128, 4)  # type: ignore[attr-defined]


def test_resuming_draws_no_more_than_the_block_and_the_tokens_between_two_anchors_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_blocks, "ANCHOR_EVERY", 16)
    iterator = make([[2, 3]] * 60, True, 4, buffer_size=3)
    for number, _ in enumerate(iterator.create_iter(), 1):
        state = iterator.get_state()
        assert (state.block, state.emitted) == divmod(number, 3)
        # The distance to the anchor is up to 16 tokens and a document, in patches of at least two tokens, plus the context.
        assert state.offset <= (16 + 5 + 5) // 2 + 1


def test_empty_documents_are_not_drawn_again_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_blocks, "ANCHOR_EVERY", 16)
    empty, last = np.zeros(0, np.uint16), np.zeros(8, np.uint16)
    iterator = SequenceIterator(ListIterator([*[empty] * 500, last]), sequence_length=3)
    next(iterator.create_iter())
    assert iterator.get_state().inner.position >= 480  # type: ignore[attr-defined]


def test_the_state_of_the_documents_is_asked_for_now_and_then_not_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_blocks, "ANCHOR_EVERY", 100)
    source = ListIterator(items([[5]] * 100, False))
    monkeypatch.setattr("tests.iterators.sources.ListIterator", lambda *args: source)
    drain(SequenceIterator(source, sequence_length=3))
    assert source.asked == 1 + 5


def test_documents_of_different_dtypes_are_joined_as_integers_and_resume_exactly() -> None:
    arrays = [np.arange(1, 6, dtype=dtype) for dtype in (np.int64, np.uint64, np.uint16, ">u4", np.int8)]
    sequences = drain(SequenceIterator(ListIterator(arrays), sequence_length=4, buffer_size=2))
    assert {s.tokens.dtype.kind for s in sequences} <= {"i", "u"}
    assert sum((s.tokens[1:] == 5).sum() for s in sequences) == 5
    assert_resumes_exactly(lambda: SequenceIterator(ListIterator(arrays), sequence_length=4, buffer_size=2))


def test_takes_patches_of_every_integer_dtype() -> None:
    item = TokenSequence(np.arange(6), np.array([3, 3], np.uint8))
    [sequence] = drain(SequenceIterator(ListIterator([item]), sequence_length=4))
    assert_items_equal(TokenSequence(np.arange(6), np.array([1, 2, 3])), sequence)


@pytest.mark.parametrize("item", [np.zeros(3), np.zeros((2, 2), int), [1], None, TokenSequence(np.zeros(3))])
def test_refuses_items_that_hold_no_tokens(item: Any) -> None:
    with pytest.raises(TypeError, match="SequenceIterator takes 1-D arrays of integers, not"):
        drain(SequenceIterator(ListIterator([item]), sequence_length=2))


@pytest.mark.parametrize("dtype", [np.uint64, np.ulonglong, ">u8"])
def test_refuses_tokens_that_no_batch_can_hold(dtype: Any) -> None:
    largest = np.array([7, (1 << 63) - 1, 8], dtype)
    [kept] = drain(SequenceIterator(ListIterator([largest]), sequence_length=4))
    assert kept.tokens.tolist() == [7, (1 << 63) - 1, 8]
    with pytest.raises(ValueError, match=r"takes tokens below 2\*\*63, but token 1 is 9223372036854775808"):
        drain(SequenceIterator(ListIterator([largest + np.array([0, 1, 0], dtype)]), sequence_length=4))


@pytest.mark.parametrize(
    ("lengths", "why"),
    [
        (np.array([1, 1]), "sum to 2, but there are 3 tokens"),
        (np.array([4, -1]), "patch 1 has -1"),
        (np.array([3, 0]), "patch 1 has 0"),
        (np.array([1 << 62] * 4 + [3]), "sum to 18446744073709551619, but there are 3"),
        (np.array([1, (1 << 64) - 1, 3], np.uint64), "sum to 18446744073709551619, but there are 3"),
        (np.array([1.5, 1.5]), "integers, not float64"),
        ([3], "integers, not"),
        (np.array([[3]]), r"shape \(1, 1\)"),
    ],
)
def test_refuses_patch_lengths_that_are_none_of_the_tokens(lengths: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        drain(SequenceIterator(ListIterator([TokenSequence(np.arange(3), lengths)]), sequence_length=2))


@pytest.mark.parametrize("swapped", [False, True])
def test_refuses_a_stream_of_both_kinds(swapped: bool) -> None:
    both = [np.arange(3), TokenSequence(np.arange(3), np.array([3]))]
    with pytest.raises(ValueError, match="some items have patch lengths and others have none"):
        drain(SequenceIterator(ListIterator(both[::-1] if swapped else both), sequence_length=4))


def test_refuses_sequences_of_nothing_but_the_context() -> None:
    with pytest.raises(ValueError, match="sequence_length must be at least 2"):
        drain(make([[1, 2]], True, 1))


@pytest.mark.parametrize(
    "option", [{"sequence_length": 0}, {"buffer_size": 0}, {"seed": -1}, {"seed": 1 << 64}, {"buffer_size": 1.5}]
)
def test_refuses_options_out_of_their_range(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        SequenceIterator(ListIterator([]), **{"sequence_length": 2, **option})


@pytest.mark.parametrize(
    ("taken", "left"), [(1, 0), (1, 1), (2, 0), (2, 1), (2, 3), (3, 0), (3, 6), (5, 8), (5, 9), (6, 12)]
)
def test_refuses_to_resume_when_the_tokens_became_fewer(taken: int, left: int) -> None:
    # A block has three sequences of two targets. n sequences need 2n tokens, and block b needs 6b + 1 tokens.
    iterator = SequenceIterator(ListIterator([np.arange(21)]), sequence_length=2, buffer_size=3)
    sequences = iterator.create_iter()
    for _ in range(taken):
        next(sequences)
    fewer = ListIterator([np.arange(left)])
    state = iterator.get_state().model_copy(update={"inner": fewer.get_state()})
    with pytest.raises(ValueError, match="ended before the position"):
        drain(IteratorState.model_validate_json(state.model_dump_json()).build())


def test_options_are_configuration_and_the_place_is_not() -> None:
    started = make([[9]], False, 2, buffer_size=2)
    sequences = started.create_iter()
    for _ in range(3):
        next(sequences)
    assert compare_configuration(started.get_state(), make([[9]], False, 2, buffer_size=2).get_state(), "it") == []
    other = make([[9]], False, 3, buffer_size=4, seed=1, drop_last=True)
    lines = compare_configuration(started.get_state(), other.get_state(), "it")
    names = ["it.sequence_length", "it.buffer_size", "it.seed", "it.drop_last"]
    assert [line.partition(":")[0] for line in lines] == names


def test_a_failure_within_a_block_loses_nothing() -> None:
    iterator = SequenceIterator(ListIterator([*items([[9]], False), None]), sequence_length=2, buffer_size=3)
    sequences = iterator.create_iter()
    got = [next(sequences).tokens[0] for _ in range(3)]
    with pytest.raises(TypeError):
        next(sequences)
    assert iterator.get_state().block == 1
    assert sorted(got) == [1, 3, 5]
    with pytest.raises(TypeError):
        next(iterator.create_iter())


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("buffer_size", [1, 3])
def test_a_sequence_knows_the_document_of_its_first_target(patched: bool, buffer_size: int) -> None:
    lengths = [3, 1, 0, 7, 2, 2, 30, 1]
    documents, n = [], 0
    for row, size in enumerate(lengths):
        tokens = np.arange(n, n + size)
        documents.append(TokenSequence(tokens, np.ones(size, np.int64) if patched else None, "a.jsonl", row))
        n += size
    of_token = np.repeat(np.arange(len(lengths)), lengths)

    def cut() -> SequenceIterator:
        return SequenceIterator(ListIterator(documents), sequence_length=4, buffer_size=buffer_size, seed=3)

    for sequence in drain(cut()):
        assert (sequence.file, sequence.row) == ("a.jsonl", of_token[sequence.tokens[1]])
    assert_resumes_exactly(cut)


def test_text_goes_through_with_its_words_as_patches() -> None:
    texts = ["def f(x):\n    return x\n", "", "zwölf Boxkämpfer"]
    tokens = PreprocessIterator(ListIterator(texts), ByteTokenizer(), SpacePatcher())
    sequences = drain(SequenceIterator(tokens, sequence_length=4))
    tokenizer = ByteTokenizer()
    whole = np.concatenate([sequences[0].tokens[:1], *(s.tokens[1:] for s in sequences)])
    assert tokenizer.decode(whole) == "".join(texts)
