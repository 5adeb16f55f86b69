import copy
import enum
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncprefetch import Batch
from tests.inside import ItemPickler, Ledger, ShardStart, fingerprint
from tests.pipelines.items import make_item


@given(st.lists(st.tuples(st.sampled_from(["item", "state", "late state"]), st.integers(0, 3)), max_size=30))
def test_state_and_skip_always_lead_to_the_next_item(events):
    """The model: an iterator counts, its state is its position, and the fingerprint of an item is the item."""
    ledger = Ledger(0, ShardStart(b"0", 0, ()))
    position = known = 0
    for what, back in events:
        if what == "item":
            ledger.add_item(position, position)
            position += 1
        else:
            known = position if what == "state" else max(known, position - back)
            ledger.add_state(known, str(known).encode())
        start = ledger.start()
        assert start.state == str(known).encode()
        assert start.skip == tuple(range(known, position))
        assert start.position == ledger.position == position


def test_what_a_ledger_gave_out_does_not_change_later():
    ledger = Ledger(0, ShardStart(b"s", 4, (7,)))
    start = ledger.start()
    ledger.add_item(5, 8)
    assert start == ShardStart(b"s", 4, (7,))


@pytest.mark.parametrize("position", [0, 2])
def test_an_item_out_of_sequence_is_an_error(position):
    ledger = Ledger(3, ShardStart(b"", 1, ()))
    with pytest.raises(RuntimeError, match=f"shard 3: item {position} came where 1 was due"):
        ledger.add_item(position, 0)


def test_a_state_or_an_end_out_of_sequence_is_an_error():
    ledger = Ledger(3, ShardStart(b"", 1, ()))
    with pytest.raises(RuntimeError, match="a state at 2"):
        ledger.add_state(2, b"")
    with pytest.raises(RuntimeError, match="the end came at 2"):
        ledger.add_end(2)


@pytest.mark.parametrize("kind", ["int", "batch", "nest", "big"])
def test_items_that_differ_have_different_fingerprints_and_equal_ones_the_same(kind):
    assert fingerprint(make_item(kind, 5)) == fingerprint(make_item(kind, 5))
    assert len({fingerprint(make_item(kind, n)) for n in range(50)}) == 50


def test_a_fingerprint_does_not_depend_on_the_process_or_on_shared_objects():
    text = "x" * 3
    code = "from tests.inside import fingerprint as f; print(f({'a': 'xxx', 'b': 'x' * 3, 's': {'p', 'q', 'r'}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == fingerprint({"a": text, "b": text, "s": {"r", "q", "p"}})


@pytest.mark.parametrize(
    "other",
    [
        np.arange(12, dtype=np.int32),
        np.arange(12).reshape(3, 4),
        np.arange(12)[::-1],
        np.arange(1, 13),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
    ],
)
def test_dtype_shape_and_content_of_an_array_count(other):
    assert fingerprint(np.arange(12)) != fingerprint(other)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.array([1], ">i4"), np.array([16777216], "<i4")),  # two arrays with the same bytes
        (np.ma.masked_array([1, 2], [0, 1]), np.ma.masked_array([1, 2], [1, 0])),
        (np.arange(3).view(np.recarray), np.arange(1, 4).view(np.recarray)),
        (np.array([([0.123456789, 2],)], [("a", "f8", 2)]), np.array([([0.1234567891, 2],)], [("a", "f8", 2)])),
        (Colour.RED, Colour.BLUE),
        (Text("a"), Text("b")),
        ({1, 2}, {3}),
        ({"a": Colour.RED}, {"a": Colour.BLUE}),
        (np.float32(1), np.float32(2)),
        ("x" * 100 + "y", "x" * 101),
    ],
)
def test_what_differs_is_seen(one, other):
    assert fingerprint(one) == fingerprint(copy.deepcopy(one))
    assert fingerprint(one) != fingerprint(other)


def test_equal_dtypes_of_two_letters_have_one_fingerprint():
    assert fingerprint(np.arange(3, dtype="l")) == fingerprint(np.arange(3, dtype="q"))
    assert fingerprint(np.arange(3, dtype="l")[0]) == fingerprint(np.arange(3, dtype="q")[0])


