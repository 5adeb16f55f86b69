"""Every type of the list in docs/checkpoints.md crosses both transports alike, and comes back from a checkpoint."""

import datetime
import decimal
import fractions
import json
import pathlib
import subprocess
import sys
import tracemalloc
import zoneinfo

import numpy as np
import pytest
from hypothesis import given, settings

from asyncprefetch import AsyncPrefetcher, AsyncPrefetcherState, CheckpointError, IteratorState, register
from asyncprefetch.base import compare_configuration
from asyncprefetch.iterators import from_iterable
from tests import support
from tests.consumer import rest, until
from tests.faults.containers import audited, document_of, make_container
from tests.inside import ItemPickler, decode, encode, encode_state, explain_unsupported, item_pickler, rebuild_tensor
from tests.processes import ROOT
from tests.support import assert_same
from tests.transports.sides import Sides


def restored(item, *, inline=False):
    leaves = None if inline else []
    structure = json.loads(json.dumps(encode(item, leaves), allow_nan=False))
    return decode(structure, leaves)


@given(support.items())
@settings(max_examples=200)
def test_every_item_crosses_both_transports_alike_and_comes_back_from_a_checkpoint(item):
    pulled = item_pickler.loads(ItemPickler().dumps(item))
    with Sides() as sides:
        streamed, _ = sides.cross(item)
    assert_same(streamed, pulled)
    assert_same(restored(pulled), pulled)


@pytest.mark.parametrize("name", support.VALUES)
def test_every_value_crosses_and_comes_back_to_the_bit(name):
    @given(support.VALUES[name])
    def check(value):
        assert_same(item_pickler.loads(ItemPickler().dumps(value)), value)
        assert_same(restored(value, inline=True), value)
        assert_same(restored(value), value)

    check()


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("index", [np.s_[:], np.s_[2:7], np.s_[::2]], ids=str)
def test_memory_maps_and_their_views_arrive_as_plain_arrays(tmp_path, size, index):
    np.arange(size, dtype=np.uint16).tofile(tmp_path / "tokens")
    for mode in ("r", "r+"):
        mapped = np.memmap(tmp_path / "tokens", np.uint16, mode)[index]
        plain = np.asarray(mapped).copy()
        assert explain_unsupported({"x": mapped}) is None
        assert_same(restored(mapped), plain)
        with Sides() as sides:
            for crossed in (sides.cross({"x": mapped})[0]["x"], item_pickler.loads(ItemPickler().dumps([mapped]))[0]):
                assert_same(crossed, plain)
                assert crossed.flags.writeable
            del crossed


def test_masked_arrays_keep_their_mask_fill_value_and_hardness():
    for item in (
        np.ma.array([1.5, 2.5], fill_value=7),
        np.ma.array([1, 2], mask=[0, 1], hard_mask=True),
        np.ma.array(np.zeros((2, 3), [("a", "i4"), ("b", "S3")], order="F"), mask=True),
        np.ma.array(5, mask=True),
        np.ma.array(["a", "b"], mask=[0, 1]),
        np.ma.array(["abc", "b"], mask=[0, 1], fill_value="abcdef"),
        np.ma.array([1, 2], "M8[s]", mask=[0, 1]),
    ):
        assert_same(restored(item), item)


def test_arrays_of_objects_keep_arrays_of_no_dimensions_and_lists():
    elements = [np.array(5), [1, 2], (3,), None, np.arange(2)]
    array = np.fromiter(elements, object, 5)
    assert_same(restored(array), array)
    assert type(restored(array)[0]) is np.ndarray
    alone = np.array(None, object)
    alone[()] = [1, 2]
    assert_same(restored(alone), alone)


def test_records_and_arrays_of_records_keep_their_types():
    records = np.rec.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f8")])
    for item in (records, records[0], np.asarray(records), np.arange(3).view(np.recarray)):
        assert_same(restored(item), item)
    assert restored(records).a.tolist() == [1, 3]


# ------------------------------------------------------------------------------------------------------------ ml_dtypes


@pytest.fixture
def ml_dtypes():
    return pytest.importorskip("ml_dtypes")


