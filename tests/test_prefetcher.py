"""The loader as a user sees it, on all executors."""

from __future__ import annotations

import asyncio
import json
import threading

import numpy as np
import pytest

from asyncprefetch import (
    AsyncPrefetcher,
    AsyncPrefetcherState,
    Batch,
    CheckpointError,
    CheckpointWarning,
    PrefetcherBusyError,
    PrefetcherClosedError,
    ProcessWorkers,
)
from asyncprefetch.executors import InlineExecutor
from asyncprefetch.iterators import (
    LimitIterator,
    LoopingIterator,
    SamplingIterator,
    ShuffleIterator,
    from_iterable,
)
from asyncprefetch.testing import assert_items_equal
from tests.conftest import inline
from tests.consumer import rest, take, through_bytes, through_json, until
from tests.inside import delivery_of, snapshot_is_pending, worker_process
from tests.pipelines import functions, unpickling
from tests.pipelines.counting import Count, CountState, in_turns
from tests.pipelines.gates import Gate, GateKeeper
from tests.pipelines.items import Unregistered

# ---------------------------------------------------------------------------------------------------------- the stream


@pytest.mark.parametrize(("shards", "workers"), [(1, 1), (3, 1), (3, 2), (3, 3)])
@pytest.mark.parametrize("prefetch", [1, 8])
@pytest.mark.both_loops
async def test_the_stream_is_what_the_shards_say_whatever_the_workers(executor_factory, shards, workers, prefetch):
    pipeline = [Count(3 + 2 * i, 100 * i) for i in range(shards)]
    loader = AsyncPrefetcher(pipeline, num_workers=workers, n_batches_to_prefetch=prefetch, workers=executor_factory)
    assert await rest(loader) == in_turns([shard.model() for shard in pipeline])


async def test_out_of_order_each_shard_keeps_its_own_order(executor_factory):
    pipeline = [Count(5, 0), Count(9, 100), Count(2, 200)]
    loader = AsyncPrefetcher(pipeline, num_workers=2, in_order=False, workers=executor_factory)
    got = await rest(loader)
    for shard in pipeline:
        assert [n for n in got if shard.base <= n < shard.base + 100] == shard.model()
    assert len(got) == 16


@pytest.mark.parametrize("items", ["none", "batch", "nest", "big"])
@pytest.mark.both_loops
async def test_items_of_any_nest_cross_and_survive_a_checkpoint_with_their_types(executor_factory, items):
    pipeline = Count(9, items=items)
    async with AsyncPrefetcher(pipeline, n_batches_to_prefetch=4, workers=executor_factory) as loader:
        got = await take(loader, 3)
        while loader.statistics().buffered < 4:
            await asyncio.sleep(0)
        state = await loader.get_state()
    assert_items_equal(got, pipeline.model()[:3])
    assert len(state.buffer) == 4
    for again in (through_json(state), through_bytes(state)):
        assert_items_equal(await rest(again.build(workers=executor_factory)), pipeline.model()[3:])


async def test_delivered_arrays_are_writable_and_what_is_done_to_them_reaches_no_state(executor_factory):
    pipeline = Count(4, items="batch")
    async with AsyncPrefetcher(pipeline, workers=executor_factory) as loader:
        await anext(loader)
        state = await loader.get_state()
        for batch in await take(loader, 3):
            batch.x[...] = -1
    for _ in range(2):
        got = await rest(state.build(workers=executor_factory))
        assert_items_equal(got, pipeline.model()[1:])
        for batch in got:
            batch.x[...] = -1


async def test_a_bare_loader_starts_at_the_first_batch_and_leaves_nothing_at_its_end(executor_factory):
    loader = AsyncPrefetcher(Count(3), workers=executor_factory)
    assert loader.statistics().state == "new"
    assert [n async for n in loader] == [0, 1, 2]
    assert loader.statistics().state == "ended"
    with pytest.raises(StopAsyncIteration):
        await anext(loader)