def test_equal_arrays_have_one_fingerprint_whatever_their_memory():
    array = np.arange(600).reshape(20, 30)
    for same in (np.asfortranarray(array), np.repeat(array, 2, 1)[:, ::2], array.astype("q")):
        assert fingerprint({"x": same}) == fingerprint({"x": array})


def test_how_numpy_prints_does_not_count():
    items = [np.float64(0.5), np.array([([0.123456789, 2],)], [("a", "f8", 2)]), np.longdouble(0.1)]
    before = list(map(fingerprint, items))
    with np.printoptions(precision=2, legacy="1.25"):
        assert list(map(fingerprint, items)) == before


def test_the_padding_of_a_structure_does_not_count():
    dtype = np.dtype({"names": ["a", "b"], "formats": ["u1", "<i8"], "offsets": [0, 8], "itemsize": 16})
    one, other = (np.frombuffer(bytearray([filling] * 64), dtype) for filling in (1, 2))
    for array in (one, other):
        array["a"], array["b"] = [1, 2, 3, 4], [5, 6, 7, 8]
    assert one.view("V16").tobytes() != other.view("V16").tobytes()
    assert fingerprint(one) == fingerprint(other)
    other["b"][-1] = 0
    assert fingerprint(one) != fingerprint(other)


def test_a_fingerprint_is_cheap_whatever_the_item_is():
    root: dict = {"children": []}
    root["children"] = [{"parent": root, "siblings": root["children"]} for _ in range(30)]
    assert fingerprint(root) == fingerprint(root)  # it must not recurse for ever
    assert fingerprint(list(range(10**6))) != fingerprint(list(range(1, 10**6 + 1)))
    assert fingerprint(10**5000) != fingerprint(10**5000 + 1)


def test_equal_long_doubles_have_equal_fingerprints():
    one, other = (np.frombuffer(bytearray([filling] * 32), np.longdouble) for filling in (1, 2))
    for array in (one, other):
        array[:] = [1.5, 2.5]
    assert fingerprint([one, one[0]]) == fingerprint([other, other[0]])


def golden_items():
    """Yield items of every kind. Checkpoints contain fingerprints, so the fingerprint of an item must never change."""
    numbers = np.arange(2400).reshape(40, 60)
    yield "number", 5
    yield "nest", {"a": [1, 2.5, None, True], "b": ("text", b"bytes"), 3: {"deep": ["x" * 100]}}
    yield "long", {"many": list(range(100)), "texts": {str(n): n for n in range(60)}}
    yield "small", {"x": np.full((1, 128), 7), "y": np.full((1, 128), 8)}
    yield "large", {"x": numbers, "y": numbers.astype(">f4")}
    yield "orders", {"f": np.asfortranarray(numbers), "t": numbers.T, "s": numbers[::-3, ::2]}
    yield "dtypes", {letter: np.arange(40).astype(letter) for letter in "?bBhHiIqQefdFD"}
    yield "odd dtypes", {"m": np.arange(9).astype("M8[s]"), "s": np.array(["a", "bc"]), "v": np.zeros(3, "V5")}
    yield "structure", {"r": np.array([(1, 2.5), (3, 4.5)], [("a", "<i2"), ("b", "<f8")])}
    yield "batch", Batch(numbers, numbers + 1, numbers > 5)
    yield "16 arrays", {f"layer.{n}": numbers[:n] for n in range(1, 17)}
    yield "17 arrays", {f"layer.{n}": numbers[:n] for n in range(1, 18)}
    yield "114 arrays", {f"layer.{n}": np.arange(128 + n * 20) for n in range(114)}


# These were computed once. If one changes, every checkpoint with fingerprints refuses its replay.
GOLDEN = {
    "number": 771308298,
    "nest": 2037655405,
    "long": 2976041116,
    "small": 2428382800,
    "large": 4154152669,
    "orders": 3208963173,
    "dtypes": 2013326614,
    "odd dtypes": 2374454165,
    "structure": 135464494,
    "batch": 1117759248,
    "16 arrays": 3322154077,
    "17 arrays": 2861176681,
    "114 arrays": 1336266831,
}


def test_fingerprints_never_change_whether_by_a_walk_or_by_a_known_layout():
    pickler = ItemPickler()
    items = dict(golden_items())
    assert {name: fingerprint(item) for name, item in items.items()} == GOLDEN
    for _ in range(3):
        assert {name: pickler.encode(item)[1] for name, item in items.items()} == GOLDEN
