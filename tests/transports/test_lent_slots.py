"""Batches on slots: the consumer's batches never change, snapshots are exact, and nothing deadlocks."""

from __future__ import annotations

import asyncio
import mmap
import os
import queue
import threading
from pathlib import Path

import numpy as np
import pytest

from asyncprefetch import AsyncPrefetcher, ProcessWorkers, full
from asyncprefetch.testing import assert_items_equal
from tests.consumer import rest, take
from tests.inside import OnSlot, checkpoint_state, shared_memory
from tests.limits import memory_left
from tests.pipelines import unpickling
from tests.pipelines.arrays import Arrays
from tests.transports.sides import Sides, lies_in_shared_memory

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create")

BIG = 20_000
MADE = pytest.mark.parametrize("way", ["made in place", "one plain buffer"])


@pytest.fixture
def sides():
    with Sides(max_held=2) as sides:
        yield sides


# ---------------------------------------------------------------------------------------------------------------- lent slots


def test_a_slot_comes_back_once_when_nothing_lies_on_it(sides):
    batch, slot = sides.cross(full(BIG, 7, np.uint8))
    part = batch[5:]
    del batch
    assert sides.lent_slots.returned() == []
    assert len(sides.lent_slots.lent) == 1
    del part
    assert sides.lent_slots.returned() == [slot]
    assert sides.lent_slots.returned() == []
    assert len(sides.lent_slots.lent) == 0


def test_a_batch_that_was_opened_and_not_delivered_keeps_its_slot(sides):
    payload = sides.send(np.full(BIG, 7, np.uint8))
    assert sides.lent_slots.returned() == []
    payload.load()
    assert sides.lent_slots.returned() == []
    assert (payload.load() == 7).all()
    del payload
    assert sides.lent_slots.returned() == [0]


def test_who_holds_too_many_gets_copies_and_their_slots_come_back_at_once(sides):
    held = [sides.cross(np.full(BIG, n, np.uint8))[0] for n in range(2)]
    assert [lies_in_shared_memory(batch) for batch in held] == [True, True]
    payload = sides.send(np.full(BIG, 2, np.uint8))
    assert payload.size > BIG
    held.append(payload.load())
    del payload
    assert not lies_in_shared_memory(held[2])
    assert held[2].flags.writeable
    assert sides.give_back() == [2]
    assert [(batch == n).all() for n, batch in enumerate(held)] == [True] * 3
    del held[0]
    assert sides.give_back() == [0]
    payload = sides.send(np.full(BIG, 3, np.uint8))
    assert payload.size < BIG
    assert lies_in_shared_memory(payload.load())


def test_while_a_snapshot_reads_a_batch_the_consumer_gets_a_copy(sides):
    payload = sides.send(full(BIG, 7, np.uint8))
    reading = payload.reading()
    assert payload.reading() is reading
    assert reading.reading() is reading
    assert reading.size == BIG
    assert payload.size > BIG
    batch = payload.load()
    assert not lies_in_shared_memory(batch)
    batch.fill(1)
    assert (reading.load() == 7).all()
    del reading
    assert lies_in_shared_memory(payload.load())


def test_a_snapshot_of_a_batch_that_is_already_opened_has_a_copy(sides):
    payload = sides.send(full(BIG, 7, np.uint8))
    batch = payload.load()
    reading = payload.reading()
    assert lies_in_shared_memory(batch)
    batch.fill(1)
    assert (reading.load() == 7).all()


def test_a_frame_on_the_slot_is_copied_with_it(sides):
    frame = sides.pickler.dumps([full(BIG, 7, np.uint8), "text"])
    span = sides.allocator.place_bytes(frame), len(frame)
    payload = OnSlot(b"", span, *sides.allocator.seal(), False, sides.lent_slots)
    assert payload.size == len(frame)
    on_slot = payload.load()
    reading = payload.reading()
    payload._on_slot = False
    copied = payload.load()
    assert [lies_in_shared_memory(item[0]) for item in (on_slot, copied)] == [True, False]
    on_slot[0].fill(1)
    assert_items_equal(copied, [np.full(BIG, 7, np.uint8), "text"])
    assert_items_equal(reading.load(), [np.full(BIG, 7, np.uint8), "text"])


