"""The pipelines of the golden files, and the command that writes a new golden file.

The files in ``golden/`` stand for the users' files, so they never change. For a new iterator, or a new version of a state,
add a pipeline here and run ``python -m tests.iterators.golden_pipelines NAME``. This refuses to replace a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from asyncprefetch import StatefulIterator, register
from asyncprefetch.iterators import (
    BatchIterator,
    DocumentFileIterator,
    FilterIterator,
    LimitIterator,
    LoopingIterator,
    MapIterator,
    PackingIterator,
    PreprocessIterator,
    SamplingIterator,
    SequenceIterator,
    ShuffleIterator,
    SpacePatcher,
    from_iterable,
)
from tests.inside import encode

GOLDEN = Path(__file__).parent / "golden"
AT = (0, 1, 5, 6, 9, 40)
"""The positions of the written states. At a position beyond its end, an iterator has ended."""


@register("tests.golden.numbers")
def numbers() -> Iterator[int]:
    yield from range(8)


@register("tests.golden.double")
def double(item: int) -> int:
    return 2 * item


@register("tests.golden.scaled")
def scaled(factors: list[int], *, count: int = 8) -> Iterator[int]:
    yield from (factors[i % len(factors)] * i for i in range(count))


@register("tests.golden.odd")
def odd(item: int) -> bool:
    return item % 2 == 1


def looped(epochs: int = 3) -> StatefulIterator[int]:
    return LoopingIterator(from_iterable(numbers), epochs)


def documents() -> DocumentFileIterator:
    return DocumentFileIterator("corpus.jsonl")


def sequences() -> StatefulIterator[Any]:
    tokens = PreprocessIterator(LoopingIterator(documents(), 2), patcher=SpacePatcher())
    return SequenceIterator(tokens, sequence_length=4, buffer_size=3, seed=5)


PIPELINES: dict[str, Callable[[], StatefulIterator[Any]]] = {
    "from_iterable": lambda: from_iterable(numbers),
    "from_iterable_of_partial": lambda: from_iterable(partial(scaled, [2, 3], count=7)),
    "limit": lambda: LimitIterator(from_iterable(numbers), 6),
    "looping": looped,
    "limit_of_looping": lambda: LimitIterator(looped(), 12),
    "looping_of_limit": lambda: LoopingIterator(LimitIterator(from_iterable(numbers), 3), 4),
    "map": lambda: MapIterator(looped(), double),
    "filter": lambda: FilterIterator(looped(), odd),
    "batching": lambda: BatchIterator(looped(), 3),
    "shuffle": lambda: ShuffleIterator(LimitIterator(looped(), 20), buffer_size=6, seed=3),
    "sampling": lambda: SamplingIterator(
        {"a": LimitIterator(looped(), 9), "b": from_iterable(numbers)}, {"a": 2, "b": 1}, seed=1, on_exhausted="drop"
    ),
    "sampling_restart": lambda: LimitIterator(
        SamplingIterator({"a": from_iterable(numbers)}, {"a": 1}, on_exhausted="restart"), 30
    ),
    "documents": documents,
    "sequences": sequences,
    "packing": lambda: PackingIterator(sequences(), batch_size=2, sequence_length=4, max_length=32),
}


def digest(items: Iterator[Any]) -> str:
    text = json.dumps([encode(item, None) for item in items])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def states_of(name: str) -> list[dict[str, Any]]:
    """Return the state at each position, and a digest of the items that follow."""
    whole = list(PIPELINES[name]().create_iter())
    written = []
    for position in AT:
        iterator = PIPELINES[name]()
        list(islice(iterator.create_iter(), position))
        rest = digest(iter(whole[position:]))
        written.append(
            {"position": position, "state": json.loads(iterator.get_state().model_dump_json()), "rest": rest}
        )
    return written


if __name__ == "__main__":
    os.chdir(GOLDEN)
    for given in sys.argv[1:]:
        target = GOLDEN / f"{given}.json"
        if target.exists():
            raise SystemExit(f"{target.name} exists already: golden files are never replaced")
        target.write_text(json.dumps(states_of(given), indent=1) + "\n")
