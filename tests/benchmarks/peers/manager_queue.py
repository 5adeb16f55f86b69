"""The design to leave behind: a queue of a ``multiprocessing.Manager``, filled by a process, read in a thread.

Every batch is pickled twice and crosses two pipes, by way of the manager's process.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import queue
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from tests.benchmarks.batches import Batch
from tests.benchmarks.workloads import FilledState


@asynccontextmanager
async def stream(source: FilledState, prefetch: int) -> AsyncIterator[AsyncIterator[Batch]]:
    """A producing process and the manager's; the queue holds as many batches as are to be prefetched."""
    with multiprocessing.Manager() as manager:
        batches = manager.Queue(maxsize=prefetch)
        producer = multiprocessing.Process(target=_produce, args=(source, batches), daemon=True)
        producer.start()
        with ThreadPoolExecutor(max_workers=1) as reader:
            try:
                yield _read(batches, reader)
            finally:
                producer.terminate()
                producer.join()


async def _read(batches: queue.Queue[Batch], reader: ThreadPoolExecutor) -> AsyncIterator[Batch]:
    loop = asyncio.get_running_loop()
    while True:
        yield await loop.run_in_executor(reader, batches.get)


def _produce(source: FilledState, batches: queue.Queue[Batch]) -> None:
    for batch in source.build().create_iter():
        batches.put(batch)