# --------------------------------------------------------------------------------------------------- a consumer's arrays


@MADE
@pytest.mark.both_loops
async def test_batches_lie_writable_on_slots_that_are_used_again(way):
    async with AsyncPrefetcher(Arrays(60, way), n_batches_to_prefetch=3) as loader:
        addresses = set()
        for n in range(60):
            batch = await anext(loader)
            assert lies_in_shared_memory(batch)
            assert_items_equal(batch, np.full(4096, n))
            batch += 1
            addresses.add(batch.ctypes.data)
            del batch
        assert len(addresses) <= 3 + 2 + 1  # three are ahead, the consumer has two, and the worker makes one


VIEWS = [
    lambda a: a[3:50],
    lambda a: a.reshape(64, -1).T,
    lambda a: a[::-2],
    lambda a: a.reshape(64, -1)[5, 3:4].reshape(()),
    lambda a: a.view(np.int8)[100:],
    memoryview,
    lambda a: a[1:].data,
]


def keep_a_view(batches, kept):
    view = VIEWS[len(kept) % len(VIEWS)](batches.pop())
    kept.append((view, np.array(view)))


@MADE
@pytest.mark.parametrize("where", ["here", "in a thread"])
async def test_what_is_kept_of_a_batch_never_changes(way, where):
    pipeline = Arrays(214, way)
    async with AsyncPrefetcher(pipeline, n_batches_to_prefetch=3) as loader:
        kept = []
        for _ in range(2 * len(VIEWS)):
            batches = await take(loader, 1)
            if where == "here":
                keep_a_view(batches, kept)
            else:
                await asyncio.to_thread(keep_a_view, batches, kept)
        async for batch in loader:
            batch.fill(-1)
        assert all((np.asarray(view) == then).all() for view, then in kept)


@pytest.mark.both_loops
async def test_batches_that_another_thread_lets_go_are_right_to_the_end():
    batches, wrong = queue.SimpleQueue(), []

    def look():
        n = 0
        while (batch := batches.get()) is not None:
            part = batch[7:]
            del batch
            for _ in range(5):
                if (part != n).any():
                    wrong.append(n)
            n += 1

    thread = threading.Thread(target=look)
    thread.start()
    try:
        async with AsyncPrefetcher(Arrays(400, "made in place"), n_batches_to_prefetch=4) as loader:
            async for batch in loader:
                batches.put(batch)
    finally:
        batches.put(None)
        await asyncio.to_thread(thread.join)
    assert wrong == []


@MADE
async def test_who_keeps_everything_gets_everything(way):
    pipeline = Arrays(100, way, size=12_500)
    async with AsyncPrefetcher(pipeline, n_batches_to_prefetch=2) as loader:
        got = await take(loader, 50)
        held = sum(map(lies_in_shared_memory, got))
        assert held == 16
        state = await loader.get_state()
        got += [batch async for batch in loader]
    assert_items_equal(got, pipeline.model())
    assert_items_equal(await rest(state.build()), pipeline.model()[50:])
    for batch in got:
        batch.fill(-1)
    assert len({batch.ctypes.data for batch in got}) == 100


@pytest.mark.both_loops
async def test_batches_of_any_size_cross():
    pipeline = Arrays(40, "of many sizes")
    got = await rest(AsyncPrefetcher(pipeline, n_batches_to_prefetch=4))
    assert_items_equal(got, pipeline.model())


