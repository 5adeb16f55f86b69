from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.inside import permutation, uniforms

numbers = st.integers(0, 2**64 - 1)


@given(seed=numbers, block=numbers, n=st.integers(0, 50))
def test_a_permutation_holds_every_number_once_and_is_the_same_at_each_call(seed: int, block: int, n: int) -> None:
    order = permutation(seed, block, n)
    assert order.dtype == np.int64
    assert order.shape == (n,)
    assert sorted(order.tolist()) == list(range(n))
    assert order.tolist() == permutation(seed, block, n).tolist()


@given(seed=numbers, block=numbers, n=st.integers(0, 50))
def test_uniform_numbers_lie_below_one_and_fewer_are_the_first_of_more(seed: int, block: int, n: int) -> None:
    drawn = uniforms(seed, block, n)
    assert drawn.dtype == np.float64
    assert drawn.shape == (n,)
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert drawn.tolist() == uniforms(seed, block, 60)[:n].tolist()


def test_these_numbers_are_for_ever() -> None:
    # A checkpoint contains a stream's position, not its items. A change of these numbers changes every shuffled stream.
    assert permutation(0, 0, 8).tolist() == [1, 4, 5, 6, 2, 0, 3, 7]
    assert permutation(2**64 - 1, 2**40, 8).tolist() == [5, 1, 0, 6, 3, 4, 2, 7]
    assert uniforms(0, 0, 2).tolist() == [0.674438164022751, 0.4788968376798527]
    assert uniforms(2**64 - 1, 2**40, 2).tolist() == [0.3614234481797425, 0.5422479630777557]


@pytest.mark.parametrize("other", [(7, 1), (8, 0), (0, 7), (7 << 32, 0), (7 + (1 << 32), 0), (7, 1 << 32)])
def test_each_seed_and_each_block_has_numbers_of_its_own(other: tuple[int, int]) -> None:
    assert permutation(7, 0, 50).tolist() != permutation(*other, 50).tolist()
    assert set(uniforms(7, 0, 50)).isdisjoint(uniforms(*other, 50))


def test_the_words_of_a_seed_are_not_taken_for_those_of_a_block() -> None:
    assert uniforms(0, 1, 4).tolist() != uniforms(1 << 32, 0, 4).tolist()


def test_a_shuffle_does_not_sort_by_the_numbers_that_drew_its_items() -> None:
    drawn = uniforms(7, 0, 1024)[permutation(7, 0, 1024)]
    assert abs(np.corrcoef(drawn, np.arange(1024))[0, 1]) < 0.1


def test_every_place_is_as_likely_as_every_other() -> None:
    counts = np.zeros((4, 4))
    for block in range(4000):
        counts[np.arange(4), permutation(1, block, 4)] += 1
    assert abs(counts / 4000 - 0.25).max() < 0.03
    assert abs(np.histogram(uniforms(1, 0, 40000), 4, (0, 1))[0] / 40000 - 0.25).max() < 0.01
