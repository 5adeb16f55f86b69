"""The limit as a plain program has it: a loop over an iterator, and numpy the only import of weight.

Whether glibc gives a large array back to the kernel when it is freed depends on what happens to lie above it on the
heap, and so on what else a program has imported: the same loop may run several times faster in a program that imports
more. Page faults a batch tell which it was.
"""

from __future__ import annotations

from itertools import count

from tests.benchmarks.batches import SHAPES, make_of
from tests.benchmarks.measurements.consumer import Consumer


async def loop(size: str, warm_up: float, seconds: float) -> dict[str, float]:
    """``for`` over a generator."""
    consumer, shape, make = Consumer(warm_up, seconds), SHAPES[size], make_of(size)
    for batch in (make(shape, number) for number in count()):
        if consumer.take(batch):
            break
    return consumer.figures()