async def test_an_empty_shard_ends_at_once(executor_factory):
    assert await rest(AsyncPrefetcher(Count(0), workers=executor_factory)) == []
    pipeline = [Count(0), Count(2), Count(0)]
    assert await rest(AsyncPrefetcher(pipeline, workers=executor_factory)) == [0, 1]


@pytest.mark.both_loops
async def test_other_tasks_run_though_batches_are_always_ready():
    loop = asyncio.get_running_loop()
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async with (await _full_buffer(2000)).build(workers=inline) as loader:
        ticker = asyncio.create_task(tick())
        began = loop.time()
        for _ in range(2000):
            await anext(loader)
        seconds, ticks_meanwhile = loop.time() - began, ticks
        ticker.cancel()
    assert ticks_meanwhile >= min(100 * seconds, 5)  # one tick in ten milliseconds, even on a slow machine


@pytest.mark.both_loops
async def test_large_batches_are_opened_in_a_thread(executor_factory):
    got = await rest(AsyncPrefetcher(unpickling.where, workers=executor_factory))
    here = threading.get_ident()
    assert [item["by"] == here for item in got] == [True, False, True]
    assert [len(item["data"]) for item in got] == [10, 1 << 22, 10]


@pytest.mark.both_loops
async def test_a_large_batch_whose_opening_is_cancelled_is_not_lost(executor_factory):
    async with AsyncPrefetcher(Count(9, items="huge"), workers=executor_factory) as loader:
        got = []
        for rounds in [0, 1, 2, 3, 5, 8, 13, 21]:
            task = asyncio.create_task(anext(loader))
            for _ in range(rounds):
                await asyncio.sleep(0)
            task.cancel()
            try:
                got.append((await task)["n"])
            except asyncio.CancelledError:
                continue
        assert got + [item["n"] async for item in loader] == list(range(9))


async def _full_buffer(count):
    async with AsyncPrefetcher(Count(count + 1), n_batches_to_prefetch=count, workers=inline) as loader:
        await anext(loader)
        while loader.statistics().buffered < count:
            await asyncio.sleep(0)
        return await loader.get_state()


# ------------------------------------------------------------------------------------------------------------ the state


@pytest.mark.parametrize("taken", [0, 1, 4, 8, 11])
@pytest.mark.parametrize("through", [through_json, through_bytes])
async def test_state_and_rest_are_the_whole_stream(executor_factory, taken, through):
    pipeline = [Count(5), Count(6, 100)]
    model = in_turns([shard.model() for shard in pipeline])
    async with AsyncPrefetcher(pipeline, n_batches_to_prefetch=4, workers=executor_factory) as loader:
        assert await take(loader, taken) == model[:taken]
        state = await loader.get_state()
        assert [n async for n in loader] == model[taken:]  # the same loader continues
    assert state.delivered.total == taken
    assert state.delivered.by_shard == {i: sum(100 * i <= n < 100 * i + 100 for n in model[:taken]) for i in range(2)}
    assert state.shard_ids == (0, 1)
    assert state.num_shards == 2
    for workers in (1, 2):
        again = through(state).build(workers=executor_factory, num_workers=workers, n_batches_to_prefetch=2)
        assert await rest(again) == model[taken:]


async def test_get_state_returns_though_the_buffer_is_full(executor_factory):
    async with AsyncPrefetcher(Count(50), n_batches_to_prefetch=3, workers=executor_factory) as loader:
        await anext(loader)
        while loader.statistics().buffered < 3:
            await asyncio.sleep(0)
        state = await loader.get_state()
        assert len(state.buffer) == 3
        assert all(shard.skip == () for shard in state.shards)
    assert await rest(state.build(workers=executor_factory)) == list(range(1, 50))


