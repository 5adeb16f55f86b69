"""A checkpoint is data. The names in it make the library construct, call, import and open nothing that they may not."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from asyncprefetch import AsyncPrefetcher, AsyncPrefetcherState, CheckpointError, IteratorState, register
from asyncprefetch.iterators import MapIterator, from_iterable
from tests.faults.containers import (
    audited,
    document_of,
    inline,
    make_container,
    numbers,
    parts,
    ran,
    state_of,
    text_pipeline,
    write_corpus,
)
from tests.inside import _codec
from tests.iterators.sources import ListIterator
from tests.pipelines.counting import Count

made: list[str] = []


class Noticed:
    """Records each instance of a subclass that is made, in whatever way."""

    def __new__(cls, *args: Any, **keywords: Any) -> Any:
        made.append(cls.__name__)
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        made.append(type(self).__name__)

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)


@dataclasses.dataclass
class ImportableDataclass(Noticed):
    command: str = "exit 1"

    def __post_init__(self) -> None:
        made.append("ImportableDataclass")


class ImportableModel(BaseModel):
    command: str = "exit 1"

    def model_post_init(self, context: Any) -> None:
        made.append("ImportableModel")


class ImportableState(IteratorState):
    """A state without a kind is abstract."""

    command: str = "exit 1"

    def build(self) -> Any:
        made.append("ImportableState")


@register("tests.faults.Parent")
@dataclasses.dataclass
class Parent:
    value: Any = None


@dataclasses.dataclass
class Child(Parent):
    """A subclass of a registered class that is not registered itself."""

    def __setattr__(self, name: str, value: Any) -> None:
        made.append("Child")


@register("tests.faults.Careful")
@dataclasses.dataclass(frozen=True)
class Careful:
    """Records which of its methods run."""

    value: Any = None
    calls: ClassVar[list[str]] = []

    def __post_init__(self) -> None:
        self.calls.append("__post_init__")

    def __call__(self, item: Any) -> Any:
        self.calls.append("__call__")
        return item

    def __setstate__(self, state: Any) -> None:
        self.calls.append("__setstate__")


MODULE = __name__
CLASSES = (ImportableDataclass, ImportableModel, ImportableState, Child)
NAMES = [
    *(
        "os:system",
        "os.system",
        "posix.system",
        "builtins.eval",
        "builtins:exec",
        "subprocess.Popen",
        "functools.partial",
    ),
    *("pickle.loads", "importlib.import_module", "numpy.load", "ctypes.CDLL", "antigravity", "this", "__main__", ""),
    *(
        "asyncprefetch",
        "asyncprefetch._checkpoint.files.write_file",
        "asyncprefetch.batch.Batch",
        "../../etc/passwd",
        "os\0system",
    ),
    *(f"{MODULE}{dot}{cls.__qualname__}" for cls in CLASSES for dot in (".", ":")),
    *(cls.__qualname__ for cls in CLASSES),
]
SAMPLE = {"$": "registered", "tag": "asyncprefetch.Batch"}
COUNT = document_of()["shards"][0]["state"]


def nodes(name: Any) -> dict[str, dict[str, Any]]:
    """Return all nodes by which a file can name an object."""
    return {
        "state": {"$": "state", "kind": name, "version": 1, "fields": {"command": "exit 1"}},
        "registered": {"$": "registered", "tag": name},
        "dataclass": {"$": "dataclass", "tag": name, "v": {"command": "exit 1"}},
        "namedtuple": {"$": "namedtuple", "tag": name, "v": ["exit 1"]},
        "model": {"$": "model", "tag": name, "v": {"command": "exit 1"}, "extra": None, "private": None, "set": []},
        name or "empty": {"$": name, "v": "exit 1"},
    }


def holders(node: Any) -> list[dict[str, Any]]:
    """Return documents that contain a node as a batch, deep in a batch, as a state, within a state, and as a key."""
    item = {"deep": [{"$": "tuple", "v": [{"x": node}]}]}
    function = {"$": "state", "kind": "asyncprefetch.map", "version": 1, "fields": {"inner": COUNT, "function": node}}
    inner = {"$": "state", "kind": "asyncprefetch.map", "version": 1, "fields": {"inner": node, "function": SAMPLE}}
    return [
        document_of(item=node),
        document_of(item=item),
        document_of(item={"$": "dict", "k": [node], "v": [1]}),
        document_of(node),
        document_of(function),
        document_of(inner),
    ]


def warm_up() -> None:
    for document in holders({"$": "registered", "tag": "no.such"}):
        with pytest.raises(CheckpointError):
            AsyncPrefetcherState.from_bytes(make_container(document))
    AsyncPrefetcherState.from_bytes(make_container(document_of(item=1))).build()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_is_not_registered_is_found_whatever_the_file_names(name: str) -> None:
    warm_up()
    modules = set(sys.modules)
    made.clear()
    for node in nodes(name).values():
        for document in holders(node):
            with pytest.raises(CheckpointError, match=r"unknown|malformed"), audited():
                AsyncPrefetcherState.from_bytes(make_container(document))
            with pytest.raises(CheckpointError, match=r"unknown|malformed"), audited():
                AsyncPrefetcherState.from_json(json.dumps(document | {"leaves": []}))
    assert made == []
    assert set(sys.modules) == modules


@pytest.mark.parametrize(
    "name", [1, None, True, [], ["os", "system"], {}, {"$": "registered", "tag": "tests.faults.add"}]
)
def test_a_name_that_is_no_text_is_refused(name: Any) -> None:
    warm_up()
    for node in (
        {"$": "state", "kind": name, "version": 1, "fields": {}},
        {"$": "registered", "tag": name},
        {"$": "dataclass", "tag": name, "v": {}},
        {"$": name, "v": 1},
    ):
        for document in holders(node):
            with pytest.raises(CheckpointError), audited():
                AsyncPrefetcherState.from_bytes(make_container(document))


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (
            {"$": "dataclass", "tag": "tests.faults.Parent", "v": {"value": 1, "__class__": "Child"}},
            "has no field '__class__'",
        ),
        (
            {"$": "dataclass", "tag": "tests.faults.Parent", "v": {"value": 1, "__dict__": {}}},
            "has no field '__dict__'",
        ),
        ({"$": "dataclass", "tag": "tests.faults.Careful", "v": {"value": 1, "calls": []}}, "has no field 'calls'"),
        ({"$": "dataclass", "tag": "tests.faults.add", "v": {"__code__": 1}}, "does not name a dataclass"),
        (
            {"$": "model", "tag": "tests.faults.Parent", "v": {}, "extra": None, "private": None, "set": []},
            "not name a model",
        ),
        ({"$": "namedtuple", "tag": "tests.faults.Parent", "v": [1]}, "does not name a namedtuple"),
        (
            {
                "$": "model",
                "tag": "tests.Config",
                "v": {"name": "x", "sizes": []},
                "extra": {"__class__": 1},
                "private": None,
                "set": [],
            },
            "extra fields",
        ),
        (
            {
                "$": "model",
                "tag": "tests.Config",
                "v": {"name": "x", "sizes": []},
                "extra": None,
                "private": {"__class__": 1},
                "set": [],
            },
            "has no field '__class__'",
        ),
    ],
    ids=repr,
)
def test_a_registered_class_gets_its_own_fields_and_no_other_class(node: Any, reason: str) -> None:
    made.clear()
    for document in holders(node)[:2]:
        with pytest.raises(CheckpointError, match=reason), audited():
            AsyncPrefetcherState.from_bytes(make_container(document))
    assert made == []


def test_a_kind_names_states_only_and_a_tag_no_states() -> None:
    for node in (
        {"$": "state", "kind": "asyncprefetch.Batch", "version": 1, "fields": {"x": 1, "y": 2}},
        {"$": "dataclass", "tag": "asyncprefetch.map", "v": {}},
        {"$": "registered", "tag": "tests.count"},
    ):
        with pytest.raises(CheckpointError, match="unknown"):
            AsyncPrefetcherState.from_bytes(make_container(document_of(item=node)))


def test_a_subclass_of_a_registered_class_is_written_only_if_it_is_registered_itself() -> None:
    with pytest.raises(CheckpointError, match="Child is not registered"):
        _codec.encode(object.__new__(Child), None)


# ------------------------------------------------------------------------------------------------- registered functions


def partial_of(function: Any, *args: Any) -> dict[str, Any]:
    held = {"function": function, "args": {"$": "tuple", "v": list(args)}, "keywords": {}}
    return {"$": "dataclass", "tag": "asyncprefetch.Partial", "v": held}


FUNCTIONS = {
    "a function": {"$": "registered", "tag": "tests.faults.numbers"},
    "a class": {"$": "registered", "tag": "tests.faults.Careful"},
    "a partial": partial_of({"$": "registered", "tag": "tests.faults.add"}, 1),
    "a partial of a partial": partial_of(partial_of({"$": "registered", "tag": "tests.faults.add"}, 1), 2),
    "a partial of a class": partial_of({"$": "registered", "tag": "tests.faults.Careful"}),
    "an object that can be called": {"$": "dataclass", "tag": "tests.faults.Careful", "v": {"value": 1}},
}
FIELDS = {
    "map": {"inner": COUNT},
    "filter": {"inner": COUNT},
    "batch": {"inner": COUNT, "batch_size": 2, "drop_last": False},
    "from_iterable": {},
}
NAME_OF_FUNCTION = {"map": "function", "filter": "predicate", "batch": "collate", "from_iterable": "factory"}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", FIELDS)
async def test_a_function_that_a_file_names_is_not_called_before_iteration_starts_in_the_worker(
    tmp_path: Path, kind: str, function: str
) -> None:
    fields = FIELDS[kind] | {NAME_OF_FUNCTION[kind]: FUNCTIONS[function]}
    node = {"$": "state", "kind": f"asyncprefetch.{kind}", "version": 1, "fields": fields}
    path = tmp_path / "state"
    path.write_bytes(make_container(document_of(node, item=FUNCTIONS[function])))
    ran.clear()
    Careful.calls.clear()
    await AsyncPrefetcherState.load(path)  # this starts the threads
    with audited(path):
        state = await AsyncPrefetcherState.load(path)
        assert AsyncPrefetcherState.from_bytes(state.to_bytes()) == state
        loader = state.build(workers=inline)
        assert state.iterator_state(state.shards[0])
    assert ran == Careful.calls == []
    # get_state() reads a pickled copy, as workers get it. It contains only classes that the parent named.
    await loader.get_state()
    assert ran == []
    assert set(Careful.calls) <= {"__setstate__"}


@pytest.mark.both_loops
async def test_hashing_and_comparing_keys_calls_no_function(tmp_path: Path) -> None:
    """Reading runs only ``__hash__`` and ``__eq__`` of a registered class, and only for keys of dicts."""
    ran.clear()
    key = partial_of({"$": "registered", "tag": "tests.faults.add"})
    key["v"]["keywords"] = {"$": "tuple", "v": []}  # this makes the key hashable
    document = document_of(item={"$": "dict", "k": [key, {"$": "registered", "tag": "tests.faults.add"}], "v": [1, 2]})
    with audited():
        AsyncPrefetcherState.from_bytes(make_container(document)).build()
    assert ran == []


# -------------------------------------------------------------------------------------------------- another's pipeline


async def test_expect_lists_every_field_that_differs_and_no_position(tmp_path: Path) -> None:
    folder = tmp_path / "a_long_name" / "of_a_folder" / "in_which_there_are" / "several_others"
    folder.mkdir(parents=True)
    corpus = write_corpus(folder / "corpus")
    other = write_corpus(folder / "other")
    (other / "c.txt").write_text("more")
    path = tmp_path / "state"
    await (await state_of(text_pipeline(corpus), taken=5)).save(path)
    state = await AsyncPrefetcherState.load(path, expect=text_pipeline(corpus))
    assert state.delivered.total == 5
    with pytest.raises(CheckpointError, match="given as expect= differs from the one that was saved: make") as caught:
        await AsyncPrefetcherState.load(path, expect=text_pipeline(other, seed=8, batch_size=3))
    lines = str(caught.value).splitlines()[1:]
    sequences = "shard 0.inner.sources[0].inner.inner.start"
    limited = "shard 0.inner.sources[1].inner.inner.inner.start"
    for expected in (
        r"shard 0\.batch_size: saved 2, given 3",
        r"shard 0\.inner\.seed: saved 7, given 8",
        r"shard 0\.inner\.sources\[0\]\.seed: saved 7, given 8",
        r"shard 0\.inner\.sources\[1\]\.inner\.seed: saved 7, given 8",
        # The report shows the whole path or its end, so the difference is visible for any length.
        *(rf"{re.escape(where)}\.paths\[0\]: saved .*corpus', given .*other'" for where in (sequences, limited)),
        *(rf"{re.escape(where)}\.listing: saved '2 files.*', given '3 files.*'" for where in (sequences, limited)),
    ):
        found = [line for line in lines if re.fullmatch(rf"\s*{expected}", line)]
        assert len(found) == 1, (expected, lines)
        lines.remove(found[0])
    assert lines == []


async def test_expect_refuses_other_shards_other_stages_and_other_functions(tmp_path: Path) -> None:
    path = tmp_path / "state"
    await (await AsyncPrefetcher([MapIterator(from_iterable(numbers), is_even)], num_workers=1).get_state()).save(path)
    for expect, reason in [
        (
            [MapIterator(from_iterable(numbers), is_odd_again)],
            r"shard 0\.function: saved .*is_even.*, given .*is_odd_again",
        ),
        ([from_iterable(numbers)], "shard 0: saved MapState, given FromIterable.State"),
        ([Count(3), Count(3)], "saved has 1 shard, and the one given as expect= has 2 shards: make them the same, or"),
    ]:
        with pytest.raises(CheckpointError, match=reason):
            await AsyncPrefetcherState.load(path, expect=expect)


@register("tests.faults.is_even")
def is_even(item: int) -> bool:
    return item % 2 == 0


@register("tests.faults.is_odd_again")
def is_odd_again(item: int) -> bool:
    return item % 2 == 1


async def test_a_long_list_of_differences_and_values_without_a_repr_are_abbreviated(tmp_path: Path) -> None:
    path = tmp_path / "state"
    node = {"$": "state", "kind": "tests.iterators.list", "version": 1, "fields": {"items": [0] * 5000, "position": 0}}
    node["fields"]["items"][0] = {"$": "int", "v": "0x" + "f" * 9000}
    path.write_bytes(make_container(document_of(node)))
    with pytest.raises(CheckpointError, match="and 4900 more") as caught:
        await AsyncPrefetcherState.load(path, expect=ListIterator([1] * 5000))
    assert "shard 0.items[0]: saved a builtins.int, given 1" in str(caught.value)
    assert len(str(caught.value)) < 20_000


# ---------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "leaf.000000/../../evil", "..\\evil", "leaf.000000\0"])
async def test_names_in_a_state_are_no_paths(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    path = folder / "state"
    header, _, _ = parts(make_container(document_of(), [b"abc"]))
    header[name] = header.pop("leaf.000000")
    for content in (
        json.dumps(header).encode(),
        make_container(document_of(item={"$": "registered", "tag": name})),
        make_container(document_of({"$": "state", "kind": name, "version": 1, "fields": {}})),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError), audited(path):
            await AsyncPrefetcherState.load(path)
    path.write_bytes(make_container(document_of(item={name: name})))
    state = await AsyncPrefetcherState.load(path)
    with audited(path):
        state.build()
    await state.save(path)
    assert [name for *_, names in os.walk(tmp_path) for name in names] == ["state"]


@pytest.mark.both_loops
async def test_files_of_a_state_are_not_opened_by_load_or_build(tmp_path: Path) -> None:
    """The paths of documents are data. The worker opens them when the iteration starts."""
    corpus = write_corpus(tmp_path / "corpus")
    path = tmp_path / "state"
    await (await state_of(text_pipeline(corpus))).save(path)
    document = json.loads(json.dumps(parts(path.read_bytes())[1]).replace(str(corpus), "/proc/self/mem"))
    leaves = (await AsyncPrefetcherState.load(path)).leaves
    path.write_bytes(make_container(document, leaves))
    await AsyncPrefetcherState.load(path)
    with audited(path):
        (await AsyncPrefetcherState.load(path)).build()
    with pytest.raises(CheckpointError, match="/proc/self/mem"):
        await AsyncPrefetcherState.load(path, expect=text_pipeline(corpus))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_files_are_their_owners_only_whatever_the_umask_and_the_old_file(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "state"
    state = AsyncPrefetcherState.from_bytes(make_container(document_of()))
    before = os.umask(umask)
    try:
        for _ in range(2):
            await state.save(path)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            path.chmod(0o666)
    finally:
        os.umask(before)
