from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncprefetch.iterators import ByteTokenizer
from asyncprefetch.testing import assert_items_equal


@given(text=st.text(), bos=st.booleans(), eos=st.booleans(), offset=st.integers(3, 1000))
def test_bytes_become_tokens_and_come_back(text: str, bos: bool, eos: bool, offset: int) -> None:
    tokenizer = ByteTokenizer(bos=bos, eos=eos, offset=offset)
    tokens = tokenizer.encode(text)
    expected = [1] * bos + [offset + byte for byte in text.encode()] + [2] * eos
    assert_items_equal(np.array(expected, np.uint16), tokens)
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


@pytest.mark.parametrize(
    ("offset", "dtype"), [(3, np.uint16), (65_280, np.uint16), (65_281, np.uint32), (2**31 - 256, np.uint32)]
)
def test_tokens_are_of_the_smallest_dtype_that_holds_the_vocabulary(offset: int, dtype: type) -> None:
    tokenizer = ByteTokenizer(offset=offset)
    tokens = tokenizer.encode("\U0010ffffa")
    assert_items_equal(np.array([1, *(offset + b for b in b"\xf4\x8f\xbf\xbfa"), 2], dtype), tokens)
    assert tokenizer.decode(tokens) == "\U0010ffffa"


def test_an_offset_beyond_32_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        ByteTokenizer(offset=2**31)


def test_a_lone_surrogate_has_no_bytes() -> None:
    with pytest.raises(UnicodeEncodeError):
        ByteTokenizer().encode("a\ud800")