@pytest.mark.both_loops
async def test_get_state_at_any_time(executor_factory):
    loader = AsyncPrefetcher(Count(5), workers=executor_factory)
    states = [(0, await loader.get_state())]  # before the start
    assert loader.statistics().state == "new"
    async with loader:
        states.append((0, await loader.get_state()))  # while the worker starts
        await anext(loader)
        states.append((1, await loader.get_state()))
        states.append((1, await loader.get_state()))  # twice in a row
        assert [n async for n in loader] == [1, 2, 3, 4]
        states.append((5, await loader.get_state()))  # after the end
    for taken, state in states:
        assert await rest(through_json(state).build(workers=executor_factory)) == list(range(taken, 5))


@pytest.mark.both_loops
async def test_get_state_while_another_task_waits_for_a_batch(tmp_path):
    keeper = GateKeeper(tmp_path, 2)
    async with AsyncPrefetcher(Gate(5, str(tmp_path))) as loader:
        await take(loader, 2)
        waiting = asyncio.create_task(anext(loader))
        await keeper.reached(2)
        asked = asyncio.create_task(loader.get_state())
        await asyncio.sleep(0)
        await keeper.open(2)
        state = await asked
        assert await waiting == 2
        assert [n async for n in loader] == [3, 4]
    assert await rest(state.build()) in ([2, 3, 4], [3, 4])  # the consumer may have taken the batch before the snapshot


@pytest.mark.both_loops
async def test_concurrent_callers_of_get_state_share_one_stop(executor_factory):
    async with AsyncPrefetcher(Count(20), workers=executor_factory) as loader:
        await anext(loader)
        states = await asyncio.gather(*(loader.get_state() for _ in range(3)))
        assert len({state.model_dump_json() for state in states}) == 1
        assert await take(loader, 2) == [1, 2]


@pytest.mark.both_loops
async def test_a_state_is_fresh_though_an_older_one_is_still_being_encoded(executor_factory):
    async with AsyncPrefetcher(Count(20), workers=executor_factory) as loader:
        await anext(loader)
        older = asyncio.create_task(loader.get_state())
        while not snapshot_is_pending(loader) and not older.done():
            await asyncio.sleep(0)
        await anext(loader)
        state = await loader.get_state()
        assert state.delivered.total == 2
        await older


@pytest.mark.both_loops
async def test_with_grace_a_long_draw_is_not_waited_for(tmp_path):
    keeper = GateKeeper(tmp_path, 3)
    async with AsyncPrefetcher(Gate(6, str(tmp_path))) as loader:
        await take(loader, 2)
        await keeper.reached(3)
        state = await loader.get_state(grace=0)
        assert state.shards[0].skip != () or state.shards[0].state_position > 0
        await keeper.open(3)
        assert [n async for n in loader] == [2, 3, 4, 5]  # the worker reads the stop late, and the next run continues
    assert await rest(through_bytes(state).build()) == [2, 3, 4, 5]


@pytest.mark.parametrize("grace", [-1, float("nan")])
async def test_a_negative_grace_is_refused(grace):
    with pytest.raises(ValueError, match="grace must be a number of seconds from 0"):
        await AsyncPrefetcher(Count(1)).get_state(grace=grace)


@pytest.mark.both_loops
async def test_restored_batches_come_at_once_while_the_worker_starts():
    async with AsyncPrefetcher(Count(50), n_batches_to_prefetch=4) as loader:
        await anext(loader)
        while loader.statistics().buffered < 4:
            await asyncio.sleep(0)
        state = await loader.get_state()
    loader = state.build()
    async with loader:
        with worker_process.starting:  # the lock delays the worker's start
            assert await take(loader, 4) == [1, 2, 3, 4]
            assert loader.statistics().workers[0].state == "starting"
        assert await anext(loader) == 5


