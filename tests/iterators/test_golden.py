"""States and checkpoints that an earlier commit wrote can be read and continue exactly."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asyncprefetch import AsyncPrefetcher, AsyncPrefetcherState, IteratorState, StatefulIterator
from tests.iterators.golden_pipelines import GOLDEN, PIPELINES, digest, states_of


@pytest.fixture(autouse=True)
def _in_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)


def only_as_in(state: Any, golden: Any) -> Any:
    """Return a dumped state without the fields that its golden state lacks."""
    if isinstance(state, dict) and isinstance(golden, dict):
        return {key: only_as_in(value, golden[key]) for key, value in state.items() if key in golden}
    if isinstance(state, list) and isinstance(golden, list) and len(state) == len(golden):
        return [only_as_in(*pair) for pair in zip(state, golden, strict=True)]
    return state


@pytest.mark.parametrize("name", PIPELINES)
def test_a_state_of_an_earlier_commit_is_read_and_continues_exactly(name: str) -> None:
    for written in json.loads((GOLDEN / f"{name}.json").read_text()):
        state = IteratorState.model_validate_json(json.dumps(written["state"]))
        assert only_as_in(json.loads(state.model_dump_json()), written["state"]) == written["state"]
        assert digest(state.build().create_iter()) == written["rest"], written["position"]


@pytest.mark.parametrize("name", PIPELINES)
def test_states_are_written_as_by_an_earlier_commit(name: str) -> None:
    """Fields that the class has got since are written with their defaults."""
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    for written in golden:
        state = IteratorState.model_validate_json(json.dumps(written["state"]))
        written["state"] = json.loads(state.model_dump_json())
    assert states_of(name) == golden


def shards() -> list[StatefulIterator[Any]]:
    return [PIPELINES[name]() for name in ("limit_of_looping", "looping_of_limit", "from_iterable")]


@pytest.mark.both_loops
async def test_a_checkpoint_of_an_earlier_commit_is_read_and_continues_exactly() -> None:
    async with AsyncPrefetcher(shards(), n_batches_to_prefetch=4) as uninterrupted:
        expected = [item async for item in uninterrupted]
    # The checkpoint was saved after 7 items.
    state = await AsyncPrefetcherState.load(GOLDEN / "loader.safetensors", expect=shards())
    async with state.build() as restored:
        assert [item async for item in restored] == expected[7:]
