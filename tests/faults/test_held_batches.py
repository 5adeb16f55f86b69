"""A batch that the consumer keeps never changes, and its memory is freed when the last reference to it is gone."""

from __future__ import annotations

import gc
import queue
import threading
from pathlib import Path

import numpy as np
import pytest

from asyncprefetch import AsyncPrefetcher
from tests.conftest import EXECUTORS
from tests.pipelines.arrays import Arrays

TRANSPORTS = pytest.mark.parametrize("transport", ["process", "pull"])
MADE = pytest.mark.parametrize("way", ["made in place", "one plain buffer"])

# Just large enough for a slot, because the tests read a thousand batches.
SIZE = 2048


def in_shared_memory():
    gc.collect()
    return Path("/proc/self/maps").read_text().count("memfd:asyncprefetch")


@TRANSPORTS
@MADE
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_slice_is_unchanged_after_a_thousand_batches(transport, way):
    loader = AsyncPrefetcher(Arrays(1004, way, SIZE), n_batches_to_prefetch=4, workers=EXECUTORS[transport])
    async with loader:
        kept = [(await anext(loader))[7 + n :: n + 1] for n in range(3)]
        n = 3
        async for batch in loader:
            assert batch[0] == batch[-1] == n
            batch.fill(-1)
            n += 1
        assert n == 1004
        assert [(part == n).all() for n, part in enumerate(kept)] == [True] * 3
        kept[0][0] = 5  # the consumer can still write to it
    assert [part[0] for part in kept] == [5, 1, 2]


@TRANSPORTS
@MADE
async def test_batches_that_are_all_kept_stay_unchanged(transport, way):
    loader = AsyncPrefetcher(Arrays(120, way, SIZE), n_batches_to_prefetch=2, workers=EXECUTORS[transport])
    async with loader:
        kept = [batch async for batch in loader]
    assert [(batch == n).all() for n, batch in enumerate(kept)] == [True] * 120
    for n, batch in enumerate(kept):
        batch.fill(1000 + n)  # no two batches share memory
    assert [batch[SIZE // 2] for batch in kept] == list(range(1000, 1120))
    del kept, batch
    assert in_shared_memory() == 0


@TRANSPORTS
@MADE
@pytest.mark.both_loops
async def test_batches_that_another_thread_drops_are_right_to_the_end(transport, way):
    batches, wrong = queue.SimpleQueue(), []

    def look():
        n = 0
        while (batch := batches.get()) is not None:
            part = batch[1::3]
            del batch
            if (part != n).any():
                wrong.append(n)
            n += 1

    thread = threading.Thread(target=look)
    thread.start()
    try:
        loader = AsyncPrefetcher(Arrays(300, way, SIZE), n_batches_to_prefetch=4, workers=EXECUTORS[transport])
        async with loader:
            async for batch in loader:
                batches.put(batch)
    finally:
        batches.put(None)
        thread.join()
    assert wrong == []
    del batch
    assert in_shared_memory() == 0


@TRANSPORTS
@MADE
@pytest.mark.both_loops
async def test_views_outlive_the_loader_and_the_memory_goes_with_the_last_of_them(transport, way):
    loader = AsyncPrefetcher(Arrays(40, way, SIZE), n_batches_to_prefetch=3, workers=EXECUTORS[transport])
    async with loader:
        views = [memoryview(await anext(loader)), (await anext(loader)).reshape(32, -1).T, (await anext(loader))[5:6]]
        unread = await loader.get_state()
    del loader
    assert [(np.asarray(view) == n).all() for n, view in enumerate(views)] == [True] * 3
    views[1][...] = 9
    assert (np.asarray(views[0]) == 0).all()
    assert (views[2] == 2).all()
    assert in_shared_memory() == (1 if transport == "process" else 0)
    del views
    assert in_shared_memory() == 0
    assert unread.delivered.total == 3