@pytest.mark.both_loops
async def test_a_chain_of_resumes_with_changing_resources_changes_no_batch(executor_factory):
    pipeline = [Count(7), Count(5, 100), Count(9, 200)]
    model = in_turns([shard.model() for shard in pipeline])
    got = []
    loader = AsyncPrefetcher(pipeline, workers=executor_factory)
    for workers, prefetch in [(1, 1), (3, 9), (2, 2), (1, 5), (3, 1), (2, 8)]:
        async with loader:
            got += await take(loader, 3)
            state = await loader.get_state()
        loader = through_json(state).build(
            num_workers=workers, n_batches_to_prefetch=prefetch, workers=executor_factory
        )
    assert got + await rest(loader) == model


async def test_the_bound_holds_and_counts_restored_batches(executor_factory):
    async with AsyncPrefetcher(Count(60), n_batches_to_prefetch=9, workers=executor_factory) as loader:
        await anext(loader)
        while loader.statistics().buffered < 9:
            await asyncio.sleep(0)
        state = await loader.get_state()
    async with state.build(n_batches_to_prefetch=2, workers=executor_factory) as loader:
        for n in range(1, 60):
            assert await anext(loader) == n
            statistics = loader.statistics()
            assert statistics.buffered + statistics.requested <= max(2, 9 - n) + 1


async def test_what_shapes_the_stream_can_not_be_given_to_build():
    state = await AsyncPrefetcher(Count(3)).get_state()
    with pytest.raises(
        TypeError,
        match=r"build\(\) takes no in_order: it takes n_batches_.*shapes the stream",
    ):
        state.build(in_order=False)
    with pytest.raises(ValueError, match="num_workers=2 with 1 shard"):
        state.build(num_workers=2)


async def test_an_item_that_no_checkpoint_can_hold_is_reported_at_the_first_batch_and_loses_nothing(executor_factory):
    loader = AsyncPrefetcher(functions.unregistered, workers=executor_factory)
    async with loader:
        with pytest.warns(
            CheckpointWarning, match=r"shard 0: .* item: tests.pipelines.items.Unregistered is not registered"
        ) as warned:
            first = await anext(loader)
        assert warned[0].filename == __file__
        assert first == Unregistered(0)
        await until(lambda: loader.statistics().buffered, 30)
        with pytest.raises(CheckpointError, match=r"a buffered batch of shard 0: .*Unregistered is not registered"):
            await loader.get_state()
        assert [item.value async for item in loader] == [1, 2, 3]


@pytest.mark.both_loops
async def test_a_warning_that_is_made_an_error_loses_no_batch():
    async with AsyncPrefetcher(functions.unregistered, workers=inline) as loader:
        with pytest.raises(CheckpointWarning):
            await anext(loader)
        assert [item.value async for item in loader] == [0, 1, 2, 3]


# ------------------------------------------------------------------------------------------------------------ the file


@pytest.mark.both_loops
async def test_save_and_load(tmp_path, executor_factory):
    pipeline = [Count(5, items="batch"), Count(5, 100, "batch")]
    async with AsyncPrefetcher(pipeline, workers=executor_factory) as loader:
        await take(loader, 3)
        await (await loader.get_state()).save(tmp_path / "state.safetensors")
    state = await AsyncPrefetcherState.load(tmp_path / "state.safetensors", expect=pipeline)
    expected = in_turns([shard.model() for shard in pipeline])[3:]
    assert_items_equal(await rest(state.build(workers=executor_factory)), expected)


