"""Checkpoint files made by hand. Their checksums are right, so that the decoder reads the errors in them."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from asyncprefetch import AsyncPrefetcher, AsyncPrefetcherState, StatefulIterator, register
from asyncprefetch.executors import InlineExecutor
from asyncprefetch.iterators import (
    BatchIterator,
    ByteTokenizer,
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
from tests.consumer import until
from tests.pipelines.counting import Count

_SUM = re.compile(rb'"sha256":"[0-9a-f]{64}"')
_BLANK = b'"sha256":"' + b"0" * 64 + b'"'


def parts(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Return the header, the document in it, and the bytes after the header."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    return header, json.loads(header["__metadata__"]["document"]), data[8 + size :]


def seal(header: dict[str, Any] | bytes, data: bytes = b"") -> bytes:
    """Return a container with this header. If the header has a checksum, replace it by the right one."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    blank = struct.pack("<Q", len(text)) + _SUM.sub(_BLANK, text, count=1) + data
    return blank.replace(_BLANK, b'"sha256":"' + hashlib.sha256(blank).hexdigest().encode() + b'"', 1)


def make_container(document: Any, leaves: Sequence[bytes] = (), **metadata: Any) -> bytes:
    """Return a container in the library's format. The document is a value, or JSON text."""
    text = document if isinstance(document, str) else json.dumps(document)
    header: dict[str, Any] = {
        "__metadata__": {
            "format": "asyncprefetch",
            "version": "1",
            "document": text,
            "sha256": "0" * 64,
            **metadata,
        }
    }
    end = 0
    for number, leaf in enumerate(leaves):
        begin, end = end, end + len(leaf)
        header[f"leaf.{number:06}"] = {"dtype": "U8", "shape": [len(leaf)], "data_offsets": [begin, end]}
    return seal(header, b"".join(leaves))


def document_of(state: Any = None, item: Any = None, **changes: Any) -> dict[str, Any]:
    """Return the document of a loader's state with one shard, and with one batch in the buffer if ``item`` is given."""
    good = {"$": "state", "kind": "tests.count", "version": 1, "fields": {"stop": 5, "base": 0, "items": "int"}}
    good["fields"] |= {"position": 0}
    return {
        "version": 1,
        "in_order": True,
        "num_shards": 1,
        "due": 0,
        "shards": [
            {
                "shard_id": 0,
                "state": good if state is None else state,
                "state_position": 0 if item is None else 1,
                "skip": [],
                "delivered": 0,
                "ended": False,
            }
        ],
        "buffer": [] if item is None else [{"shard_id": 0, "item": item}],
        "n_batches_to_prefetch": 8,
        "num_workers": None,
    } | changes


# ----------------------------------------------------------------------------------------- states of the library's own


@register("tests.faults.add")
def add(item: Any, n: int, *, note: str = "") -> Any:
    ran.append("add")
    return item + n


@register("tests.faults.is_odd")
def is_odd(item: int) -> bool:
    ran.append("is_odd")
    return item % 2 == 1


@register("tests.faults.numbers")
def numbers() -> list[int]:
    ran.append("numbers")
    return list(range(1000))


@register("tests.faults.collate")
def collate(items: list[Any]) -> dict[str, Any]:
    ran.append("collate")
    return {"items": items, 3: tuple(items)}


ran: list[str] = []
"""The names of the registered functions that this process called."""


def inline(worker: int) -> Executor:
    return InlineExecutor()


def text_pipeline(corpus: Path, *, seed: int = 7, batch_size: int = 2) -> StatefulIterator[Any]:
    """Return a pipeline of documents, looping, preprocessing, sequences, sampling and packing."""
    documents = DocumentFileIterator(corpus)
    tokens = PreprocessIterator(
        LoopingIterator(documents, epochs=50), tokenizer=ByteTokenizer(), patcher=SpacePatcher()
    )
    sequences = SequenceIterator(tokens, sequence_length=6, buffer_size=3, seed=seed)
    mixture = SamplingIterator(
        {"a": sequences, "b": LimitIterator(sequences, 3)}, {"a": 3, "b": 1}, seed=seed, on_exhausted="drop"
    )
    return PackingIterator(mixture, batch_size=batch_size, sequence_length=6, max_length=24, ngram_sizes=(2,))


def function_pipeline() -> StatefulIterator[Any]:
    """Return a pipeline with registered functions, with and without arguments. A file names them by their tags."""
    odd = FilterIterator(from_iterable(numbers), is_odd)
    added = MapIterator(odd, partial(add, n=3, note="x" * 300))
    return BatchIterator(ShuffleIterator(added, buffer_size=5, seed=1), 3, collate=collate)


def write_corpus(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.txt").write_text("to be or not to be, that is the question\n" * 5, "utf-8")
    rows = [json.dumps({"text": f"row {i}: äöü"}) + "\n" for i in range(9)]
    (folder / "b.jsonl").write_text("".join(rows), "utf-8")
    return folder


async def state_of(pipeline: Any, taken: int = 3, **options: Any) -> AsyncPrefetcherState:
    """Return the state of a loader in the middle of its stream, with batches in its buffer."""
    async with AsyncPrefetcher(pipeline, workers=inline, n_batches_to_prefetch=4, **options) as loader:
        for _ in range(taken):
            await anext(loader)
        await until(lambda: loader.statistics().buffered, 10)
        return await loader.get_state()


async def states(corpus: Path) -> list[AsyncPrefetcherState]:
    """Return states that together contain every state kind of the library's iterators and every node of the codec."""
    return [
        await state_of([text_pipeline(corpus), text_pipeline(corpus, seed=8)]),
        await state_of(function_pipeline()),
        await state_of([Count(9, items="nest"), Count(9, 50, "batch"), Count(3, 100, "nest")], in_order=False),
        await state_of([Count(3), Count(3, 100)], taken=1),
    ]


# ------------------------------------------------------------------------------------------------ what a load must not do

_FORBIDDEN = ("import", "exec", "compile", "pickle.find_class", "socket.", "subprocess.", "open", "ctypes.", "shutil.")
_FORBIDDEN += ("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.remove", "os.rename", "os.mkdir", "os.chmod")
_seen: list[tuple[str, str]] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is not None and event.startswith(_FORBIDDEN):
        _seen.append((event, repr(arguments)[:200]))


@contextmanager
def audited(*allowed: Path) -> Iterator[None]:
    """Fail if the block imports, compiles, unpickles, opens a file that is not allowed, or starts a process.

    This checks the interpreter's audit events, so it covers all code. Run the same code once before the block, so that
    late imports are done.
    """
    global _seen
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_audit)  # an audit hook can't be removed
    before, seen = _seen, list[tuple[str, str]]()
    ran_before = len(ran)
    _seen = seen
    try:
        yield
    finally:
        _seen = before
    names = tuple(f"('{path}'" for path in allowed)
    done = [entry for entry in seen if not (names and entry[0] == "open" and entry[1].startswith(names))]
    assert done == []
    assert ran[ran_before:] == []


_hooked: list[bool] = []