@pytest.mark.xdist_group("machine")
def test_a_batch_of_one_gigabyte_crosses():
    available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in line)
    if int(available.split()[1]) < 4 << 20:
        pytest.skip("less than 4 GB of memory are free")

    async def run():
        async with AsyncPrefetcher(Arrays(6, "made in place", size=1 << 27, position=5)) as loader:
            batch = await anext(loader)
            assert lies_in_shared_memory(batch)
            assert batch.shape == (1 << 27,)
            assert (batch[:: mmap.PAGESIZE // 8] == 5).all()

    asyncio.run(run())


async def test_a_batch_of_large_arrays_and_a_large_frame_crosses():
    got = await rest(AsyncPrefetcher(unpickling.telling, n_batches_to_prefetch=2))
    expected = [{"x": np.full(4096, n), "text": bytes(2 << 20), "opening": "opened"} for n in range(4)]
    assert_items_equal(got, expected)
    assert all(lies_in_shared_memory(item["x"]) for item in got)


# ------------------------------------------------------------------------------------------------------------- snapshots


class SlowSnapshot:
    """Holds ``get_state()`` after it has taken its snapshot and before it reads it."""

    def __init__(self, monkeypatch):
        self._taken, self._go_on = threading.Event(), threading.Event()
        fields_of = checkpoint_state.fields_of

        def slowly(*args):
            self._taken.set()
            assert self._go_on.wait(30)
            return fields_of(*args)

        monkeypatch.setattr(checkpoint_state, "fields_of", slowly)

    async def of(self, loader):
        asked = asyncio.create_task(loader.get_state())
        await asyncio.to_thread(self._taken.wait, 30)
        return asked

    def go_on(self):
        self._go_on.set()


@MADE
async def test_what_the_consumer_does_to_batches_while_a_snapshot_reads_them_is_not_in_it(monkeypatch, way):
    pipeline = Arrays(20, way)
    async with AsyncPrefetcher(pipeline, n_batches_to_prefetch=4) as loader:
        await anext(loader)
        while loader.statistics().buffered < 4:
            await asyncio.sleep(0)
        slow = SlowSnapshot(monkeypatch)
        asked = await slow.of(loader)
        got = await take(loader, 4)
        assert_items_equal(got, pipeline.model()[1:5])
        for batch in got:
            batch.fill(-1)
        slow.go_on()
        state = await asked
        assert len(state.buffer) == 4
        assert lies_in_shared_memory((await take(loader, 5))[-1])  # the snapshot does not contain the batches after it
    assert_items_equal(await rest(state.build()), pipeline.model()[1:])


@pytest.mark.both_loops
async def test_a_batch_that_is_just_being_opened_is_in_the_snapshot_as_it_was(monkeypatch):
    opening, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(unpickling, "on_opening", [opening.set, lambda: go_on.wait(30)])
    async with AsyncPrefetcher(unpickling.telling, n_batches_to_prefetch=2) as loader:
        taking = asyncio.create_task(anext(loader))
        await asyncio.to_thread(opening.wait, 30)  # the thread that unpickles the batch has made its array
        slow = SlowSnapshot(monkeypatch)
        asked = await slow.of(loader)
        go_on.set()
        batch = await taking
        assert_items_equal(batch["x"], np.full(4096, 0))
        batch["x"].fill(-1)
        slow.go_on()
        state = await asked
    assert [item["x"].tolist() for item in await rest(state.build())] == [[n] * 4096 for n in range(4)]


# ------------------------------------------------------------------------------------------- where there is no memory


@pytest.fixture(params=["no memfd", "small slots", "little address space", "a worker that can't map it"])
def scarce(request, monkeypatch):
    """Options of a loader, while a resource is scarce."""
    match request.param:
        case "no memfd":
            monkeypatch.delattr(os, "memfd_create")
            yield {}
        case "small slots":
            monkeypatch.setattr(shared_memory, "_MAX_STRIDE", 1 << 20)
            yield {}
        case "little address space":
            with memory_left(512):
                yield {}
        case "a worker that can't map it":
            here, real_map = os.getpid(), mmap.mmap

            def map_here(*args, **keywords):
                if os.getpid() != here:
                    raise OSError(12, "Cannot allocate memory")
                return real_map(*args, **keywords)

            monkeypatch.setattr(shared_memory.mmap, "mmap", map_here)
            yield {"workers": ProcessWorkers(start_method="fork")}


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("way", ["of many sizes", "views", "look ahead"])
async def test_where_memory_is_scarce_the_stream_is_the_same(scarce, way):
    pipeline = Arrays(20, way)
    async with AsyncPrefetcher(pipeline, n_batches_to_prefetch=3, **scarce) as loader:
        got = await take(loader, 9)
        state = await loader.get_state()
        got += [item async for item in loader]
    assert_items_equal(got, pipeline.model())
    assert_items_equal(await rest(state.build(**scarce)), pipeline.model()[9:])
