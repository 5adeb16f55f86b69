from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncprefetch import IteratorState, register
from asyncprefetch.base import compare_configuration
from asyncprefetch.iterators import ByteTokenizer, Document, PreprocessIterator
from asyncprefetch.testing import assert_items_equal, assert_resumes_exactly
from tests.iterators.sources import ListIterator, drain

TEXTS = ["", "abc", "zwölf Boxkämpfer 🥊", "\x00\x7f\r\n"]


@register("tests.tokens.Words")
@dataclass(frozen=True)
class Words:
    scale: int

    def encode(self, text: str) -> Any:
        return np.array([len(word) * self.scale for word in text.split()], np.int32)

    def decode(self, tokens: Any) -> str:
        return str(tokens)


@dataclass(frozen=True)
class Unregistered:
    def encode(self, text: str) -> Any:
        return np.zeros(0, np.int64)

    def decode(self, tokens: Any) -> str:
        return ""


@given(text=st.text(), bos=st.booleans(), eos=st.booleans(), offset=st.integers(3, 1000))
def test_bytes_become_tokens_and_come_back(text: str, bos: bool, eos: bool, offset: int) -> None:
    tokenizer = ByteTokenizer(bos=bos, eos=eos, offset=offset)
    tokens = tokenizer.encode(text)
    expected = [1] * bos + [offset + byte for byte in text.encode()] + [2] * eos
    assert_items_equal(np.array(expected, np.int64), tokens)
    assert tokenizer.decode(tokens) == text


def test_all_ids_lie_below_the_size_of_the_vocabulary() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(np.full((2, 2), tokenizer.pad_id)) == ""
    assert tokenizer.encode("\U0010ffff").max() < tokenizer.vocabulary_size == 259
    with pytest.raises(ValueError, match=r"must lie in \[0, 259\)"):
        tokenizer.decode([259])
    with pytest.raises(ValueError, match=r"must lie in \[0, 259\)"):
        tokenizer.decode([-1])


def test_decodes_rows_that_begin_within_a_character() -> None:
    tokens = ByteTokenizer(bos=False).encode("é!")
    assert ByteTokenizer().decode(tokens[1:]) == "\ufffd!"
    with pytest.raises(UnicodeDecodeError):
        ByteTokenizer().decode(tokens[1:], errors="strict")


def test_an_offset_that_would_give_a_byte_a_special_id_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        ByteTokenizer(offset=2)


def test_gives_one_array_a_document_or_string() -> None:
    documents = [Document(str(i), text) for i, text in enumerate(TEXTS)]
    expected = [ByteTokenizer().encode(text) for text in TEXTS]
    assert_items_equal(expected, drain(PreprocessIterator(ListIterator(documents))))
    assert_items_equal(expected, drain(PreprocessIterator(ListIterator(TEXTS))))


@settings(max_examples=10, deadline=None)
@given(texts=st.lists(st.text(max_size=5), max_size=4))
def test_resumes_exactly(texts: list[str]) -> None:
    assert_resumes_exactly(
        lambda: PreprocessIterator(ListIterator(texts), tokenizer=ByteTokenizer(eos=False, offset=9))
    )


def test_takes_any_registered_tokenizer() -> None:
    iterator = PreprocessIterator(ListIterator(["one two", "three"]), Words(2))
    assert_items_equal([np.array([6, 6], np.int32), np.array([10], np.int32)], drain(iterator))
    assert_resumes_exactly(lambda: PreprocessIterator(ListIterator(["one two", "three"]), Words(2)))


def test_refuses_a_tokenizer_that_a_checkpoint_can_not_hold() -> None:
    with pytest.raises(TypeError, match=r"Unregistered is not registered.*register\('your.tag'\)"):
        PreprocessIterator(ListIterator([]), Unregistered())


def test_refuses_what_does_not_encode() -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        PreprocessIterator(ListIterator([]), "bytes")  # type: ignore[arg-type]


def test_refuses_items_that_are_no_text() -> None:
    with pytest.raises(TypeError, match="takes documents or strings, not b'x'"):
        drain(PreprocessIterator(ListIterator([b"x"])))


def test_the_tokenizer_is_configuration_and_survives_json() -> None:
    state = PreprocessIterator(ListIterator(TEXTS), ByteTokenizer(bos=False)).get_state()
    assert IteratorState.model_validate_json(state.model_dump_json()) == state
    other = PreprocessIterator(ListIterator(TEXTS), ByteTokenizer()).get_state()
    assert [line.partition(":")[0] for line in compare_configuration(state, other, "it")] == ["it.tokenizer"]
