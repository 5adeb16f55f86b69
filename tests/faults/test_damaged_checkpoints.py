"""A file that is damaged, foreign or made to exhaust memory raises ``CheckpointError``, soon and in little memory."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import pickle
import random
import subprocess
import sys
import time
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyncprefetch import AsyncPrefetcher, AsyncPrefetcherState, CheckpointError
from tests.faults import fuzz_checkpoints
from tests.faults.containers import (
    audited,
    document_of,
    function_pipeline,
    make_container,
    parts,
    seal,
    state_of,
    states,
    text_pipeline,
    write_corpus,
)
from tests.inside import _codec
from tests.pipelines.counting import Count, in_turns
from tests.processes import ROOT
from tests.support import assert_same

SECONDS = 5.0


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


async def refusal(path: Path) -> str:
    """Return the error of ``load`` for a file. ``load`` must refuse it in time, and must import and open nothing else."""
    begun = time.monotonic()
    with pytest.raises(CheckpointError) as caught, audited(path):
        await AsyncPrefetcherState.load(path)
    assert time.monotonic() - begun < SECONDS
    assert 0 < len(str(caught.value)) < 20_000
    return str(caught.value)


# -------------------------------------------------------------------------------------------------- damage by accident


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_every_byte_of_a_saved_file_flipped_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    await (await state_of([Count(3, items="batch"), Count(3, 100)], taken=1)).save(path)
    whole = path.read_bytes()
    await AsyncPrefetcherState.load(path)
    with path.open("r+b", buffering=0) as file:
        for at, byte in enumerate(whole):
            for flipped in {byte ^ 0xFF, byte ^ 1 << at % 8, byte ^ 0x20}:
                os.pwrite(file.fileno(), bytes([flipped]), at)
                with pytest.raises(CheckpointError):
                    AsyncPrefetcherState._load(path, None)
            os.pwrite(file.fileno(), bytes([byte]), at)
    await AsyncPrefetcherState.load(path)


async def test_every_truncation_is_refused_with_the_reason(tmp_path: Path, corpus: Path) -> None:
    path = tmp_path / "state"
    await (await state_of(text_pipeline(corpus))).save(path)
    whole = path.read_bytes()
    sizes = {*range(20), *range(0, len(whole), 13), *range(len(whole) - 40, len(whole))}
    for size in sorted(sizes, reverse=True):
        os.truncate(path, size)
        with pytest.raises(CheckpointError, match=r"truncated|is empty"):
            AsyncPrefetcherState._load(path, None)


async def test_pages_and_sectors_that_are_lost_or_of_another_file_are_refused(tmp_path: Path, corpus: Path) -> None:
    path = tmp_path / "state"
    one = (await state_of(text_pipeline(corpus))).to_bytes()
    other = (await state_of(text_pipeline(corpus), taken=5)).to_bytes()
    for size in (64, 512, 4096):
        for begin in range(0, len(one), size):
            for part in (bytes(size), other[begin : begin + size]):
                mixed = (one[:begin] + part + one[begin + size :])[: len(one)]
                if mixed != one:
                    path.write_bytes(mixed)
                    with pytest.raises(CheckpointError):
                        AsyncPrefetcherState._load(path, None)


# --------------------------------------------------------------------------------------------------- files that are none


class Exploit:
    def __reduce__(self) -> Any:
        return os.system, ("exit 1",)


def zip_of_zeros() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(50_000_000))
    return file.getvalue()


def npz_of_zeros() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, x=np.zeros(5_000_000))
    return file.getvalue()


FOREIGN = {
    "nothing": lambda: b"",
    "a text": lambda: b"step: 1000\nloss: 0.1\n" * 10,
    "a pickle": lambda: pickle.dumps(Exploit()),
    "a pickle of protocol 0": lambda: pickle.dumps(Exploit(), 0),
    "a pickle after a header": lambda: seal(b'{"__metadata__":' + pickle.dumps(Exploit(), 0) + b"}"),
    "a pickle as the document": lambda: make_container(pickle.dumps(Exploit(), 0).decode()),
    "a zip bomb, as torch.save makes": zip_of_zeros,
    "a gzip bomb": lambda: gzip.compress(bytes(50_000_000)),
    "an npz bomb": npz_of_zeros,
    "the state's JSON": lambda: json.dumps(document_of() | {"leaves": []}).encode(),
    "a version of next year": lambda: make_container(document_of(), version="2"),
    "a version of no number": lambda: make_container(document_of(), version="1.0"),
    "a state of a newer version": lambda: make_container(document_of(version=2)),
    "a state of version 0": lambda: make_container(document_of(version=0)),
    "a state of a version of text": lambda: make_container(document_of(version="1")),
    "another program's": lambda: make_container(document_of(), format="pt"),
}
REASONS = {
    "nothing": "is empty",
    "a pickle after a header": "unreadable",
    "a pickle as the document": "malformed JSON",
    "a version of next year": "has version 2 of the format, and this asyncprefetch reads up to 1: use a newer one",
    "a version of no number": "malformed: no version",
    "a state of a newer version": "has version 2, and this asyncprefetch reads up to 1: use a newer one",
    "a state of version 0": "version 0 of the state",
    "a state of a version of text": "version",
    "another program's": "not a checkpoint of asyncprefetch",
}


@pytest.mark.parametrize("name", FOREIGN)
async def test_what_is_no_checkpoint_is_refused_in_little_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "state"
    path.write_bytes(FOREIGN[name]())
    await refusal(path)
    tracemalloc.start()
    reason = await refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert REASONS.get(name, "not a safetensors file") in reason
    assert peak < 5_000_000 + 2 * path.stat().st_size


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_are_refused(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(300):
        garbage = chance.randbytes(chance.choice((1, 7, 8, 9, 10, 100, 5000)))
        size = len(garbage).to_bytes(8, "little")
        for data in (
            garbage,
            size + garbage,
            size + b"{" + garbage,
            seal(b'{"__metadata__":{"format":"asyncprefetch",' + garbage),
        ):
            with pytest.raises(CheckpointError):
                AsyncPrefetcherState.from_bytes(data)


# ----------------------------------------------------------------------------------------- documents that can't be right


def nested(depth: int, left: str = "[", right: str = "]") -> str:
    text = json.dumps(document_of(item="HERE"))
    return text.replace('"HERE"', left * depth + (right and "1" + right * depth))


def text_with(value: str) -> str:
    return json.dumps(document_of(item="HERE")).replace('"HERE"', value)


def array(dtype: Any, shape: list[int], v: Any = "") -> dict[str, Any]:
    return {"$": "array", "dtype": dtype, "shape": shape, "order": "C", "v": v}


M = (1 << 61) - 1  # hashes of integers are modulo this
ONE_HASH = {"$": "dict", "k": [{"$": "int", "v": hex(M * n)} for n in range(5_000)], "v": [0] * 5_000}
# -1 and -2 have the same hash, and so do all tuples of them.
ONE_HASH_OF_TUPLES = {
    "$": "dict",
    "k": [{"$": "tuple", "v": [-1 - (n >> bit & 1) for bit in range(12)]} for n in range(1 << 12)],
    "v": [0] * (1 << 12),
}
SAMPLING = {"names": 0, "weights": 0, "sources": 0, "seed": 0, "on_exhausted": "stop", "drawn": 0, "ended": 0}


def state(kind: str, **fields: Any) -> dict[str, Any]:
    return {"$": "state", "kind": f"asyncprefetch.{kind}", "version": 1, "fields": fields}


def unset(tag: str, *names: str) -> dict[str, Any]:
    return {"$": "dataclass", "tag": tag, "v": {name: {"$": "unset"} for name in names}}


BATCH = unset("asyncprefetch.Batch", "x", "y", "mask", "patch_lengths", "ngram_ids")
PARTIAL = unset("asyncprefetch.Partial", "function", "args", "keywords")
HUGE = {"$": "int", "v": "0x" + "f" * 10_000}
COUNT = document_of()["shards"][0]["state"]

HOSTILE: dict[str, tuple[Any, str]] = {
    "NaN": (text_with("NaN"), "NaN is not JSON"),
    "infinity": (text_with("[1,-Infinity]"), "-Infinity is not JSON"),
    "a float that overflows": (text_with("1e999"), "too large for a float"),
    "a number of a million digits": (text_with("1" * 1_000_000), "malformed JSON"),
    "a key twice": (text_with('{"a":1,"a":1}'), "key twice"),
    "a key twice in the state": (text_with("1")[:-1] + ',"version":1}', "key twice"),
    "a lone surrogate": (text_with('"\\ud800"'), "malformed JSON"),
    "a lone surrogate as a key": (text_with('{"\\uDfff":1}'), "malformed JSON"),
    "nested 65 deep": (nested(65), "nested deeper than 64"),
    "nested 250 deep": (nested(250), "recursion|nested|JSON"),
    "nested 900 deep": (nested(900), "recursion|nested|JSON"),
    "nested 100,000 deep": (nested(100_000), "nested too deeply"),
    "100,000 objects deep": (nested(100_000, '{"a":', "}"), "nested too deeply"),
    "opened and never closed": (nested(100_000, "[", ""), "nested too deeply|malformed JSON"),
    "a huge shape": (document_of(item=array("<i8", [2**62])), "do not fit 0 bytes"),
    "a shape that overflows": (document_of(item=array("<i8", [2**40, 2**40])), "do not fit 0 bytes"),
    "a shape of a huge number and zero": (document_of(item=array("<i8", [2**62, 0])), "an array of no bytes"),
    "rows of nothing": (document_of(item=array("<i8", [2**40, 0])), "an array of no bytes"),
    "elements of nothing": (document_of(item=array("|V0", [2**40])), "an array of no bytes"),
    "a tuple of 2**40 elements of nothing": (
        document_of(state("sampling", **SAMPLING | {"names": array("|V0", [2**40])})),
        "an array of no bytes",
    ),
    "a dtype of a gigabyte": (document_of(item=array("|V1000000000", [1])), "do not fit 0 bytes"),
    "a structure of a gigabyte": (
        document_of(item=array({"fields": [], "itemsize": 2**30, "aligned": False}, [1])),
        "do not fit 0 bytes",
    ),
    "objects": (document_of(item=array("|O", [1])), "malformed structure: dtype"),
    "a leaf that there is not": (document_of(item=array("<i8", [1], 0)), "there is no leaf 0"),
    "many numbers of one hash": (document_of(item=ONE_HASH), "keys of one hash"),
    "many tuples of one hash": (document_of(item=ONE_HASH_OF_TUPLES), "keys of one hash"),
    "a number without a repr as the state": (document_of(HUGE), "is not the state of an iterator"),
    "a batch without a repr as the state": (document_of(BATCH), "is not the state of an iterator"),
    "an iterator state that is a list": (document_of([]), r"\[\] is not the state of an iterator"),
    "no workers": (document_of(num_workers=0), "num_workers"),
    "no prefetch": (document_of(n_batches_to_prefetch=0), "n_batches_to_prefetch"),
    "prefetch beyond all memory": (document_of(n_batches_to_prefetch=10**9), "n_batches_to_prefetch"),
    "prefetch beyond all messages": (document_of(n_batches_to_prefetch=2**64), "n_batches_to_prefetch"),
    "shards beyond all messages": (document_of(num_shards=2**40), "num_shards"),
    "a hundred thousand wrong batches": (document_of(buffer=[1] * 100_000), "malformed state: 100000 errors"),
    "weights that are all zero": (
        document_of(
            state(
                "sampling",
                **SAMPLING | {"names": ["a"], "weights": [0.0], "sources": [COUNT], "drawn": [0], "ended": [False]},
            )
        ),
        "not finite, below 0, or all 0",
    ),
    "an epoch after the last": (
        document_of(state("looping", start=COUNT, inner=COUNT, epochs=3, epoch=3, items=0)),
        "epoch 3 of 3",
    ),
    "more items than the limit": (
        document_of(state("limit", inner=COUNT, n=3, yielded=4)),
        "4 items were yielded, and the limit is 3",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_document_is_refused_with_the_reason_in_time_and_memory(tmp_path: Path, name: str) -> None:
    document, reason = HOSTILE[name]
    path = tmp_path / "state"
    path.write_bytes(make_container(document))
    assert await refusal(path)  # once without measuring, so that late imports are done
    tracemalloc.start()
    begun = time.monotonic()
    with pytest.raises(CheckpointError, match=reason), audited(path):
        AsyncPrefetcherState._load(path, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - begun < SECONDS
    assert peak < 5_000_000 + 200 * path.stat().st_size
    text = document if isinstance(document, str) else json.dumps(document)
    if text.endswith("}"):
        with pytest.raises(CheckpointError):
            AsyncPrefetcherState.from_json(text[:-1] + ',"leaves":[]}')


def test_the_documents_are_valid_without_their_faults() -> None:
    """If these documents were invalid, the tests above could pass for another reason."""
    for text in (text_with("1"), nested(20), text_with('"\\ud83d\\ude00 \\\\ud800"')):
        read = AsyncPrefetcherState.from_bytes(make_container(text))
        assert AsyncPrefetcherState.from_json(read.to_json()) == read
    for item in (array("<i8", [60_000, 0]), {"$": "dict", "k": [M, 2 * M], "v": [1, 2]}):
        assert AsyncPrefetcherState.from_bytes(make_container(document_of(item=item))).build()


@pytest.mark.parametrize(
    "item",
    [np.zeros((1 << 40, 0)), np.zeros(1 << 40, "V0"), {M * n: 0 for n in range(1000)}],
    ids=["rows", "V0", "hash"],
)
def test_what_would_not_be_read_is_refused_when_it_is_written(item: Any) -> None:
    with pytest.raises(CheckpointError, match=r"no bytes|of one hash"):
        _codec.encode(item, [])
    assert _codec.explain_unsupported(item)


def test_a_number_too_long_for_decimal_digits_is_written_and_read_as_a_key() -> None:
    item = {1 << 20_000: 1}
    assert _codec.decode(_codec.encode(item, None), None) == item


def test_what_can_not_be_sent_to_a_worker_is_refused_by_build() -> None:
    function = {"$": "registered", "tag": "tests.faults.add"}
    held = {
        "$": "dataclass",
        "tag": "asyncprefetch.Partial",
        "v": {"function": function, "args": [PARTIAL], "keywords": {}},
    }
    read = AsyncPrefetcherState.from_bytes(make_container(document_of(state("map", inner=COUNT, function=held))))
    with pytest.raises(CheckpointError, match="the state of shard 0 can't be sent to a worker"):
        read.build()


def test_a_part_of_the_shards_is_built_with_as_many_workers_as_it_has_shards() -> None:
    assert AsyncPrefetcherState.from_bytes(make_container(document_of(num_shards=9, num_workers=2**70))).build()


# ------------------------------------------------------------------------------------------------------- bounded memory

LIMITED = """
import sys
import asyncprefetch.iterators
from asyncprefetch import AsyncPrefetcherState, CheckpointError
from tests.limits import leave_memory
small = [open(path, "rb").read() for path in sys.argv[1:4]]
leave_memory(128)
for read, given in [(lambda path: AsyncPrefetcherState._load(path, None), path) for path in sys.argv[1:]] + [
    (AsyncPrefetcherState.from_bytes, data) for data in small
]:
    try:
        read(given)
        print("read")
    except CheckpointError as error:
        print(str(error)[:150].replace("\\n", " "))
