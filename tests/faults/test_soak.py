"""The soak's short form: see ``soak.py``. A failure names its seed, and what was done last."""

from __future__ import annotations

import logging

import pytest

from tests.faults import soak

SEEDS = range(1000, 1006)


@pytest.fixture(scope="module", autouse=True)
def fork_server(tmp_path_factory):
    """What the first round leaves is there from the beginning: the fork server."""
    soak.run_round(1, tmp_path_factory.mktemp("first"))
    soak.settled({})  # waits a second: what the first round leaves for a moment is in no figure of the others


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("transport", soak.CARRIERS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_stream_is_the_reference_stream_whatever_happens(tmp_path, caplog, seed, transport, in_order):
    caplog.set_level(logging.ERROR, "asyncprefetch")
    before = soak.figures()
    soak.run_round(seed, tmp_path, transport=transport, in_order=in_order)
    assert soak.settled(before) == before, f"seed {seed}"
