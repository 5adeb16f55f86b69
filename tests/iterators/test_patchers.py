from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncprefetch.iterators import (
    BytePatcher,
    ByteTokenizer,
    EntropyPatcher,
    Patcher,
    SpacePatcher,
    StaticPatcher,
)


def words(text: str, patcher: Patcher, **options: Any) -> list[str]:
    tokenizer = ByteTokenizer(**options)
    tokens = tokenizer.encode(text)
    lengths = patcher.patch_lengths(tokens)
    assert lengths.sum() == tokens.size
    return [tokenizer.decode(part) for part in np.split(tokens, lengths.cumsum()[:-1])]


def space_model(ids: list[int], offset: int) -> list[int]:
    # ``before`` says whether the previous id is space-like. It is true before the first id.
    lengths, length, before = [], 0, True
    for i, id_ in enumerate(ids):
        byte = id_ - offset
        plain = byte >= 0 and (bytes([byte]).isalnum() or 0x80 <= byte < 0xC0)
        length += 1
        if byte < 0 or (not plain and not before) or i == len(ids) - 1:
            lengths.append(length)
            length = 0
        before = not plain
    return lengths


@settings(max_examples=300, deadline=None)
@given(
    data=st.lists(st.integers(0, 2) | st.integers(3, 258), max_size=40),
    offset=st.sampled_from([3, 4, 167, 256, 300, 65_000, 70_000]),
)
def test_space_patches_are_what_a_loop_over_bytes_gives(data: list[int], offset: int) -> None:
    ids = [i if i < 3 else i - 3 + offset for i in data]
    dtype = np.uint16 if offset < 65_280 else np.uint32
    for kind in (dtype, np.int64):
        lengths = SpacePatcher(offset).patch_lengths(np.array(ids, kind))
        assert lengths.dtype == np.int64
        assert lengths.tolist() == space_model(ids, offset)


def test_every_byte_is_space_like_or_not() -> None:
    like = [b for b in range(256) if SpacePatcher().patch_lengths(np.array([100, b + 3, 100], np.uint16)).size == 2]
    assert like == [b for b in range(256) if not bytes([b]).isalnum() and not 0x80 <= b < 0xC0]


def test_a_patch_is_a_word_and_its_space() -> None:
    assert words("if  x == 1", SpacePatcher(), bos=False, eos=False) == ["if ", " x ", "== 1"]
    assert words("return a[i]\n", SpacePatcher(), bos=False, eos=False) == ["return ", "a[", "i]", "\n"]
    assert words("  a", SpacePatcher(), bos=False, eos=False) == ["  a"]


def test_text_without_spaces_falls_into_characters() -> None:
    tokens = ByteTokenizer().encode("日本語")
    # The lead byte of a character ends the patch before it: bos | 日本's lead | ...
    assert SpacePatcher().patch_lengths(tokens).tolist() == [1, 4, 3, 3]


def test_bos_and_eos_end_a_patch() -> None:
    tokens = np.concatenate([ByteTokenizer().encode("a b"), ByteTokenizer().encode(""), ByteTokenizer().encode("cd")])
    assert SpacePatcher().patch_lengths(tokens).tolist() == [1, 2, 2, 1, 1, 1, 3]


def test_static_patches() -> None:
    for n, expected in ((0, []), (1, [1]), (3, [3]), (7, [3, 3, 1])):
        assert StaticPatcher(3).patch_lengths(np.zeros(n, np.uint16)).tolist() == expected
    with pytest.raises(ValueError, match="at least 1, not 0"):
        StaticPatcher(0)
    with pytest.raises(ValueError, match=r"length must be below 2\*\*63, not 9223372036854775808"):
        StaticPatcher(1 << 63)
    assert StaticPatcher((1 << 63) - 1).patch_lengths(np.zeros(2, np.uint16)).tolist() == [2]


def test_byte_patches() -> None:
    assert BytePatcher().patch_lengths(np.zeros(3, np.uint16)).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "patcher", [BytePatcher(), StaticPatcher(2), SpacePatcher(), EntropyPatcher(1.0), EntropyPatcher(1.0, True, True)]
)
def test_a_document_without_tokens_has_no_patches(patcher: Patcher) -> None:
    assert isinstance(patcher, Patcher)
    lengths = patcher.patch_lengths(np.zeros(0, np.uint16), np.zeros(0, np.float32))
    assert lengths.tolist() == []
    assert lengths.dtype == np.int64