async def test_load_refuses_the_state_of_another_pipeline_and_lists_what_differs(tmp_path):
    path = tmp_path / "state"
    await (await AsyncPrefetcher([Count(5), Count(6, 100)]).get_state()).save(path)
    await AsyncPrefetcherState.load(path, expect=[Count(5, position=3), Count(6, 100)])  # positions may differ
    with pytest.raises(CheckpointError) as caught:
        await AsyncPrefetcherState.load(path, expect=[Count(5), Count(7, 100, "batch")])
    assert "shard 1.stop: saved 6, given 7" in str(caught.value)
    assert "shard 1.items: saved 'int', given 'batch'" in str(caught.value)
    with pytest.raises(
        CheckpointError, match=r"was saved has 2 shards, and the one given as expect= has 1 shard: make"
    ):
        await AsyncPrefetcherState.load(path, expect=Count(5))
    with pytest.raises(TypeError, match=r"^expect must be a StatefulIterator or a sequence of them, not 5"):
        await AsyncPrefetcherState.load(path, expect=5)
    with pytest.raises(CheckpointError, match=r"saved CountState, given FromIterable\.State"):
        await AsyncPrefetcherState.load(path, expect=[from_iterable(functions.lines), Count(6, 100)])


def nested(stop, seed, n):
    shuffled = ShuffleIterator(LoopingIterator(Count(stop), epochs=2), buffer_size=4, seed=seed)
    mixture = SamplingIterator({"a": LimitIterator(shuffled, n), "b": Count(9)}, weights={"a": 2, "b": 1})
    return LoopingIterator(mixture, epochs=3)


@pytest.mark.parametrize("taken", [0, 5, 40])
async def test_load_sees_into_nested_states_and_past_their_positions(tmp_path, taken):
    """The start of each epoch is configuration. The position in the present epoch is not."""
    path, pipeline = tmp_path / "state", nested(20, 1, 15)
    async with AsyncPrefetcher(pipeline, workers=inline) as loader:
        await take(loader, taken)
        await (await loader.get_state()).save(path)
    await AsyncPrefetcherState.load(path, expect=nested(20, 1, 15))
    with pytest.raises(CheckpointError) as caught:
        await AsyncPrefetcherState.load(path, expect=nested(21, 2, 14))
    assert str(caught.value).splitlines()[1:] == [
        "  shard 0.start.sources[0].inner.inner.start.stop: saved 20, given 21",
        "  shard 0.start.sources[0].inner.seed: saved 1, given 2",
        "  shard 0.start.sources[0].n: saved 15, given 14",
    ]


async def test_a_file_that_can_not_be_read_changes_nothing(tmp_path):
    path = tmp_path / "state"
    with pytest.raises(CheckpointError, match="state"):
        await AsyncPrefetcherState.load(path)
    path.write_bytes(b"not a checkpoint at all")
    with pytest.raises(CheckpointError):
        await AsyncPrefetcherState.load(path)
    with pytest.raises(CheckpointError):
        AsyncPrefetcherState.from_json('{"version": 1}')
    with pytest.raises(CheckpointError, match="version 2"):
        AsyncPrefetcherState.from_json('{"version": 2, "new": true}')


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"due": 7}, "shard 7 is due"),
        ({"num_shards": 1}, "be below the count"),
        ({"buffer": [{"shard_id": 9, "item": 1}]}, "belongs to shard 9, which is not in the state"),
        ({"buffer": [{"shard_id": 0, "item": 1}]}, "its position does not fit"),
        ({"shards": []}, "shards"),
        ({"surprise": 1}, "surprise"),
        ({"in_order": "yes"}, "in_order"),
    ],
)
async def test_a_state_that_contradicts_itself_is_refused(change, reason):
    state = await AsyncPrefetcher([Count(5), Count(5)]).get_state()
    document = {**state.model_dump(mode="json"), **change}
    with pytest.raises(CheckpointError, match=reason):
        AsyncPrefetcherState.from_json(_json(document))


async def test_an_unknown_kind_names_itself_and_says_what_to_import():
    state = await AsyncPrefetcher(Count(5)).get_state()
    text = state.model_dump_json().replace("tests.count", "elsewhere.count")
    with pytest.raises(CheckpointError, match=r"unknown kind 'elsewhere.count'.* Import the module that has"):
        AsyncPrefetcherState.from_json(text)


def _json(document):
    return json.dumps(document)