def test_every_dtype_of_ml_dtypes_comes_back(ml_dtypes):
    found = [cls for cls in vars(ml_dtypes).values() if isinstance(cls, type) and issubclass(cls, np.generic)]
    assert ml_dtypes.bfloat16 in found
    for cls in found:
        for item in (np.ones(5000, cls), np.ones((2, 3), cls).T, cls(1), np.zeros(2, [("a", cls), ("b", "i8")])):
            crossed = item_pickler.loads(ItemPickler().dumps(item))
            assert_same(restored(crossed), crossed)
            assert restored(crossed).dtype == np.asarray(item).dtype


READ_ELSEWHERE = """
import json, sys
from tests.inside import decode
if {missing}:
    sys.modules["ml_dtypes"] = None
try:
    print(decode(json.loads(sys.argv[1]), None).dtype)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("missing", [False, True])
def test_a_program_that_has_not_imported_ml_dtypes_reads_its_arrays_or_names_the_package(ml_dtypes, missing):
    structure = json.dumps(encode(np.ones(3, ml_dtypes.bfloat16), None))
    command = [sys.executable, "-c", READ_ELSEWHERE.format(missing=missing), structure]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    said = "CheckpointError the checkpoint holds an array of dtype 'bfloat16': install the package ml_dtypes, and load"
    assert done.stdout.startswith(said if missing else "bfloat16\n")


def test_a_name_that_is_no_dtype_of_ml_dtypes_is_refused(ml_dtypes):
    def array(name):
        return {"$": "array", "dtype": {"ml_dtypes": name}, "shape": [0], "order": "C", "v": ""}

    for name in ("finfo", "float99", "iinfo"):
        with pytest.raises(CheckpointError, match=f"has no dtype '{name}': install a newer one"):
            decode(array(name), None)
    for name in ("__name__", "_finfo.finfo", "os.system", "", 1, None, ["bfloat16"]):
        with pytest.raises(CheckpointError, match="malformed structure: a dtype of ml_dtypes named"):
            decode(array(name), None)


# -------------------------------------------------------------------------------------------------------------- tensors


def test_tensors_come_back():
    torch = pytest.importorskip("torch")
    image = torch.arange(120).reshape(2, 3, 4, 5)
    for tensor in (
        torch.full((3, 4), 2, dtype=torch.bfloat16),
        torch.arange(12).reshape(3, 4).T,
        torch.tensor(1.5, requires_grad=True),
        torch.tensor([1 + 2j]),
        image.contiguous(memory_format=torch.channels_last),
        torch.empty((0, 3), dtype=torch.uint8),
    ):
        for inline in (True, False):
            back = restored({"x": tensor}, inline=inline)["x"]
            assert type(back) is torch.Tensor
            assert (back.dtype, back.shape, back.requires_grad) == (tensor.dtype, tensor.shape, tensor.requires_grad)
            assert not tensor.numel() or back.stride() == tensor.stride()
            assert torch.equal(back, tensor)


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:torch.quantize_per_tensor")
def test_tensors_that_a_checkpoint_cannot_hold_are_named():
    torch = pytest.importorskip("torch")
    assert "of layout torch.sparse_coo" in (explain_unsupported(torch.zeros(2, 2).to_sparse()) or "")
    quantised = torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.quint8)
    assert "can't hold a tensor of dtype torch.quint8" in (explain_unsupported(quantised) or "")
    assert "on the device meta" in (explain_unsupported(torch.zeros(2, device="meta")) or "")


TENSOR = {
    "$": "tensor",
    "dtype": "float32",
    "order": "C",
    "grad": False,
    "v": {"$": "array", "dtype": "<f4", "shape": [1], "order": "C", "v": "AAAAAA=="},
}


def test_without_torch_the_error_names_it(monkeypatch):
    rebuild_tensor.cache_clear()
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "asyncprefetch._codec.torch_tensors", raising=False)
    with pytest.raises(CheckpointError, match="the checkpoint holds a tensor: install torch"):
        decode(TENSOR, None)


@pytest.mark.parametrize(
    "changed",
    [{"dtype": "load"}, {"dtype": ["float32"]}, {"order": "K"}, {"grad": 1}, {"v": [1]}, {"order": "channels_last"}],
    ids=str,
)
def test_a_malformed_tensor_is_refused_before_torch_is_imported(changed):
    decode(TENSOR["v"], None)
    with audited(), pytest.raises(CheckpointError, match=r"malformed structure: (a )?tensor"):
        decode(TENSOR | changed, None)


# -------------------------------------------------------------------------------------------------------- hostile values


def zone(key):
    return {"$": "zoneinfo", "v": key}


def when(**changed):
    return {"$": "datetime", "v": [2024, 1, 1, 0, 0, 0, 0, 0], "zone": None} | changed


ARRAY = TENSOR["v"]
MASK = {"$": "array", "dtype": "|b1", "shape": [1], "order": "C", "v": "AA=="}
FILL = ARRAY | {"shape": []}
MASKED = {"$": "masked", "v": ARRAY, "mask": MASK, "fill": FILL, "hard": False}
OBJECTS = {"$": "objects", "shape": [1], "order": "C", "v": [1]}
STRINGS = {"$": "strings", "coerce": True, "missing": [], "shape": [1], "order": "C", "v": ["a"]}

MALFORMED = {
    "a date of two numbers": {"$": "date", "v": [1, 1]},
    "a date of floats": {"$": "date", "v": [2024.0, 1, 1]},
    "a date of bools": {"$": "date", "v": [True, True, True]},
    "a date of bytes": {"$": "date", "v": [{"$": "bytes", "v": ""}, 1, 1]},
    "a date of the year 0": {"$": "date", "v": [0, 1, 1]},
    "a datetime of a huge year": when(v=[10**30, 1, 1, 0, 0, 0, 0, 0]),
    "a datetime of fold 2": when(v=[2024, 1, 1, 0, 0, 0, 0, 2]),
    "a datetime with a text for a zone": when(zone="UTC"),
    "a datetime with a registered class for a zone": when(zone={"$": "registered", "tag": "asyncprefetch.Batch"}),
    "a time with a list for a zone": {"$": "time", "v": [0] * 5, "zone": []},
    "a timedelta out of range": {"$": "timedelta", "v": [10**9, 0, 0]},
    "a timedelta of huge numbers": {"$": "timedelta", "v": [10**300, 0, 0]},
    "an offset of a day": {"$": "timezone", "v": [1, 0, 0], "name": None},
    "a zone named by a number": {"$": "timezone", "v": [0, 0, 0], "name": 1},
    "a key with a way up": zone("../../etc/passwd"),
    "a key within a folder with a way up": zone("Europe/../../../../etc/passwd"),
    "an absolute key": zone("/etc/localtime"),
    "a key with a dot": zone("tzdata.zi"),
    "a key with a NUL": zone("UTC\0"),
    "a key with a line end": zone("UTC\n"),
    "an empty key": zone(""),
    "a key that is no text": zone(["UTC"]),
    "a long key": zone("A" * 1000),
    "a decimal of no digits": {"$": "decimal", "v": "abc"},
    "a decimal with spaces": {"$": "decimal", "v": " 1 "},
    "a decimal with an underscore": {"$": "decimal", "v": "1_0"},
    "a decimal of other digits": {"$": "decimal", "v": "٣"},
    "a decimal of a number": {"$": "decimal", "v": 1.5},
    "a decimal with an exponent out of range": {"$": "decimal", "v": "1E+9999999999999999999"},
    "a fraction of one number": {"$": "fraction", "v": ["0x1"]},
    "a fraction of numbers": {"$": "fraction", "v": [1, 2]},
    "a fraction over 0": {"$": "fraction", "v": ["0x1", "0x0"]},
    "a fraction of huge numbers": {"$": "fraction", "v": ["0x" + "f" * 3_000_000, "0x" + "e" * 3_000_000]},
    "a uuid in braces": {"$": "uuid", "v": "{" + "0" * 32 + "}", "safe": None},
    "a uuid of another safety": {"$": "uuid", "v": "0" * 32, "safe": 7},
    "a uuid of a bool's safety": {"$": "uuid", "v": "0" * 32, "safe": False},
    "a path of another class": {"$": "path", "class": "Popen", "v": "a"},
    "a path of no text": {"$": "path", "class": "PurePosixPath", "v": {"$": "bytes", "v": ""}},
    "a path of another system": {"$": "path", "class": "WindowsPath", "v": "a"},
    "records of a list": {"$": "records", "v": [1]},
    "a masked array of a list": MASKED | {"v": [1.0]},
    "a mask of another shape": MASKED | {"mask": MASK | {"shape": [1, 1]}},
    "a mask of another dtype": MASKED | {"mask": ARRAY},
    "a fill value that is an array": MASKED | {"fill": ARRAY},
    "a fill value of another dtype": MASKED | {"fill": MASK | {"shape": []}},
    "a hardness that is no bool": MASKED | {"hard": 1},
    "objects of more elements": OBJECTS | {"shape": [2]},
    "objects of a negative shape": OBJECTS | {"shape": [-1, -1]},
    "objects of a text": OBJECTS | {"v": "a"},
    "objects of another order": OBJECTS | {"order": "K"},
    "very many rows of no objects": OBJECTS | {"shape": [10**9, 0], "v": []},
    "very many rows of no texts": STRINGS | {"shape": [10**9, 0], "v": []},
    "texts of numbers": STRINGS | {"v": [1]},
    "texts with a missing one": STRINGS | {"v": [None]},
    "texts with two objects for missing ones": STRINGS | {"missing": [None, None]},
    "texts with another object for missing ones": STRINGS | {"missing": ["none"]},
    "texts of a shape that does not fit": STRINGS | {"shape": [3]},
    "texts that coerce maybe": STRINGS | {"coerce": 1},
}


@pytest.mark.parametrize("node", MALFORMED.values(), ids=MALFORMED)
def test_malformed_values_are_refused_and_open_nothing(node):
    restored(datetime.datetime(2024, 1, 1))
    for state in (document_of(item=node), document_of(item=[{"x": node}])):
        with pytest.raises(CheckpointError), audited():
            AsyncPrefetcherState.from_bytes(make_container(state))


def test_malformed_nodes_are_valid_but_for_their_change():
    for node in (
        when(),
        when(zone=zone("UTC")),
        MASKED,
        OBJECTS,
        *([STRINGS] if hasattr(np.dtypes, "StringDType") else []),
    ):
        decode(node, None)


@pytest.mark.parametrize("key", ["Europe/Atlantis", "Europe", "leapseconds"])
def test_a_time_zone_that_is_not_installed_is_named(key):
    with pytest.raises(
        CheckpointError, match=f"time zone '{key}' can't be read here: install .* or the package tzdata"
    ):
        decode(zone(key), None)


def test_a_context_that_traps_nothing_does_not_turn_malformed_decimals_into_nan():
    with decimal.localcontext(decimal.Context(traps=[])):
        with pytest.raises(CheckpointError):
            decode({"$": "decimal", "v": "1E+9999999999999999999"}, None)
        value = decimal.Decimal("1E+999999999999")
        assert_same(restored(value), value)


def test_huge_exponents_take_no_memory():
    texts = [f"{sign}1E{exponent}" for sign in ("", "-") for exponent in ("+99999999999", "-9999999999")]
    nodes = [{"$": "decimal", "v": text} for text in texts]
    tracemalloc.start()
    keys = decode({"$": "dict", "k": [*nodes, 10, 0], "v": [0] * 6}, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(keys) == 6
    assert peak < 1_000_000


# ------------------------------------------------------------------------------------------------------------- in a loader


@register("tests.values.rows")
def rows():
    for n in range(20):
        yield {
            "n": n,
            "when": datetime.datetime(2024, 1, 1 + n, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1),
            "day": datetime.date(2024, 1, 1 + n),
            "price": decimal.Decimal(n).scaleb(-2),
            "share": fractions.Fraction(n, 7),
            "path": pathlib.PurePosixPath(f"{n}.txt"),
            "masked": np.ma.array([n, 2], mask=[0, 1]),
            "ragged": np.fromiter([[n], [n, n]], object, 2),
        }


@pytest.mark.both_loops
async def test_a_loader_of_such_values_warns_of_nothing_and_resumes(executor_factory):
    async with AsyncPrefetcher(from_iterable(rows), workers=executor_factory) as loader:
        first = [await anext(loader) for _ in range(3)]
        await until(lambda: loader.statistics().buffered, 10)
        state = await loader.get_state()
    assert state.buffer
    for again in (AsyncPrefetcherState.from_bytes(state.to_bytes()), AsyncPrefetcherState.from_json(state.to_json())):
        assert_same([*first, *await rest(again.build(workers=executor_factory))], list(rows()))


# --------------------------------------------------------------------------------------------------------------- states


class Dated(IteratorState, kind="tests.values.dated"):
    when: datetime.datetime
    where: pathlib.Path = pathlib.Path("/x")


def test_a_state_holds_a_time_that_pydantic_parsed_and_a_path_as_text_and_can_be_saved_again():
    state = Dated(when="2024-01-01T00:00:00Z")
    for _ in range(3):
        structure = encode_state(state, None)
        assert structure["fields"] == {"when": "2024-01-01T00:00:00Z", "where": "/x"}
        state = decode(structure, None)
    assert state == Dated(when="2024-01-01T00:00:00Z")


TEXTS = [np.array([character * 40], "T") for character in "xy"] if hasattr(np.dtypes, "StringDType") else ["x", "y"]


@pytest.mark.parametrize(
    ("saved", "given"),
    [
        TEXTS,
        (np.array([1, "a", None], object), np.array([1, "b", None], object)),
        (np.ma.array([1, 2], mask=[False, True]), np.ma.array([1, 2], mask=[True, True])),
    ],
)
def test_a_difference_in_an_array_of_any_kind_is_seen(saved, given):
    again = decode(encode(saved, None), None)
    assert compare_configuration(again, saved, "x") == []
    assert len(compare_configuration(again, given, "x")) == 1


def test_a_mapped_array_is_no_difference_from_the_plain_one_that_a_checkpoint_holds(tmp_path):
    mapped = np.memmap(tmp_path / "x", np.int64, "w+", shape=3)
    assert compare_configuration(decode(encode(mapped, None), None), mapped, "x") == []


# ---------------------------------------------------------------------------------------------------------- odd values


LONG, DECIMAL = 1 << 1024, decimal.Decimal(1)


@pytest.mark.parametrize(
    "item", [{LONG: 0, DECIMAL: 0}, {DECIMAL: 0, LONG: 0}, {(1, LONG): 0, (1, DECIMAL): 0}, [{LONG: 0}, {DECIMAL: 0}]]
)
def test_keys_with_a_long_int_and_a_decimal_are_refused_by_both_sides(item):
    """They could have the same hash. To compare the two takes quadratic time."""
    with pytest.raises(CheckpointError, match="both in keys of dicts"):
        encode(item, None)

    def structure(value):
        if isinstance(value, list):
            return list(map(structure, value))
        return {"$": "dict", "k": [encode(key, None) for key in value], "v": list(value.values())}

    with pytest.raises(CheckpointError, match="both in keys of dicts"):
        decode(structure(item), None)


@pytest.mark.parametrize("item", [{LONG: DECIMAL}, {DECIMAL: LONG}, {1 << 1023: 0, DECIMAL: 0}])
def test_keys_with_one_of_the_two_are_held(item):
    assert decode(encode(item, None), None) == item


def test_a_value_that_numpy_supports_in_part_is_refused_with_its_place():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    item = np.ma.array(np.zeros(2, ml_dtypes.bfloat16))
    reason = explain_unsupported(item)
    assert reason is not None
    assert reason.startswith("item: a checkpoint can't hold this numpy.ma")
    with pytest.raises(CheckpointError, match=r"^item: a checkpoint can't hold this numpy"):
        encode(item, None)
