"""Random pipelines, each with a plain list of the items that it must yield.

To add an iterator, write a function from a drawn plan to a plan with the simplest possible model of the iterator. Add the
function to ``STAGES``, or to ``SOURCES`` if the iterator takes no inner iterator.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from asyncprefetch import Batch, StatefulIterator, register
from asyncprefetch.iterators import (
    BatchIterator,
    Document,
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
    TokenSequence,
    from_iterable,
)
from tests.inside import permutation, uniforms
from tests.iterators.sources import ListIterator, drain

LONGEST = 24

_PLACES = [
    ("a.jsonl", 0),
    ("a.jsonl", 1),
    ("a.jsonl", 2),
    ("b.jsonl", 1),
    ("c.jsonl", 0),
    ("c.jsonl", 2),
    ("c.jsonl", 4),
]
DOCUMENTS = [Document(f"doc {i}", "é" * i + "\n", file=file, row=row) for i, (file, row) in enumerate(_PLACES)]


@dataclass(frozen=True)
class Plan:
    """A pipeline over the documents of a folder, and the items that it must yield."""

    text: str
    make: Callable[[Path], StatefulIterator[Any]]
    items: list[Any]

    def __repr__(self) -> str:
        return self.text


def write_corpus(folder: Path) -> Path:
    rows = [json.dumps({"sample_id": d.sample_id, "text": d.text}) + "\n" for d in DOCUMENTS]
    (folder / "a.jsonl").write_text("".join(rows[:3]), "utf-8")
    (folder / "b.jsonl").write_text("\n" + rows[3], "utf-8")
    (folder / "c.jsonl").write_text("\n".join(rows[4:]), "utf-8")
    return folder


@register("tests.plans.numbers")
def numbers() -> Iterator[int]:
    yield from range(5)


@register("tests.plans.marked")
def marked(item: Any) -> tuple[str, Any]:
    return ("marked", item)


@register("tests.plans.labelled")
def labelled(label: str, item: Any, *, times: int) -> tuple[str, Any]:
    return (label * times, item)


@register("tests.plans.passes")
def passes(item: Any) -> bool:
    return zlib.crc32(repr(item).encode()) % 3 > 0


@register("tests.plans.as_text")
def as_text(item: Any) -> str:
    return repr(item)[:200]


@register("tests.plans.joined")
def joined(items: list[Any]) -> tuple[Any, ...]:
    return tuple(items)


Draw = Callable[[st.SearchStrategy[Any]], Any]
sizes = st.integers(1, 6)
seeds = st.sampled_from([0, 1, 7, 2**64 - 1])


def a_list(draw: Draw) -> Plan:
    items = draw(st.lists(st.integers(0, 99), max_size=6))
    return Plan(f"List({items})", lambda corpus: ListIterator(items), items)


def an_iterable(draw: Draw) -> Plan:
    return Plan("FromIterable(0..4)", lambda corpus: from_iterable(numbers), list(range(5)))


def documents(draw: Draw) -> Plan:
    index, count = draw(st.sampled_from([(0, 1), (0, 2), (1, 2), (6, 7)]))
    return Plan(
        f"Documents({index} of {count})",
        lambda corpus: DocumentFileIterator(corpus, shard=(index, count)),
        DOCUMENTS[index::count],
    )


def looping(draw: Draw, inner: Plan) -> Plan:
    if not inner.items:
        return inner  # an epoch without items is an error; test_looping.py tests it
    epochs = draw(st.integers(1, 3))
    return Plan(
        f"Looping({inner}, {epochs})", lambda corpus: LoopingIterator(inner.make(corpus), epochs), inner.items * epochs
    )


def limited_looping(draw: Draw, inner: Plan) -> Plan:
    if not inner.items:
        return inner
    n = draw(st.integers(0, LONGEST))
    return Plan(
        f"Limit(Looping({inner}), {n})",
        lambda corpus: LimitIterator(LoopingIterator(inner.make(corpus)), n),
        (inner.items * n)[:n],
    )


def limit(draw: Draw, inner: Plan) -> Plan:
    n = draw(st.integers(0, 12))
    return Plan(f"Limit({inner}, {n})", lambda corpus: LimitIterator(inner.make(corpus), n), inner.items[:n])


def mapped(draw: Draw, inner: Plan) -> Plan:
    if draw(st.booleans()):
        return Plan(
            f"Map({inner})",
            lambda corpus: MapIterator(inner.make(corpus), marked),
            [("marked", i) for i in inner.items],
        )
    return Plan(
        f"Map({inner}, partial)",
        lambda corpus: MapIterator(inner.make(corpus), partial(labelled, "l", times=2)),
        [("ll", item) for item in inner.items],
    )


def filtered(draw: Draw, inner: Plan) -> Plan:
    return Plan(
        f"Filter({inner})",
        lambda corpus: FilterIterator(inner.make(corpus), passes),
        [item for item in inner.items if passes(item)],
    )


def batched(draw: Draw, inner: Plan) -> Plan:
    size, drop_last, collate = draw(sizes), draw(st.booleans()), draw(st.sampled_from([None, joined]))
    items: list[Any] = [inner.items[i : i + size] for i in range(0, len(inner.items), size)]
    if drop_last:
        items = [batch for batch in items if len(batch) == size]
    if collate is not None:
        items = [tuple(batch) for batch in items]
    return Plan(
        f"Batch({inner}, {size}, {drop_last}, {collate})",
        lambda corpus: BatchIterator(inner.make(corpus), size, drop_last, collate),
        items,
    )


def shuffled(draw: Draw, inner: Plan) -> Plan:
    size, seed = draw(sizes), draw(seeds)
    items = []
    for number, begin in enumerate(range(0, len(inner.items), size)):
        block = inner.items[begin : begin + size]
        items += [block[i] for i in permutation(seed, number, len(block))]
    return Plan(
        f"Shuffle({inner}, {size}, {seed})",
        lambda corpus: ShuffleIterator(inner.make(corpus), buffer_size=size, seed=seed),
        items,
    )


def tokenized(draw: Draw, inner: Plan) -> Plan:
    """Tokenize the ``repr`` of each item, so that this stage accepts any items."""
    # Other tests check the tokens themselves.
    tokens = [drain(PreprocessIterator(ListIterator([as_text(item)])))[0] for item in inner.items]
    return Plan(
        f"Preprocess({inner})", lambda corpus: PreprocessIterator(MapIterator(inner.make(corpus), as_text)), tokens
    )


def packed(draw: Draw, inner: Plan) -> Plan:
    rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 64))
    tokens = tokenized(draw, inner)
    stream = [token for item in tokens.items for token in item.tolist()]
    items = []
    for begin in range(0, max(0, len(stream) - 1), rows * length):
        targets = stream[begin + 1 :][: rows * length]
        padding = [0] * (rows * length - len(targets))
        items.append(
            Batch(
                np.reshape(stream[begin:][: len(targets)] + padding, (rows, length)),
                np.reshape(targets + padding, (rows, length)),
                np.reshape([True] * len(targets) + [False] * len(padding), (rows, length)),
            )
        )
    return Plan(
        f"Packing({tokens}, {rows}, {length})",
        lambda corpus: PackingIterator(tokens.make(corpus), batch_size=rows, sequence_length=length),
        items,
    )


def sequenced(draw: Draw, inner: Plan) -> Plan:
    """Make shuffled sequences of patches from the ``repr`` of each item."""
    texts = ListIterator([as_text(item) for item in inner.items])
    patches: list[list[int]] = []
    for document in drain(PreprocessIterator(texts, patcher=SpacePatcher())):
        tokens = document.tokens.tolist()
        for n in document.patch_lengths.tolist():
            patches.append(tokens[:n])
            tokens = tokens[n:]
    length, size, seed, drop_last = draw(st.integers(2, 30)), draw(sizes), draw(seeds), draw(st.booleans())
    stream = [patches[0][:1], patches[0][1:], *patches[1:]] if patches else []
    stream = [patch for patch in stream if patch]
    in_order = []
    for begin in range(1, len(stream), length - 1):
        whole = [stream[begin - 1][-1:], *stream[begin : begin + length - 1]]
        if len(whole) == length or not drop_last:
            tokens = [token for patch in whole for token in patch]
            in_order.append(TokenSequence(np.array(tokens, np.uint16), np.array([len(patch) for patch in whole])))
    items = []
    for number, begin in enumerate(range(0, len(in_order), size)):
        block = in_order[begin : begin + size]
        items += [block[i] for i in permutation(seed, number, len(block))]

    def make(corpus: Path) -> StatefulIterator[Any]:
        tokens = PreprocessIterator(MapIterator(inner.make(corpus), as_text), patcher=SpacePatcher())
        return SequenceIterator(tokens, sequence_length=length, buffer_size=size, seed=seed, drop_last=drop_last)

    return Plan(f"Sequence({inner}, {length}, {size}, {seed}, {drop_last})", make, items)


def packed_in_patches(draw: Draw, inner: Plan) -> Plan:
    rows = draw(st.integers(1, 3))
    sequences = sequenced(draw, inner)
    items = []
    for begin in range(0, len(sequences.items), rows):
        given = sequences.items[begin : begin + rows]
        longest = max(row.tokens.size for row in given) - 1
        lists = [row.tokens.tolist() for row in given] + [[0]] * (rows - len(given))
        lengths = [row.patch_lengths.tolist() for row in given] + [[1]] * (rows - len(given))
        items.append(
            Batch(
                np.array([tokens[:-1] + [0] * (longest + 1 - len(tokens)) for tokens in lists]),
                np.array([tokens[1:] + [0] * (longest + 1 - len(tokens)) for tokens in lists]),
                np.array([[i < len(tokens) - 1 for i in range(longest)] for tokens in lists]),
                np.array([row + [0] * (30 - len(row)) for row in lengths]),
            )
        )
    return Plan(
        f"Packing({sequences}, {rows}, 30)",
        lambda corpus: PackingIterator(sequences.make(corpus), batch_size=rows, sequence_length=30),
        items,
    )


def sampled(draw: Draw, inner: Plan, others: list[Plan]) -> Plan:
    mode = draw(st.sampled_from(["stop", "drop", "restart"]))
    n = draw(st.integers(0, LONGEST))
    plans = [plan for plan in (inner, *others) if plan.items or mode != "restart"]
    if not plans:
        return inner
    weights: list[float] = draw(
        st.lists(st.sampled_from([0, 1, 0.25, 1 / 3, 5e-324, 7]), min_size=len(plans), max_size=len(plans)).filter(any)
    )
    seed = draw(seeds)
    names = [f"source {i}" for i in range(len(plans))]

    def make(corpus: Path) -> StatefulIterator[Any]:
        sources = dict(zip(names, (plan.make(corpus) for plan in plans), strict=True))
        # The weights have another order than the sources: only the order of the sources matters.
        given = dict(zip(names[::-1], weights[::-1], strict=True))
        mixture: StatefulIterator[Any] = SamplingIterator(sources, given, seed=seed, on_exhausted=mode)
        return LimitIterator(mixture, n) if mode == "restart" else mixture

    items = mixture_model([plan.items for plan in plans], weights, seed, mode, n)
    return Plan(f"Sampling({plans}, {weights}, {seed}, {mode}, {n})", make, items)


def mixture_model(sources: list[list[Any]], weights: list[float], seed: int, mode: str, n: int) -> list[Any]:
    """Return the mixture, or its first ``n`` items if it restarts its sources."""
    left = [list(items) for items in sources]
    items: list[Any] = []
    alive, draw = list(weights), 0
    while any(alive) and not (mode == "restart" and len(items) == n):
        number = uniforms(seed, draw // 1024, 1024)[draw % 1024]
        draw += 1
        total, bound, chosen = sum(alive), 0.0, -1
        for i, weight in enumerate(alive):
            bound += weight
            if number < bound / total:
                chosen = i
                break
        if not left[chosen] and mode == "restart":
            left[chosen] = list(sources[chosen])
        if left[chosen]:
            items.append(left[chosen].pop(0))
        elif mode == "stop":
            break
        else:
            alive[chosen] = 0
    return items


SOURCES: list[Callable[[Draw], Plan]] = [a_list, an_iterable, documents]
STAGES: list[Callable[[Draw, Plan], Plan]] = [
    looping,
    limited_looping,
    limit,
    mapped,
    filtered,
    batched,
    shuffled,
    tokenized,
    packed,
    sequenced,
    packed_in_patches,
]


@st.composite
def plans(draw: Draw, depth: int = 4) -> Plan:
    plan: Plan = draw(st.sampled_from(SOURCES))(draw)
    for level in range(draw(st.integers(0, depth))):
        stage = draw(st.sampled_from([*STAGES, None, None]))
        if stage is None:
            others = draw(st.lists(plans(level), max_size=2))
            plan = sampled(draw, plan, others)
        else:
            plan = stage(draw, plan)
        if len(plan.items) > LONGEST:
            plan = shortened(plan)
    return plan


def shortened(plan: Plan) -> Plan:
    return Plan(
        f"Limit({plan}, {LONGEST})", lambda corpus: LimitIterator(plan.make(corpus), LONGEST), plan.items[:LONGEST]
    )
