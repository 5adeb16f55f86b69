from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncprefetch.iterators import PackingIterator, ngram_ids
from tests.iterators.sources import ListIterator, drain

BASE = 1_000_000_007


def model(row: list[int], n: int, table_size: int) -> list[int]:
    return [
        sum(row[i - age] * BASE**age for age in range(n) if i - age >= 0) % (1 << 64) % table_size
        for i in range(len(row))
    ]


rows_ = st.integers(0, 9).flatmap(
    lambda length: st.lists(st.lists(st.integers(0, 2**40), min_size=length, max_size=length), max_size=3)
)


@settings(max_examples=200, deadline=None)
@given(
    rows=rows_,
    sizes=st.lists(st.integers(1, 12), max_size=4),
    table_size=st.sampled_from([1, 2, 3, 50_000, 1 << 20, (1 << 63) - 1, 1 << 63]),
)
def test_is_the_polynomial_of_the_last_tokens(rows: list[list[int]], sizes: list[int], table_size: int) -> None:
    x = np.array(rows, np.int64).reshape(len(rows), -1 if rows and rows[0] else 0)
    ids = ngram_ids(x, sizes, table_size)
    assert ids.dtype == np.int64
    assert ids.shape == (len(sizes), *x.shape)
    assert ids.tolist() == [[model(row, n, table_size) for row in rows] for n in sizes]


def test_an_ngram_has_one_id_wherever_it_stands() -> None:
    x = np.array([[7, 8, 9, 1, 8, 9], [4, 5, 6, 7, 8, 9]])
    [two, three] = ngram_ids(x, (2, 3), 1 << 40)
    assert two[0, 2] == two[0, 5] == two[1, 5]
    assert three[0, 2] == three[1, 5] != three[0, 5]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64, ">u4"])
def test_takes_integers_of_every_dtype_and_fills_what_it_is_given(dtype: Any) -> None:
    x = np.array([[1, 2, 3]], dtype)
    out = np.full((2, 1, 3), -1)
    assert ngram_ids(x, (1, 3), 1 << 40, out=out) is out
    assert out.tolist() == [[model([1, 2, 3], n, 1 << 40)] for n in (1, 3)]
    assert x.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("sizes", "table_size"), [((0,), 5), ((2, -1), 5), ((2.5,), 5), ((2,), 0), ((2,), (1 << 63) + 1), ((2,), 7.5)]
)
def test_refuses_sizes_out_of_their_range(sizes: Any, table_size: Any) -> None:
    with pytest.raises(ValueError, match=r"^sizes: .*at least 1 token|^table_size must be"):
        ngram_ids(np.zeros((1, 2), int), sizes, table_size)


def test_a_batch_has_them_if_asked() -> None:
    options: dict[str, Any] = {"batch_size": 2, "sequence_length": 3}
    [batch] = drain(PackingIterator(ListIterator([np.arange(5)]), ngram_sizes=(3, 2), ngram_table_size=100, **options))
    np.testing.assert_array_equal(batch.ngram_ids, ngram_ids(batch.x, (3, 2), 100))
    assert batch.ngram_ids.shape == (2, 2, 3)
    assert batch.ngram_ids.max() < 100
    [batch] = drain(PackingIterator(ListIterator([np.arange(5)]), **options))
    assert batch.ngram_ids is None