async def test_states_name_their_shards_by_global_number():
    """A state with some shards of a larger stream, as each rank of a job has, can be built and saved again."""
    state = await AsyncPrefetcher([Count(3), Count(3, 100), Count(3, 200)], in_order=True).get_state()
    document = state.model_dump(mode="json")
    document.update(shards=document["shards"][1:], due=2)
    part = AsyncPrefetcherState.from_json(_json(document))
    assert part.shard_ids == (1, 2)
    async with part.build(workers=inline) as loader:
        assert await take(loader, 3) == [200, 100, 201]
        later = await loader.get_state()
        assert later.num_shards == 3
        assert later.delivered.by_shard == {1: 1, 2: 2}
        assert await rest(through_bytes(later).build(workers=inline)) == [101, 202, 102]


# --------------------------------------------------------------------------------------------------------------- misuse


@pytest.mark.both_loops
async def test_two_consumers_at_once_are_refused(tmp_path):
    keeper = GateKeeper(tmp_path, 0)
    async with AsyncPrefetcher(Gate(2, str(tmp_path))) as loader:
        waiting = asyncio.create_task(anext(loader))
        await keeper.reached(0)
        with pytest.raises(PrefetcherBusyError, match="another task is waiting"):
            await anext(loader)
        await keeper.open(0)
        assert await waiting == 0
        assert await anext(loader) == 1


@pytest.mark.both_loops
async def test_a_closed_loader_says_so(executor_factory):
    loader = AsyncPrefetcher(Count(5), workers=executor_factory)
    async with loader:
        await anext(loader)
    await loader.aclose()
    for call in (loader.__anext__, loader.get_state, loader.__aenter__):
        with pytest.raises(PrefetcherClosedError):
            await call()
    never_started = AsyncPrefetcher(Count(5))
    await never_started.aclose()
    with pytest.raises(PrefetcherClosedError):
        await anext(never_started)


@pytest.mark.both_loops
async def test_closing_wakes_each_call_that_waits(tmp_path):
    keeper = GateKeeper(tmp_path, 0)
    loader = AsyncPrefetcher(Gate(2, str(tmp_path)))
    waiting = asyncio.create_task(anext(loader))
    await keeper.reached(0)
    asked = asyncio.create_task(loader.get_state())
    await asyncio.sleep(0)
    await asyncio.gather(loader.aclose(), loader.aclose())
    for task in (waiting, asked):
        with pytest.raises(PrefetcherClosedError):
            await task


@pytest.mark.both_loops
async def test_a_state_for_which_there_is_no_memory_is_an_error_and_the_loader_goes_on(executor_factory, monkeypatch):
    def refuse():
        monkeypatch.undo()
        raise MemoryError("no memory for the copy of a batch")

    async with AsyncPrefetcher(Count(9), workers=executor_factory) as loader:
        got = await take(loader, 2)
        monkeypatch.setattr(delivery_of(loader), "ready", refuse)
        with pytest.raises(MemoryError, match="for the copy of a batch"):
            await loader.get_state()
        state = await loader.get_state()
        got += [item async for item in loader]
    assert got == list(range(9))
    assert await rest(state.build(workers=executor_factory)) == got[2:]


def test_a_loader_belongs_to_one_event_loop():
    loader = AsyncPrefetcher(Count(5), workers=inline)
    first = asyncio.new_event_loop()
    try:
        assert first.run_until_complete(anext(loader)) == 0

        async def elsewhere():
            with pytest.raises(PrefetcherBusyError, match="another event loop"):
                await anext(loader)
            with pytest.raises(PrefetcherBusyError, match="another event loop"):
                await loader.get_state()
            with pytest.raises(PrefetcherBusyError, match="another event loop"):
                await loader.aclose()

        asyncio.run(elsewhere())
        assert first.run_until_complete(anext(loader)) == 1
        first.run_until_complete(loader.aclose())
        asyncio.run(loader.aclose())
    finally:
        first.close()