def entropy_model(entropies: list[float], threshold: float, monotonicity: bool, of_next: bool) -> list[int]:
    if of_next:
        entropies = [-math.inf, *entropies[:-1]]
    lengths: list[int] = []
    for i, entropy in enumerate(entropies):
        begins = i == 0 or (entropy - entropies[i - 1] > threshold if monotonicity else entropy > threshold)
        if begins:
            lengths.append(0)
        lengths[-1] += 1
    return lengths


@settings(max_examples=300, deadline=None)
@given(
    entropies=st.lists(st.sampled_from([-math.inf, -1.5, 0.0, 0.5, 1.0, 1.5, 2.0, math.inf]), max_size=20),
    threshold=st.sampled_from([-1.0, 0.0, 0.5, 1.0]),
    monotonicity=st.booleans(),
    of_next=st.booleans(),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_entropy_patches_are_what_a_loop_over_tokens_gives(
    entropies: list[float], threshold: float, monotonicity: bool, of_next: bool, dtype: Any
) -> None:
    tokens, given_ = np.zeros(len(entropies), np.uint16), np.array(entropies, dtype)
    patcher = EntropyPatcher(threshold, monotonicity, of_next)
    lengths = patcher.patch_lengths(tokens, given_)
    assert lengths.dtype == np.int64
    assert lengths.tolist() == (entropy_model(entropies, threshold, monotonicity, of_next) if entropies else [])


def test_entropy_patches_look_like_this() -> None:
    entropies = np.array([0.1, 2.0, 0.3, 0.9, 3.0])
    tokens = np.zeros(5, np.uint16)
    assert EntropyPatcher(1.0).patch_lengths(tokens, entropies).tolist() == [1, 3, 1]
    assert EntropyPatcher(0.5, monotonicity=True).patch_lengths(tokens, entropies).tolist() == [1, 2, 1, 1]
    assert EntropyPatcher(1.0, of_next=True).patch_lengths(tokens, entropies).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("entropies", "why"),
    [
        (None, "need entropies, and the document has none"),
        (np.zeros(2), r"floats of shape \(3,\), not float64 of shape \(2,\)"),
        (np.zeros((3, 1)), r"not float64 of shape \(3, 1\)"),
        (np.zeros(3, int), "not int64"),
        (np.array([0, np.nan, 1]), "entropy 1 is not a number"),
    ],
)
def test_refuses_entropies_that_do_not_fit(entropies: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        EntropyPatcher(1.0).patch_lengths(np.zeros(3, np.uint16), entropies)


@pytest.mark.parametrize("threshold", [math.nan, math.inf, -math.inf])
def test_refuses_a_threshold_that_is_no_number(threshold: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        EntropyPatcher(threshold)


@pytest.mark.parametrize("make", [lambda: StaticPatcher(2.5), lambda: ByteTokenizer(offset=3.5)])  # type: ignore[arg-type]
def test_what_counts_is_an_integer(make: Any) -> None:
    with pytest.raises(TypeError, match="integer"):
        make()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 1e300, -1e300])
@pytest.mark.parametrize("monotonicity", [False, True])
def test_entropies_of_every_dtype_are_compared_as_float64(dtype: Any, threshold: float, monotonicity: bool) -> None:
    entropies = np.array([0.0, 0.1, 0.1, 0.3, 0.4, 0.9, 60_000.0, -60_000.0], dtype)
    tokens, patcher = np.zeros(entropies.size, np.uint16), EntropyPatcher(threshold, monotonicity)
    expected = entropy_model(entropies.astype(np.float64).tolist(), threshold, monotonicity, False)
    assert patcher.patch_lengths(tokens, entropies).tolist() == expected


def test_a_threshold_is_not_rounded_to_the_dtype_of_the_entropies() -> None:
    entropies = np.array([0.0, 0.1, 0.1], np.float32)  # as a float32, 0.1 is slightly more than 0.1
    assert EntropyPatcher(0.1).patch_lengths(np.zeros(3, np.uint16), entropies).tolist() == [1, 1, 1]
