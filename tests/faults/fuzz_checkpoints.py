"""Damage checkpoints at random, keep their checksums right, and check that the library refuses or reads them.

    python -m tests.faults.fuzz_checkpoints --seconds 300 --seed 1

The fuzzer changes the document as a tree: it drops, doubles and exchanges parts, and gives them other types, kinds, tags
and extreme numbers. It also changes the leaves, the header and the JSON text. Each damaged file must raise
``CheckpointError`` in ``from_bytes``, ``model_validate_json`` or ``build()``, or give a state that is the same after
another round trip. Reading it must raise no other exception, import nothing, open no file, call no registered function,
and take at most a few seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import copy
import json
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from asyncprefetch import AsyncPrefetcherState, CheckpointError
from tests.faults.containers import audited, inline, make_container, parts, seal, states, write_corpus
from tests.inside import _codec

_SECONDS = 5.0
_TWICE, _NAN, _DEEP = "\x00twice ", "\x00nan", "\x00deep"

_NUMBERS: list[Any] = [0, -0.0, 1, -1, 2, 255, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, -(2**63) - 1, 2**64]
_NUMBERS += [10**30, 10**4000, -(10**4000), 0.5, 1.0, 1e300, -1e-320, True, False]
_TEXTS = ["", "0", "1", "-1", "int", "\0", "\ud800", "$", "é" * 300, "x" * 3000, "../../etc/passwd", "/dev/zero"]
_TEXTS += ["AAAA", "os:system", "os.system", "builtins.eval", "C", "F", "<i8", "|O", "O", "<f8", "|S0", "|V2147483647"]
_TEXTS += ["<M8[ns]"]
_STRAY = ["", "\ufeff", "NaN", '"', "[", "}", ",", "1e999", "\\u0000", "0"]
_TAGS = ["asyncprefetch.Batch", "asyncprefetch.Partial", "asyncprefetch.ByteTokenizer", "asyncprefetch.StaticPatcher"]
_TAGS += ["asyncprefetch.HuggingFaceTokenizer", "asyncprefetch.EntropyPatcher", "tests.faults.add", "tests.Config"]
_TAGS += ["tests.faults.numbers", "tests.Sample", "tests.Pair", "no.such.tag"]
_KINDS = ["asyncprefetch.looping", "asyncprefetch.map", "asyncprefetch.packing", "asyncprefetch.from_iterable"]
_KINDS += ["asyncprefetch.shuffle", "asyncprefetch.sampling", "asyncprefetch.documents", "tests.count", "no.such.kind"]
_NODES: list[Any] = [
    {"$": "registered", "tag": "tests.faults.numbers"},
    {"$": "registered", "tag": "asyncprefetch.Batch"},
    {"$": "dataclass", "tag": "asyncprefetch.Batch", "v": {n: {"$": "unset"} for n in ("x", "y", "mask")}},
    {
        "$": "dataclass",
        "tag": "asyncprefetch.Partial",
        "v": {"function": {"$": "unset"}, "args": {"$": "unset"}, "keywords": {"$": "unset"}},
    },
    {
        "$": "dataclass",
        "tag": "asyncprefetch.Partial",
        "v": {
            "function": {"$": "registered", "tag": "tests.faults.add"},
            "args": {"$": "tuple", "v": [1]},
            "keywords": {"n": 1},
        },
    },
    {"$": "dataclass", "tag": "asyncprefetch.ByteTokenizer", "v": {"bos": 3, "eos": None, "offset": "x"}},
    {"$": "int", "v": "0x" + "f" * 5000},
    {"$": "int", "v": "-0xff"},
    {"$": "float", "v": "000000000000f87f"},
    {"$": "float", "v": "000000000000f0ff"},
    {"$": "complex", "v": "00" * 16},
    {"$": "str", "v": base64.b64encode(b"\xed\xa0\x80").decode()},
    {"$": "str", "v": 0},
    {"$": "bytes", "v": "AAAA"},
    {"$": "tuple", "v": []},
    {"$": "dict", "k": [1, {"$": "tuple", "v": [1]}], "v": [1, 2]},
    {"$": "dict", "k": [[1]], "v": [2]},
    {"$": "dict", "k": [{"$": "dataclass", "tag": "tests.Sample", "v": {"text": "", "values": 1}}], "v": [2]},
    {"$": "array", "dtype": "<i8", "shape": [0, 2**62], "order": "C", "v": ""},
    {"$": "array", "dtype": "|V0", "shape": [2**40], "order": "C", "v": ""},
    {"$": "array", "dtype": "<i8", "shape": [2**62, 0], "order": "C", "v": ""},
    {"$": "array", "dtype": "|u1", "shape": [1] * 64, "order": "F", "v": "AA=="},
    {"$": "scalar", "dtype": "<f8", "v": "AAAAAAAA+H8="},
    {"$": "unset"},
    {"$": 1},
    {"$": []},
]


class Mutator:
    """Damages one state, in another way at each call."""

    def __init__(self, state: AsyncPrefetcherState, chance: random.Random) -> None:
        self._data = state.to_bytes()
        _, self._document, _ = parts(self._data)
        self._leaves = list(state.leaves)
        self._chance = chance

    def damaged(self) -> tuple[bytes, str | None]:
        """Return a damaged file, and the same damage as JSON where that is possible."""
        chance = self._chance
        document, leaves = copy.deepcopy(self._document), list(self._leaves)
        what = chance.random()
        if what < 0.08:
            return self._header(), None
        if what < 0.2:
            self._change_leaves(leaves)
        if what > 0.15:
            for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
                document = self._change(document)
        text = text_of(document)
        if chance.random() < 0.04:
            text = self._spoil(text)
        leaf_texts = json.dumps([base64.b64encode(leaf).decode() for leaf in leaves])
        whole = f'{text[:-1]},"leaves":{leaf_texts}}}' if text.startswith('{"') else None
        return make_container(text, leaves), whole

    def _change(self, document: Any) -> Any:
        chance = self._chance
        holder = [document]
        places = list(_places(holder))
        box, key = chance.choice(places)
        other, other_key = chance.choice(places)
        match chance.randrange(12):
            case 0:
                box[key] = chance.choice(_NUMBERS)
            case 1:
                box[key] = chance.choice(_TEXTS)
            case 2:
                box[key] = copy.deepcopy(chance.choice(_NODES))
            case 3:
                box[key] = copy.deepcopy(other[other_key])
            case 4:
                box[key] = chance.choice((None, [], {}, [box[key]], {"x": box[key]}, {"$": box[key]}, _NAN, _DEEP))
            case 5 if isinstance(box, dict):
                del box[key]
            case 5 | 6 if isinstance(box, list) and box is not holder:
                box.insert(key, copy.deepcopy(box[key])) if chance.random() < 0.5 else box.pop(key)
            case 6 if isinstance(box, dict):
                box[chance.choice([_TWICE + key, "$", "v", "extra", "../x", "__class__"])] = chance.choice(_NUMBERS)
            case 7:
                box[key] = str(box[key]) if isinstance(box[key], int | float) else chance.choice(_NUMBERS)
            case 8 | 9:
                self._rename(places)
            case 10:
                value = box[key]
                if isinstance(value, int):
                    box[key] = value + chance.choice((-1, 1, 2**40, 2**63, 1.5 if abs(value) < 2**1000 else 1))
                elif isinstance(value, str) and value:
                    at = chance.randrange(len(value))
                    box[key] = value[:at] + chance.choice(("", "\0", "é", "9")) + value[at + 1 :]
            case _:
                box[key], other[other_key] = copy.deepcopy(other[other_key]), copy.deepcopy(box[key])
        return holder[0]

    def _rename(self, places: list[tuple[Any, Any]]) -> None:
        """Replace a kind, tag, version or node."""
        named = [(box, key) for box, key in places if key in ("kind", "tag", "version", "$", "dtype", "shape")]
        if named:
            box, key = self._chance.choice(named)
            choices: dict[str, list[Any]] = {
                "kind": _KINDS,
                "tag": _TAGS,
                "version": _NUMBERS,
                "$": ["tuple", "dict", "state", "registered", "dataclass", "model", "array", "str", "namedtuple"],
                "dtype": [*_TEXTS, "<i4", "<u8", ">f4", "|b1", {"fields": [], "itemsize": 2**31, "aligned": False}],
                "shape": [[], [0], [2**62], [-1], [2**31, 2**31], [1, 1, 1], [10**30, 0], ["3"], 3],
            }
            box[key] = copy.deepcopy(self._chance.choice(choices[key]))

    def _change_leaves(self, leaves: list[bytes]) -> None:
        chance = self._chance
        match chance.randrange(5) if leaves else 4:
            case 0:
                del leaves[chance.randrange(len(leaves))]
            case 1:
                a, b = chance.randrange(len(leaves)), chance.randrange(len(leaves))
                leaves[a], leaves[b] = leaves[b], leaves[a]
            case 2:
                at = chance.randrange(len(leaves))
                leaves[at] = leaves[at][: chance.randrange(len(leaves[at]) + 1)]
            case 3:
                at = chance.randrange(len(leaves))
                leaves[at] = chance.randbytes(len(leaves[at]))
            case _:
                leaves.insert(chance.randrange(len(leaves) + 1), chance.randbytes(chance.randrange(40)))

    def _header(self) -> bytes:
        """Change the header: offsets that overlap or leave holes, other tensor names, shapes and types, other metadata."""
        header, _, data = parts(self._data)
        chance = self._chance
        for _ in range(chance.choice((1, 1, 2, 4))):
            places = [(box, key) for box, key in _places(header) if key != "document"]
            if not places:
                break
            box, key = chance.choice(places)
            value = box[key]
            if isinstance(value, int):
                box[key] = value + chance.choice((-8, -1, 1, 8, 2**31, 2**63, -(2**64)))
            elif chance.random() < 0.3:
                del box[key]
            else:
                box[key] = chance.choice([*_NUMBERS[:20], *_TEXTS[:12], [], {}, None])
        return seal(header, data + chance.choice((b"", b"", b"\0")))

    def _spoil(self, text: str) -> str:
        at = self._chance.randrange(len(text))
        return text[:at] + self._chance.choice(_STRAY) + text[at:]


def _places(box: Any) -> Any:
    for key in range(len(box)) if isinstance(box, list) else list(box):
        yield box, key
        if isinstance(box[key], list | dict):
            yield from _places(box[key])


def text_of(document: Any) -> str:
    """Write JSON with parts that JSON writers avoid: duplicate keys, NaN, very deep nests."""
    sys.set_int_max_str_digits(0)
    try:
        text = json.dumps(document, separators=(",", ":"))
    finally:
        sys.set_int_max_str_digits(4300)
    text = text.replace(json.dumps(_TWICE)[:-1], '"').replace(json.dumps(_NAN), "NaN")
    return text.replace(json.dumps(_DEEP), "[" * 2000 + "]" * 2000)


def check(data: bytes, text: str | None) -> str:
    """Return how the library treated a damaged file: ``refused``, ``refused by build``, or ``read``.

    Raises:
        AssertionError: the outcome was another one.
    """
    begun = time.monotonic()
    with audited():
        outcome = _outcome(lambda: AsyncPrefetcherState.from_bytes(data))
        if text is not None:
            _outcome(lambda: AsyncPrefetcherState.from_json(text))
    took = time.monotonic() - begun
    assert took < _SECONDS, f"{took:.1f} s"
    return outcome


def _outcome(read: Any) -> str:
    try:
        state = read()
    except CheckpointError as error:
        return _reason(error)
    assert AsyncPrefetcherState.from_bytes(state.to_bytes()) == state
    assert AsyncPrefetcherState.from_json(state.to_json()) == state
    assert state.delivered.total >= 0
    try:
        loader = state.build(workers=inline)
        state.build()
    except CheckpointError as error:
        return f"{_reason(error)} by build"
    assert repr(loader)
    # A state that was read is the same after another round trip.
    for structure in [*(shard.state for shard in state.shards), *(batch.item for batch in state.buffer)]:
        once: list[bytes] = []
        again: list[bytes] = []
        try:
            written = _codec.encode(_codec.decode(structure, state.leaves), once)
        except CheckpointError:  # an object of a registered class contains a value that can't be written
            continue
        assert json.dumps(_codec.encode(_codec.decode(written, once), again)) == json.dumps(written)
        assert once == again
    return "read"


def _reason(error: CheckpointError) -> str:
    assert 0 < len(str(error)) < 20_000, f"a reason of {len(str(error))} characters"
    return "refused"


def warm_up(saved: list[AsyncPrefetcherState]) -> None:
    """Run every path once, so that late imports are done and an audit sees only the effects of the files."""
    for state in saved:
        _outcome(lambda state=state: AsyncPrefetcherState.from_bytes(state.to_bytes()))
    for node in _NODES:
        document = parts(saved[-1].to_bytes())[1]
        document["buffer"][0]["item"] = node
        data = make_container(json.dumps(document), saved[-1].leaves)
        with contextlib.suppress(Exception):
            _outcome(lambda data=data: AsyncPrefetcherState.from_bytes(data))


def fuzz(saved: list[AsyncPrefetcherState], seed: int, cases: int) -> tuple[Counter[str], dict[str, str]]:
    """Damage the states ``cases`` times. The same seed makes the same files.

    Returns:
        The number of files for each outcome; and the findings: for each place in the code, one file and the traceback.
    """
    chance = random.Random(seed)
    mutators = [Mutator(state, chance) for state in saved]
    outcomes: Counter[str] = Counter()
    found: dict[str, str] = {}
    for case in range(cases):
        data, text = chance.choice(mutators).damaged()
        try:
            outcomes[check(data, text)] += 1
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} at {last.filename}:{last.lineno}"
            if place not in found:
                name = Path(tempfile.gettempdir()) / f"fuzz-{seed}-{case}"
                name.write_bytes(data)
                name.with_suffix(".json").write_text(text or "", "utf-8", "surrogatepass")
                found[place] = f"seed {seed}, case {case}, kept as {name}\n{''.join(traceback.format_exception(error))}"
    return outcomes, found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seed", type=int, default=None, help="of the first thousand cases (default: at random)")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        saved = asyncio.run(states(write_corpus(Path(folder))))
    warm_up(saved)
    outcomes: Counter[str] = Counter()
    found: dict[str, str] = {}
    first, ends = seed, time.monotonic() + options.seconds
    while time.monotonic() < ends:
        more, findings = fuzz(saved, seed, 1000)
        outcomes += more
        found = findings | found
        seed += 1
    for place, text in found.items():
        print(place, text, sep="\n")
    print(f"{outcomes.total():,} cases, seeds {first} to {seed - 1}: {dict(outcomes)}; {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
