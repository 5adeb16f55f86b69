"""A language model's batches, from a file of text on: how much text a second, and what a checkpoint of it costs."""

from __future__ import annotations

import json
import os
import statistics
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from asyncprefetch import AsyncPrefetcher, Batch, StatefulIterator
from asyncprefetch.iterators import (
    DocumentFileIterator,
    DocumentFileState,
    LoopingIterator,
    LoopingState,
    PackingIterator,
    PreprocessIterator,
    SamplingIterator,
    SequenceIterator,
    SpacePatcher,
)

LENGTH, MAX_LENGTH, BUFFER = 1024, 8192, 16


def sequences(source: StatefulIterator[Any], *, spaces: bool, length: int = LENGTH, seed: int = 7) -> SequenceIterator:
    """Shuffled sequences of bytes, or of patches that end at spaces."""
    tokens = PreprocessIterator(LoopingIterator(source), patcher=SpacePatcher() if spaces else None)
    return SequenceIterator(tokens, sequence_length=length, buffer_size=BUFFER, seed=seed)


def batches(corpus: Path, kind: str, length: int = LENGTH) -> PackingIterator:
    """From the file to batches: ``"bytes"``, joined and cut; ``"sequences"`` of them, shuffled; or of ``"patches"``."""
    documents = DocumentFileIterator(corpus)
    source: StatefulIterator[Any] = PreprocessIterator(LoopingIterator(documents))
    if kind != "bytes":
        source = sequences(documents, spaces=kind == "patches", length=length)
    return PackingIterator(source, batch_size=8, sequence_length=length, max_length=MAX_LENGTH)


@contextmanager
def standard_library(folder: str) -> Iterator[Path]:
    """The sources of the standard library, one a row."""
    library = Path(sysconfig.get_path("stdlib"))
    with tempfile.TemporaryDirectory(dir=folder) as made:
        corpus = Path(made) / "library.jsonl"
        with corpus.open("w", encoding="utf-8") as out:
            for path in sorted(library.rglob("*.py")):
                name = path.relative_to(library)
                if not {"site-packages", "dist-packages"} & set(name.parts):
                    row = {"sample_id": str(name), "text": path.read_text("utf-8", "replace")}
                    out.write(json.dumps(row) + "\n")
        yield corpus


async def throughput(
    kind: str, length: int, *, loader: bool, folder: str, warm_up: float, seconds: float
) -> dict[str, float]:
    """Text a second, in this process, or by one worker."""
    with standard_library(folder) as corpus:
        packing = batches(corpus, kind, length)
        if not loader:
            return await _rate(_as_async(packing.create_iter()), warm_up, seconds)
        async with AsyncPrefetcher(packing, n_batches_to_prefetch=8) as prefetcher:
            return await _rate(prefetcher, warm_up, seconds)


async def _as_async(items: Iterator[Batch]) -> AsyncIterator[Batch]:
    for item in items:
        yield item


async def _rate(stream: AsyncIterator[Batch], warm_up: float, seconds: float) -> dict[str, float]:
    began, targets, counted = time.perf_counter(), 0, 0
    async for batch in stream:
        assert batch.mask is not None
        targets += int(np.count_nonzero(batch.mask))
        counted += 1
        now = time.perf_counter()
        if warm_up and now - began > warm_up:
            began, targets, counted, warm_up = now, 0, 0, 0.0
        elif not warm_up and now - began > seconds:
            break
    return {"mb": targets / 1e6 / (now - began), "rate": counted / (now - began)}


async def checkpoint(sources: int, folder: str, states: int) -> dict[str, float]:
    """The state of a chain of several sources, asked for after each batch."""
    with standard_library(folder) as corpus:
        documents = DocumentFileIterator(corpus)
        names = [f"source {number}" for number in range(sources)]
        mixture = SamplingIterator(
            {name: sequences(documents, spaces=True, seed=seed) for seed, name in enumerate(names)},
            weights=dict.fromkeys(names, 1.0),
        )
        packing = PackingIterator(mixture, batch_size=8, sequence_length=LENGTH, max_length=MAX_LENGTH)
        took = []
        for _, _ in zip(range(states), packing.create_iter(), strict=False):
            began = time.perf_counter()
            state = packing.get_state()
            took.append((time.perf_counter() - began) * 1e3)
        return {
            "ms": statistics.median(took),
            "max_ms": max(took),
            "kb": len(state.model_dump_json()) / 1e3,
        }


async def restoring(kind: str, folder: str, gigabytes: float) -> dict[str, float]:
    """The first batch of a pipeline that is restored behind so many bytes of its file, which nobody wrote."""
    with standard_library(folder) as corpus:
        packing = batches(corpus, kind)
        for _, _ in zip(range(100), packing.create_iter(), strict=False):
            pass
        near = packing.get_state()
        hole = int(gigabytes * 1e9)
        deep = corpus.with_name("deep.jsonl")
        with deep.open("wb") as file, corpus.open("rb") as rows:
            file.seek(hole)
            file.write(b"\n" + rows.read())
        far = _moved(near, batches(deep, kind).get_state(), hole + 1)
        figures = {}
        for name, state in (("near", near), ("far", far)):
            read, began = _bytes_read(), time.perf_counter()
            next(state.build().create_iter())
            figures[f"{name}_ms"] = (time.perf_counter() - began) * 1e3
            figures[f"{name}_mb"] = (_bytes_read() - read) / 1e6
        return figures


def _moved(state: Any, begun: Any, by: int) -> Any:
    """A state, with its place in a file moved by so many bytes, for the pipeline that ``begun`` is the state of."""
    if isinstance(state, DocumentFileState):
        place = {"offset": state.offset + by, "row": state.row + 1, "document": state.document}
        return begun.model_copy(update=place)
    update = {"inner": _moved(state.inner, begun.inner, by)}
    if "witness" in type(state).model_fields:
        update["witness"] = ""
    if isinstance(state, LoopingState):
        update["start"] = begun.start
    return state.model_copy(update=update)


def _bytes_read() -> int:
    for line in Path(f"/proc/{os.getpid()}/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    return 0
