"""The library's promise as a property: any calls in any order give the stream of the model."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from asyncprefetch import AsyncPrefetcher, AsyncPrefetcherState
from asyncprefetch.testing import assert_items_equal
from tests.conftest import EXECUTORS
from tests.consumer import cancelled_after
from tests.pipelines.counting import Count, in_turns

ARRAYS = st.builds(
    lambda dtype, shape: f"array:{dtype.str}:{','.join(map(str, shape))}",
    st.one_of(
        hnp.boolean_dtypes(),
        hnp.integer_dtypes(endianness="?"),
        hnp.floating_dtypes(endianness="?"),
        hnp.complex_number_dtypes(),
        hnp.datetime64_dtypes(max_period="D", min_period="ns"),
        hnp.byte_string_dtypes(max_len=4),
    ),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
ITEMS = st.one_of(st.sampled_from(["int", "none", "batch", "nest"]), ARRAYS)
SHARDS = st.lists(st.tuples(st.integers(0, 9), ITEMS), min_size=1, max_size=4)
RESOURCES = st.tuples(st.integers(1, 6), st.integers(1, 4))  # the prefetch, and the maximal number of workers
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("next"), st.integers(1, 5)),
        st.tuples(st.just("cancel next"), st.integers(0, 9)),
        st.tuples(st.just("cancel get_state"), st.integers(0, 9)),
        st.tuples(st.just("pause"), st.integers(1, 9)),
        st.tuples(st.just("get_state"), st.sampled_from([None, 0])),
        st.tuples(st.sampled_from(["json", "bytes", "file"]), RESOURCES),
    ),
    max_size=12,
)


class Run:
    """One loader after another, each built from a state of the previous one."""

    def __init__(self, pipeline, in_order, executor_factory, folder):
        self.pipeline = pipeline
        self.executor_factory = executor_factory
        self.path = folder / "state.safetensors"
        self.got = []
        self.ended = False
        self.loader = AsyncPrefetcher(pipeline, in_order=in_order, **self.resources((2, 2)))

    def resources(self, drawn):
        prefetch, workers = drawn
        return {
            "n_batches_to_prefetch": prefetch,
            "num_workers": min(workers, len(self.pipeline)),
            "workers": self.executor_factory,
        }

    async def next(self):
        return (await anext(self.loader),)

    def take(self, item):
        if item is not None:
            self.got.append(item[0])

    async def step(self, what, how):
        try:
            match what:
                case "next":
                    for _ in range(how):
                        self.take(await self.next())
                case "cancel next":
                    self.take(await cancelled_after(how, self.next()))
                case "cancel get_state":
                    await cancelled_after(how, self.loader.get_state())
                case "pause":
                    for _ in range(how):
                        await asyncio.sleep(0)
                case "get_state":
                    state = await self.loader.get_state(grace=how)
                    assert state.delivered.total == len(self.got)
                case _:
                    await self.move(what, how)
        except StopAsyncIteration:
            self.ended = True

    async def move(self, through, resources):
        state = await self.loader.get_state()
        await self.loader.aclose()
        match through:
            case "json":
                state = AsyncPrefetcherState.from_json(state.to_json())
            case "bytes":
                state = AsyncPrefetcherState.from_bytes(state.to_bytes())
            case "file":
                await state.save(self.path)
                state = await AsyncPrefetcherState.load(self.path, expect=self.pipeline)
        self.loader = state.build(**self.resources(resources))

    async def finish(self):
        async with self.loader:
            async for item in self.loader:
                self.got.append(item)


async def check(shards, in_order, steps, executor_factory, folder):
    pipeline = [Count(length, 1000 * i, items) for i, (length, items) in enumerate(shards)]
    run = Run(pipeline, in_order, executor_factory, folder)
    try:
        for what, how in steps:
            await run.step(what, how)
        await run.finish()
    finally:
        await run.loader.aclose()
    models = [shard.model() for shard in pipeline]
    if in_order:
        assert_items_equal(run.got, in_turns(models))
        return
    # The loader promises the order of each shard. An item's number gives its shard; an item ``None`` has no number.
    assert len(run.got) == sum(map(len, models))
    for shard, (_, items) in enumerate(shards):
        if items != "none":
            assert_items_equal([item for item in run.got if _shard(item) == shard], models[shard])


def _shard(item):
    number = item if isinstance(item, int) else item["n"] if isinstance(item, dict) else None
    if item is not None and number is None:
        number = int(item.x[0, 0])
    return None if number is None else number // 1000


@pytest.mark.asyncio(loop_factories=["asyncio"])
@pytest.mark.parametrize("executor", ["inline", "thread"])
@pytest.mark.timeout(120)
@settings(max_examples=150)
@given(shards=SHARDS, in_order=st.booleans(), steps=STEPS)
async def test_any_interleaving_gives_the_stream_of_the_model(tmp_path, executor, shards, in_order, steps):
    await check(shards, in_order, steps, EXECUTORS[executor], tmp_path)


@pytest.mark.asyncio(loop_factories=["uvloop"])
@pytest.mark.timeout(120)
@settings(max_examples=40)
@given(shards=SHARDS, in_order=st.booleans(), steps=STEPS)
async def test_any_interleaving_gives_the_stream_of_the_model_with_processes(tmp_path, shards, in_order, steps):
    await check(shards, in_order, steps, None, tmp_path)


@pytest.mark.asyncio(loop_factories=["asyncio"])
@pytest.mark.parametrize("executor", ["pull", "pool"])
@pytest.mark.timeout(120)
@settings(max_examples=15)
@given(shards=SHARDS, in_order=st.booleans(), steps=STEPS)
async def test_any_interleaving_gives_the_stream_of_the_model_with_processes_that_are_called(
    tmp_path, executor, shards, in_order, steps
):
    """The pull transport, on the library's executor and on a pool of ``concurrent.futures`` with one worker."""
    await check(shards, in_order, steps, EXECUTORS[executor], tmp_path)


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_every_position_of_a_stream_can_be_resumed_and_resumed_again(tmp_path):
    """For all n and k: take n batches and a state; build it, take k batches and a state; build it and take the rest."""
    shards = [(5, "nest"), (3, "batch")]
    for n in range(9):
        for k in range(9 - n):
            steps = [("next", n), ("bytes", (3, 2)), ("next", k), ("json", (1, 1))]
            await check(shards, True, steps, EXECUTORS["inline"], tmp_path)