def test_a_loader_whose_event_loop_is_closed_can_be_closed_on_another():
    loader = AsyncPrefetcher(Count(50), workers=inline)
    first = asyncio.new_event_loop()
    try:
        assert first.run_until_complete(anext(loader)) == 0
    finally:
        first.close()
    asyncio.run(loader.aclose())
    assert loader.statistics().state == "closed"


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"base_iterator": [1, 2]}, TypeError, r"shard 0 must be a StatefulIterator, not 1"),
        ({"base_iterator": iter([1])}, TypeError, "see asyncprefetch.iterators.from_iterable"),
        ({"base_iterator": []}, ValueError, "at least one shard"),
        ({"n_batches_to_prefetch": 0}, ValueError, "n_batches_to_prefetch must be at least 1, not 0"),
        (
            {"n_batches_to_prefetch": 1_000_001},
            ValueError,
            "n_batches_to_prefetch must be at most 1000000, not 1000001",
        ),
        ({"n_batches_to_prefetch": 1.5}, TypeError, "n_batches_to_prefetch must be an int, not 1.5"),
        ({"num_workers": 2}, ValueError, "num_workers=2 with 1 shard"),
        ({"num_workers": 0}, ValueError, "num_workers must be at least 1"),
        ({"max_restarts": -1}, ValueError, "max_restarts must be at least 0"),
        ({"retry_on": "OSError"}, TypeError, "retry_on must be an exception class or a tuple of them"),
        ({"stall_timeout": 0}, ValueError, "stall_timeout must be more than 0 seconds"),
        ({"start_timeout": None}, TypeError, "start_timeout must be a number of seconds"),
        (
            {"workers": ProcessWorkers(initializer=lambda worker: None)},
            TypeError,
            "initializer can't be sent to a worker",
        ),
        ({"workers": 3}, TypeError, "workers must be a ProcessWorkers, or a function that takes the worker's number"),
        ({"workers": InlineExecutor()}, TypeError, "workers must be a ProcessWorkers, or a function"),
        ({"workers": ProcessWorkers}, TypeError, "workers must be a ProcessWorkers, or a function"),
    ],
)
def test_bad_arguments_are_refused_with_what_to_do(arguments, error, text):
    with pytest.raises(error, match=text):
        AsyncPrefetcher(**{"base_iterator": Count(1), **arguments})


def test_a_state_that_can_not_be_pickled_is_refused_at_once():
    class LocalState(CountState, kind="tests.local"):
        pass

    class Local(Count):
        def get_state(self):
            return LocalState(stop=1)

    with pytest.raises(TypeError, match=r"the state of shard 0 can't be sent to a worker process.* top level"):
        AsyncPrefetcher(Local(1))


# ----------------------------------------------------------------------------------------------------------- statistics


async def test_statistics_and_their_verdict(executor_factory):
    loader = AsyncPrefetcher([Count(5), Count(5, 100)], num_workers=2, workers=executor_factory)
    assert "no batch was asked for" in loader.explain()
    async with loader:
        await take(loader, 4)
        statistics = loader.statistics()
        assert statistics.delivered == 4
        assert statistics.delivered_by_shard == {0: 2, 1: 2}
        assert statistics.state == "active"
        assert [worker.shards for worker in statistics.workers] == [(0,), (1,)]
        assert all(worker.pid for worker in statistics.workers)
        assert statistics.seconds_to_first is not None
        assert statistics.seconds_to_first > 0
        assert statistics.restarts == 0
        assert "4 batches delivered" in loader.explain()
    assert loader.statistics().state == "closed"


def test_batch_is_a_plain_dataclass_of_arrays():
    batch = Batch(np.zeros((2, 3), np.int64), np.ones((2, 3), np.int64))
    assert batch.mask is None
    assert Batch.from_python_dict(batch.to_python_dict()).x.shape == (2, 3)
