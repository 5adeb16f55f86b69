"""A short run of ``soak.py``. A failure names its seed and the last actions."""

from __future__ import annotations

import logging

import pytest

from tests.faults import soak

SEEDS = range(1000, 1006)


@pytest.fixture(scope="module", autouse=True)
def fork_server(tmp_path_factory):
    """Start the fork server before the first round, so that every round starts with the same figures."""
    soak.run_round(1, tmp_path_factory.mktemp("first"))
    soak.settled({})  # waits a second, so that no figure contains what the start leaves for a moment


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("transport", soak.TRANSPORTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_stream_is_the_reference_stream_whatever_happens(tmp_path, caplog, seed, transport, in_order):
    caplog.set_level(logging.ERROR, "asyncprefetch")
    before = soak.figures()
    soak.run_round(seed, tmp_path, transport=transport, in_order=in_order)
    assert soak.settled(before) == before, f"seed {seed}"
