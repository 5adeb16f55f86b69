"""A loader and an executor refuse to be copied, and say what to do. A state may be copied in every way."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import re
from typing import Any

import pytest

from asyncprefetch import AsyncPrefetcher
from asyncprefetch.executors import InlineExecutor, ProcessExecutor
from tests.conftest import inline
from tests.consumer import rest, take
from tests.pipelines.counting import Count


@dataclasses.dataclass
class Config:
    data: Any


class WithState(AsyncPrefetcher[int]):
    """Its author thought of pickle, and not of the workers."""

    def __getstate__(self):
        return {}


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "asdict": lambda value: dataclasses.asdict(Config(value))["data"],
    **{
        f"pickle {n}": lambda value, n=n: pickle.loads(pickle.dumps(value, n))
        for n in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}
EACH_COPY = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)


def refusal(value, advice):
    return rf"^{re.escape(repr(value))} can't be copied or pickled, because it owns what it runs: .*{advice}"


@EACH_COPY
@pytest.mark.parametrize("started", [False, True], ids=["new", "started"])
@pytest.mark.parametrize("kind", [AsyncPrefetcher, WithState])
@pytest.mark.both_loops
async def test_a_loader_is_not_copied_and_the_error_names_get_state_and_build(copied, started, kind):
    loader = kind(Count(4), workers=inline)
    got = await take(loader, 1) if started else []
    with pytest.raises(TypeError, match=refusal(loader, r"get_state\(\).*build\(\) for a second loader")):
        copied(loader)
    assert got + await rest(loader) == [0, 1, 2, 3]


@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps])
def test_a_loader_is_not_copied_with_a_method_that_is_bound_to_it(copied):
    loader = AsyncPrefetcher(Count(4), workers=inline)
    with pytest.raises(TypeError, match=refusal(loader, r"get_state\(\)")):
        copied(loader.statistics)


@EACH_COPY
def test_a_process_executor_is_not_copied(copied):
    with ProcessExecutor() as executor:
        pid = executor.submit(os.getpid)
        with pytest.raises(TypeError, match=refusal(executor, "make a second one")):
            copied(executor)
        assert pid.result(10) == executor.pid


@EACH_COPY
def test_an_inline_executor_is_not_copied(copied):
    executor = InlineExecutor()
    with pytest.raises(TypeError, match=refusal(executor, "make a second one")):
        copied(executor)


@EACH_COPY
async def test_a_state_is_copied_and_builds_the_same_loader(copied):
    async with AsyncPrefetcher([Count(4), Count(4, 100)], workers=inline) as loader:
        await take(loader, 3)
        state = await loader.get_state()
        left = [item async for item in loader]
    again = copied(state)
    assert again == state
    assert await rest(again.build(workers=inline)) == left


def test_statistics_are_copied():
    statistics = AsyncPrefetcher(Count(1), workers=inline).statistics()
    assert copy.deepcopy(statistics) == statistics
    assert pickle.loads(pickle.dumps(statistics)) == statistics
