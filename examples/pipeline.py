"""Mix two corpora by weight, cut them into patches, and pack them: a language model's batches, at full speed.

    python examples/pipeline.py                              # code and docstrings of Python's standard library
    python examples/pipeline.py --code src --prose books     # or your own folders, files and globs
    python examples/pipeline.py --batches 2000

Each of two workers makes half of the batches from its half of the documents, so each corpus needs at least two documents.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import sysconfig
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from asyncprefetch import AsyncPrefetcher, AsyncPrefetchError, AsyncPrefetcherState, Batch
from asyncprefetch.iterators import (
    ByteTokenizer,
    DocumentError,
    DocumentFileIterator,
    LoopingIterator,
    PackingIterator,
    PackingState,
    PreprocessIterator,
    SamplingIterator,
    SamplingState,
    SequenceIterator,
    SpacePatcher,
)

SHARDS = 2
TOKENIZER = ByteTokenizer()
WEIGHTS = {"code": 3.0, "prose": 1.0}
SEED = 7


def pipeline(corpora: dict[str, str], shard: int) -> PackingIterator:
    """One shard: documents -> tokens and patches -> shuffled sequences of patches -> a mixture -> batches."""
    sources = {}
    for name, path in corpora.items():
        documents = DocumentFileIterator(path, shard=(shard, SHARDS), encoding_errors="replace")
        if next(documents.get_state().build().create_iter(), None) is None:
            raise DocumentError(f"{path} has fewer than {SHARDS} documents: there must be one for each shard")
        tokens = PreprocessIterator(LoopingIterator(documents), tokenizer=TOKENIZER, patcher=SpacePatcher())
        sources[name] = SequenceIterator(tokens, sequence_length=1024, buffer_size=16, seed=SEED + shard)
    mixture = SamplingIterator(sources, weights=WEIGHTS, seed=SEED + shard, on_exhausted="drop")
    return PackingIterator(mixture, batch_size=8, sequence_length=1024, max_length=8192, pad_id=TOKENIZER.pad_id)


def standard_library(folder: Path, n_files: int = 400) -> dict[str, str]:
    """Two corpora that every Python brings: the modules of its standard library, and their docstrings."""
    paths = {"code": folder / "code.jsonl", "prose": folder / "prose.jsonl"}
    library = Path(sysconfig.get_path("stdlib"))
    with paths["code"].open("w") as code, paths["prose"].open("w") as prose:
        for path in sorted(library.glob("*.py"))[:n_files]:
            text = path.read_text("utf-8", "replace")
            print(json.dumps({"sample_id": path.name, "text": text}), file=code)
            with warnings.catch_warnings(action="ignore"):  # newer compilers warn about old code
                tree = ast.parse(text)
            kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
            if any(found):
                print(json.dumps({"sample_id": path.name, "text": "\n\n".join(filter(None, found))}), file=prose)
    return {name: str(path) for name, path in paths.items()}


def contributions(state: AsyncPrefetcherState) -> Table:
    """The share of each source, as its weight asks and as it was drawn. The mixture counts in its state."""
    drawn: Counter[str] = Counter()
    for shard in state.shards:
        packing = state.iterator_state(shard)
        assert isinstance(packing, PackingState)
        assert isinstance(packing.inner, SamplingState)
        drawn.update(dict(zip(packing.inner.names, packing.inner.drawn, strict=True)))
    table = Table("source", "weight", "sequences", "share of weights", "share of sequences")
    for name, weight in WEIGHTS.items():
        shares = weight / sum(WEIGHTS.values()), drawn[name] / drawn.total()
        table.add_row(name, f"{weight:g}", f"{drawn[name]:,}", *(f"{share:.1%}" for share in shares))
    return table


def patches(batch: Batch, row: int) -> str:
    """A row as text, with a bar between two patches."""
    assert batch.patch_lengths is not None
    tokens, begin, texts = [*batch.x[row, :1], *batch.y[row]], 0, []
    for length in batch.patch_lengths[row]:
        texts.append(TOKENIZER.decode(tokens[begin : begin + length]))
        begin += length
    return "|".join(texts)


async def run(corpora: dict[str, str], batches: int) -> None:
    console = Console()
    shards = [pipeline(corpora, shard) for shard in range(SHARDS)]
    async with AsyncPrefetcher(shards, n_batches_to_prefetch=8) as loader:
        batch = await anext(loader)  # the start of the workers is not timed
        began, targets = time.perf_counter(), 0
        for _ in range(batches):
            batch = await anext(loader)
            targets += int(batch.mask.sum())
        seconds = time.perf_counter() - began
        state = await loader.get_state()
        console.print(loader.explain())
    console.print(
        f"{targets / 1e6:.1f} MB of text in {seconds:.2f} s: {targets / 1e6 / seconds:.0f} MB/s", style="bold"
    )
    console.print(contributions(state))
    console.print("The first row of the last batch, in patches:", style="bold")
    print(patches(batch, 0)[:1200])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", help="a file, a folder or a glob")
    parser.add_argument("--prose", help="a file, a folder or a glob")
    parser.add_argument("--batches", type=int, default=1000, help="how many to time (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.batches < 1:
        parser.error("--batches must be at least 1")
    if (arguments.code is None) != (arguments.prose is None):
        parser.error("give both --code and --prose, or neither")
    with tempfile.TemporaryDirectory() as folder:
        given = {"code": arguments.code, "prose": arguments.prose}
        try:
            corpora = given if arguments.code is not None else standard_library(Path(folder))
            asyncio.run(run(corpora, arguments.batches))
        except (DocumentError, AsyncPrefetchError, OSError) as error:
            raise SystemExit(f"pipeline.py: {error}") from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None


if __name__ == "__main__":
    main()