"""


def test_where_memory_is_short_a_file_is_refused_all_the_same(tmp_path: Path) -> None:
    """A limit on the address space also counts memory that no Python allocator counts."""
    files = {
        "vast": make_container(document_of(state("sampling", **SAMPLING | {"names": array("|V0", [2**40])}))),
        "announced": seal(
            {"__metadata__": {"format": "asyncprefetch", "version": "1", "document": "{}", "sha256": "0" * 64}}
            | {"leaf.000000": {"dtype": "U8", "shape": [2**50], "data_offsets": [0, 2**50]}}
        ),
        "lists": make_container(text_with("[" + "[]," * 4_000_000 + "[]]")),
        "bytes": make_container(document_of(item=array("|u1", [2])), [bytes(80 << 20), bytes(80 << 20)]),
        "zeros": zip_of_zeros(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    paths = [str(tmp_path / name) for name in files]
    command = [sys.executable, "-c", LIMITED, *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=ROOT)
    assert done.stderr == ""
    reasons = dict(zip([*files, "vast 2", "announced 2", "lists 2"], done.stdout.splitlines(), strict=True))
    assert "an array of no bytes" in reasons["vast"]
    assert "0 bytes of data" in reasons["announced"]
    assert "no bytes" in reasons["vast 2"]
    assert "memory" in reasons["lists"].lower()
    assert "memory" in reasons["lists 2"].lower()
    assert "memory" in reasons["bytes"].lower()
    assert "not a safetensors file" in reasons["zeros"]


def test_memory_that_runs_out_while_a_state_is_validated_is_a_checkpoint_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **keywords: Any) -> Any:
        raise MemoryError

    data = make_container(document_of())
    monkeypatch.setattr(AsyncPrefetcherState, "model_validate", fail)
    with pytest.raises(CheckpointError, match="not enough memory"):
        AsyncPrefetcherState.from_bytes(data)


# ------------------------------------------------------------------------------------------------- the loader unchanged


@pytest.mark.both_loops
async def test_a_running_loader_goes_on_while_bad_files_are_loaded(tmp_path: Path, executor_factory: Any) -> None:
    pipeline = [Count(12), Count(12, 100)]
    path, good = tmp_path / "state", tmp_path / "good"
    async with AsyncPrefetcher(pipeline, workers=executor_factory) as loader:
        taken = [await anext(loader) for _ in range(3)]
        before = await loader.get_state()
        await before.save(good)
        whole = good.read_bytes()
        for data in (b"", whole[:-1], whole[:200] + b"\0" + whole[201:], make_container(HOSTILE["nested 900 deep"][0])):
            path.write_bytes(data)
            reads = [asyncio.ensure_future(AsyncPrefetcherState.load(path)) for _ in range(2)]
            taken.append(await anext(loader))
            for read in reads:
                with pytest.raises(CheckpointError):
                    await read
        with pytest.raises(CheckpointError, match="shard 1"):
            await AsyncPrefetcherState.load(good, expect=[Count(12), Count(12, 101)])
        assert good.read_bytes() == whole
        taken += [item async for item in loader]
    assert taken == in_turns([shard.model() for shard in pipeline])
    assert await AsyncPrefetcherState.load(good, expect=pipeline) == before


# --------------------------------------------------------------------------------------------------------------- fuzzing


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_hundreds_of_damaged_states_are_refused_or_read_as_what_they_say(corpus: Path) -> None:
    """The short form of ``python -m tests.faults.fuzz_checkpoints``."""
    saved = await states(corpus)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns about odd dtypes
        fuzz_checkpoints.warm_up(saved)
        outcomes, found = fuzz_checkpoints.fuzz(saved, seed=0, cases=400)
    assert not found, "\n".join(found.values())
    assert outcomes["refused"] > 200
    assert outcomes["read"] > 20


async def test_the_states_that_are_fuzzed_hold_batches_and_go_on_exactly(corpus: Path) -> None:
    for make in (lambda: text_pipeline(corpus), function_pipeline):
        saved = await state_of(make())
        assert saved.buffer
        loader = AsyncPrefetcherState.from_bytes(saved.to_bytes()).build(workers=None)
        rest = []
        async with loader:
            for _ in range(8):
                rest.append(await anext(loader))
        plain = make().create_iter()
        expected = [next(plain) for _ in range(11)][3:]
        assert_same(rest, expected)


def test_the_parts_of_a_file_are_what_was_put_in() -> None:
    header, document, data = parts(make_container(document_of(), [b"abc"]))
    assert document == document_of()
    assert data == b"abc"
    assert seal(header, data) == make_container(document_of(), [b"abc"])
