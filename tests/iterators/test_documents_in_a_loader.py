"""The loader counts skipped rows, and skipping does not change the stream."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from asyncprefetch import AsyncPrefetcher, AsyncPrefetcherState, ProcessWorkers, ProducerError
from asyncprefetch.iterators import DocumentFileIterator

DAMAGED = {3: '{"text": ', 7: '{"no": "text"}', 20: "[]"}


@pytest.fixture
def corpus(tmp_path):
    rows = [DAMAGED.get(row, json.dumps({"text": f"row {row}"})) for row in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path


async def test_documents_that_are_passed_over_are_counted(corpus, executor_factory):
    shards = [DocumentFileIterator(corpus, shard=(i, 2), on_error="skip") for i in range(2)]
    async with AsyncPrefetcher(shards, workers=executor_factory) as loader:
        assert loader.statistics().counted == {}
        texts = {document.text async for document in loader}
        assert loader.statistics().counted == {"documents skipped": 3}
        assert "3 documents skipped" in loader.explain()
    assert texts == {f"row {row}" for row in range(40) if row not in DAMAGED}


async def test_counts_are_those_of_the_worker_that_counted(corpus):
    # No loader counts the rows that the program itself skips.
    list(DocumentFileIterator(corpus, on_error="skip").create_iter())
    for workers in (lambda worker: ThreadPoolExecutor(1), ProcessWorkers(start_method="fork")):
        shards = [DocumentFileIterator(corpus, shard=(i, 2), on_error="skip") for i in range(2)]
        async with AsyncPrefetcher(shards, num_workers=2, workers=workers) as loader:
            async for _ in loader:
                pass
            counted = [dict(worker.counted) for worker in loader.statistics().workers]
        assert counted == [{"documents skipped": 1}, {"documents skipped": 2}]


async def test_a_stream_with_gaps_is_exact_on_resume(corpus, executor_factory):
    expected = [document.text for document in DocumentFileIterator(corpus, on_error="skip").create_iter()]
    for n in (0, 3, 4, 6, 37):
        loader = AsyncPrefetcher(DocumentFileIterator(corpus, on_error="skip"), workers=executor_factory)
        async with loader:
            texts = [(await anext(loader)).text for _ in range(n)]
            state = AsyncPrefetcherState.from_bytes((await loader.get_state()).to_bytes())
        async with state.build(workers=executor_factory) as loader:
            texts += [document.text async for document in loader]
        assert texts == expected


@pytest.mark.both_loops
async def test_the_error_of_a_damaged_row_names_it_and_comes_after_all_rows_before(corpus, executor_factory):
    async with AsyncPrefetcher(DocumentFileIterator(corpus), workers=executor_factory) as loader:
        texts = [(await anext(loader)).text for _ in range(3)]
        with pytest.raises(ProducerError, match=r"rows\.jsonl, row 3 .*broken JSON"):
            await anext(loader)
    assert texts == ["row 0", "row 1", "row 2"]
