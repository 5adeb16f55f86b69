"""How a worker places its items on slots. No slot has two uses at a time."""

from __future__ import annotations

import mmap
import os
import signal
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncprefetch import empty, full
from asyncprefetch.testing import assert_items_equal
from tests.inside import MIN_PLACED, item_layout, item_pickler
from tests.processes import end_of_child
from tests.support import assert_same, items
from tests.transports.sides import Sides, lies_in_shared_memory

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create")

BIG = 2 * MIN_PLACED
MB = 1 << 20


@pytest.fixture
def sides():
    with Sides() as sides:
        yield sides


def address(array):
    return array.__array_interface__["data"][0]


def offset(sides, array):
    """Return the array's slot, and its offset on the slot."""
    return divmod(address(array) - sides.memory.address, sides.memory.stride)


# -------------------------------------------------------------------------------------------------- in place, or copied


def test_an_array_made_on_the_slot_crosses_without_a_copy(sides):
    array = full(BIG, 7, np.uint8)
    assert offset(sides, array) == (0, 0)
    item, slot = sides.cross({"x": array})
    assert slot == 0
    item["x"][3] = 99
    assert array[3] == 99  # both arrays share the memory
    assert sides.memory.mapped == BIG


def test_a_plain_array_is_copied_at_the_yield(sides):
    array = np.full(BIG, 7, np.uint8)
    item, _ = sides.cross([array])
    array.fill(8)
    assert lies_in_shared_memory(item[0])
    assert (item[0] == 7).all()
    assert item[0].flags.writeable


def test_small_arrays_ride_in_the_frame(sides):
    small = empty(MIN_PLACED - 1, np.uint8)
    assert small.base is None
    assert isinstance(sides.send([small, np.zeros(MIN_PLACED - 1, np.uint8)]), bytes)
    assert isinstance(sides.send([np.zeros(9)[::2], full(BIG, 7, np.uint8)[:MIN_PLACED:2]]), bytes)
    assert not isinstance(sides.send([np.zeros(MIN_PLACED, np.uint8)]), bytes)


def test_arrays_of_an_item_lie_side_by_side_and_aligned(sides):
    made = [full(BIG + n, n, np.uint8) for n in range(3)]
    item, _ = sides.cross([np.full(BIG + 5, 5, np.uint8), *made, np.full((90, 91), 6.0)])
    assert [array.flat[0] for array in item] == [5, 0, 1, 2, 6.0]
    assert all(address(array) % 64 == 0 for array in item)


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a,
        lambda a: a[10:],
        lambda a: a[10:30],
        lambda a: a.reshape(-1),
        lambda a: a.reshape(8, -1),
        lambda a: a.view(np.uint8),
        lambda a: a.T,
        lambda a: np.asarray(memoryview(a)),
        lambda a: np.lib.stride_tricks.as_strided(a, a.shape, a.strides),
    ],
)
def test_contiguous_views_are_given_away_where_they_are_and_with_them_what_they_are_views_of(sides, view):
    array = full((100, 200), 7)
    array[20] = 8
    seen = view(array)
    expected = seen.copy("K")
    item, slot = sides.cross([seen])
    assert_items_equal(item[0], expected)
    assert item[0].flags.c_contiguous == seen.flags.c_contiguous
    distance = address(seen) - address(array)
    assert address(item[0]) - sides.lent_slots.segment.address == slot * sides.memory.stride + distance
    for left in (array, seen):
        with pytest.raises(ValueError, match="read-only"):
            left[0, ...] = 1
    with pytest.raises(ValueError, match="was yielded before"):
        sides.send([array])
    with pytest.raises(ValueError, match="was yielded before"):
        sides.send([array[25:28, :]])  # the view is small, but still a part of the array


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[:, 3:150],
        lambda a: a[::2],
        lambda a: a[::-1],
        lambda a: np.broadcast_to(a[0], (300, 200)),
        lambda a: a.T[:50],
        lambda a: a[:0],
    ],
)
def test_other_views_are_copied_and_give_nothing_away(sides, view):
    array = full((100, 200), 7)
    array[20] = 8
    expected = view(array).copy()
    for _ in range(2):
        item = item_pickler.loads(sides.pickler.dumps([view(array)]), sides.memory.owner(0))
        assert_items_equal(item[0], expected)
        sides.allocator.discard()
    payload = sides.send([view(array), "and more"])
    array.fill(3)
    if not isinstance(payload, bytes):
        assert_items_equal(payload.load()[0], expected)


def test_an_array_whose_strides_were_set_is_read_as_it_says(sides):
    array = full((100, 200), 0)
    array[...] = np.arange(200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        array.strides = (8, 8)  # each row begins one element after the previous row
    expected = array.copy()
    item, _ = sides.cross([array])
    assert_items_equal(item[0], expected)


@pytest.mark.parametrize("warm", [False, True])
def test_a_view_that_has_the_identity_of_an_array_that_is_gone_is_not_taken_for_it(sides, warm):
    for _ in range(3 * warm):
        sides.cross({"x": full(BIG - 5, 6, np.uint8)})
        sides.give_back()
    gone, array = full(BIG - 5, 7, np.uint8), full(BIG, 8, np.uint8)
    identity = id(gone)
    del gone
    views = [array[5:]]
    while id(views[-1]) != identity:
        views.append(array[5:])
    item, _ = sides.cross({"x": views[-1]})
    assert_items_equal(item["x"], np.full(BIG - 5, 8, np.uint8))


def test_two_views_of_the_same_memory_arrive_apart_and_the_same_array_twice_arrives_as_one(sides):
    array = full(10_000, 7)
    item, _ = sides.cross([array, array, array[:], array[100:], array[:2000]])
    assert item[0] is item[1]
    for i in (0, 2, 3, 4):
        item[i].fill(i)
    assert [set(part.tolist()) for part in item[1:]] == [{0}, {2}, {3}, {4}]


@pytest.mark.parametrize("first", ["view", "whole"])
def test_a_view_and_its_array_arrive_apart_though_their_layout_is_known(sides, first):
    for n in range(4):
        array = full(3 * BIG, n, np.uint8)
        view = array[BIG : 2 * BIG]
        item, _ = sides.cross({"view": view, "whole": array} if first == "view" else {"whole": array, "view": view})
        item["view"].fill(99)
        assert (item["whole"] == n).all()
        item["whole"].fill(98)
        assert (item["view"] == 99).all()
        del item, array, view
        sides.give_back()


def test_what_is_known_of_arrays_on_a_slot_goes_with_the_slot(sides):
    for _ in range(50):
        sides.cross([full(BIG, 7, np.uint8), full(BIG, 8, np.uint8)])
        sides.give_back()
    assert not sides.allocator._current.made


def test_a_small_view_of_a_slot_lies_on_it_though_its_layout_was_seen_before(sides):
    for n in range(4):
        _, slot = sides.cross({"x": np.full(5, n), "y": np.full(3, n)})
        assert slot is None
    array = full(10_000, 7)
    sent = sides.send({"x": array[:5], "y": array[5:8]})
    with pytest.raises(ValueError, match="yielded before"):
        sides.send({"x": array[:5], "y": array[5:8]})
    assert_items_equal(sent.load(), {"x": np.full(5, 7), "y": np.full(3, 7)})


def pair(sides, x, y):
    """Send two arrays. Return the received bytes, whether they are in shared memory, and whether they are one array."""
    item, slot = sides.cross({"x": x, "y": y})
    outcome = [part.tobytes() for part in item.values()], lies_in_shared_memory(item["x"]), item["x"] is item["y"]
    del item, x, y
    assert sides.give_back() == ([] if slot is None else [slot])
    return outcome


@pytest.mark.parametrize("warm", [False, True])
def test_what_looks_like_an_item_that_is_known_is_not_taken_for_it(sides, warm):
    def two():
        return full(BIG, 7, np.uint8), full(BIG, 8, np.uint8)

    both = [bytes([7]) * BIG, bytes([8]) * BIG]
    for _ in range(3 * warm):
        assert pair(sides, *two()) == (both, True, False)
    x, y = two()
    assert pair(sides, y, x) == (both[::-1], True, False)
    del x, y
    x, _ = two()
    assert pair(sides, x, x) == ([both[0]] * 2, True, True)
    del x, _
    x, y = two()
    assert pair(sides, x, x[:]) == ([both[0]] * 2, True, False)
    del x, y
    x, y = two()
    assert pair(sides, x, y[::-1]) == (both, True, False)
    del x, y
    x, y = two()
    x[0] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy 2.4 deprecates setting strides
        x.strides = (0,)
    assert pair(sides, x, y) == ([bytes([1]) * BIG, both[1]], True, False)
    del x, y
    assert pair(sides, np.full(BIG, 7, np.uint8), full(BIG, 8, np.uint8)) == (both, True, False)
    x, y = two()
    sent = sides.send({"x": x, "y": y})
    assert not x.flags.writeable
    assert not y.flags.writeable
    with pytest.raises(ValueError, match="yielded before"):
        sides.send({"x": x, "y": y})
    assert_items_equal(sent.load(), {"x": np.full(BIG, 7, np.uint8), "y": np.full(BIG, 8, np.uint8)})


def test_arrays_made_in_one_order_each_time_have_one_frame(sides):
    for _ in range(3):
        payload = sides.send({"x": full(BIG, 7, np.uint8), "y": full(BIG, 8, np.uint8)})
    layout, _, _ = sides.pickler.layouts.find({"x": np.zeros(BIG, np.uint8), "y": np.zeros(BIG, np.uint8)})
    assert list(layout._templates) == [(0, BIG)]
    assert payload.load()["y"][-1] == 8


def test_offsets_that_go_on_changing_take_no_memory(sides):
    for n in range(200):
        kept = empty(BIG + 64 * n, np.uint8)
        sides.cross({"x": full(BIG, 7, np.uint8)})
        del kept
        sides.give_back()
    layout, _, _ = sides.pickler.layouts.find({"x": np.zeros(BIG, np.uint8)})
    assert 1 < len(layout._templates) <= item_layout._MAX_TEMPLATES


def test_an_error_on_the_way_gives_nothing_away(sides):
    array = full(BIG, 7, np.uint8)
    with pytest.raises(TypeError, match="pickle"):
        sides.send([array, (n for n in ())])
    sides.allocator.discard()
    sides.cross(np.zeros(BIG))
    array.fill(8)
    item, _ = sides.cross([array])
    assert (item[0] == 8).all()


class MakesArrays:
    """Makes and drops an array while it is pickled."""

    def __reduce__(self):
        return len, (full(BIG, 9, np.uint8).tobytes(),)


def test_what_is_made_while_an_item_is_pickled_does_not_lie_on_the_item(sides):
    item, _ = sides.cross([np.full(BIG, 7, np.uint8), MakesArrays()])
    assert (item[0] == 7).all()
    assert item[1] == BIG


def test_arrays_made_ahead_are_copied_when_their_turn_comes_and_their_slot_waits_for_them(sides):
    first, second, third = (full(BIG, n, np.uint8) for n in range(3))
    item, slot = sides.cross(first)
    second += 10  # the array was not sent yet, so its maker may write
    assert (item == 0).all()
    del item, first
    assert sides.give_back() == [slot]
    item, other = sides.cross(second)
    assert other != slot
    assert (item == 11).all()
    del item, second
    sides.give_back()
    assert sides.cross(np.zeros(BIG))[1] == other  # the first slot is not free, because the third array is on it
    sides.give_back()
    del third
    sides.allocator.trim(keep=2)
    taken = [sides.cross(np.zeros(BIG))[1] for _ in range(2)]
    assert sorted(taken) == sorted([slot, other])


def test_the_slot_that_came_back_last_is_used_first(sides):
    batches = [sides.cross(np.zeros(BIG)) for _ in range(3)]
    assert [slot for _, slot in batches] == [0, 1, 2]
    assert sides.growths == 3
    for n in (2, 0, 1):
        batches[n] = None
        assert sides.give_back() == [n]
    assert [sides.cross(np.zeros(BIG))[1] for _ in range(3)] == [1, 0, 2]
    assert sides.growths == 3  # the allocator asks the transport for slots only before it takes new memory


def test_slots_that_come_back_just_before_new_memory_would_be_taken_are_used():
    with Sides() as sides:
        sides.allocator._before_growth = sides.give_back
        assert [sides.cross(np.zeros(BIG))[1] for _ in range(5)] == [0] * 5


def test_with_no_slot_left_items_ride_in_frames():
    with Sides(slots=2) as sides:
        held = [sides.cross(full(BIG, n))[0] for n in range(2)]
        array = full(BIG, 2)
        assert array.base is None
        assert isinstance(sides.send([array]), bytes)
        assert isinstance(sides.send([np.zeros(BIG)]), bytes)
        assert sides.allocator.place_bytes(b"frame") is None
        assert [set(array.tolist()) for array in held] == [{0}, {1}]
        del held[0]
        sides.give_back()
        assert lies_in_shared_memory(full(BIG, 2))


def test_a_frame_may_lie_on_the_slot_beside_the_arrays(sides):
    frame = sides.pickler.dumps([np.full(BIG, 7, np.uint8), "text"])
    offset = sides.allocator.place_bytes(frame)
    slot, extent = sides.allocator.seal()
    assert offset + len(frame) == extent
    memory = sides.memory.owner(slot)
    array, text = item_pickler.loads(memoryview(memory).cast("B")[offset:extent], memory)
    assert (array == 7).all()
    assert text == "text"


def test_an_item_that_needs_no_slot_takes_none(sides):
    scratch = full(BIG, 1)
    assert sides.pickler.dumps({"small": np.zeros(3)})
    assert sides.allocator.seal() is None
    scratch.fill(2)  # the array was not sent, so it stays writable
    assert (sides.cross([scratch])[0][0] == 2).all()


# ------------------------------------------------------------------------------------------------------------- bounds


def test_what_was_made_and_dropped_leaves_its_room_to_the_next(sides):
    for _ in range(5):
        assert offset(sides, empty(MB)) == (0, 0)
    empty(MB).fill(1)
    item, _ = sides.cross(np.full(BIG, 7, np.uint8))
    assert offset(sides, empty(MB)) == (1, 0)
    assert address(item) == sides.lent_slots.segment.address


def test_what_is_made_and_dropped_without_a_pause_is_bounded(sides):
    """Two arrays are alive at any time, so the slot is never unused. An array that does not fit is a plain array."""
    for _ in range(4):
        first = array = empty(MB, np.uint8)
        while array.base is not None:
            assert offset(sides, array)[1] < 64 * MB
            array = empty(MB, np.uint8)
        sides.cross(array)  # it is after all arrays that were made on the slot
        del first
        sides.give_back()


def test_an_iterator_with_large_items_gets_as_much_as_it_needs(sides):
    size = 40 * MB
    assert [empty(size, np.uint8).base is None for _ in range(2)] == [False, False]
    held = [empty(size, np.uint8) for _ in range(2)]
    assert [array.base is None for array in held] == [False, True]
    del held
    sides.cross(np.zeros(size, np.uint8))
    sides.give_back()
    held = [empty(size, np.uint8) for _ in range(5)]
    assert [array.base is None for array in held] == [False] * 4 + [True]


def test_memory_of_free_slots_is_returned_except_for_some(sides):
    batches = [sides.cross(np.full(MB, n, np.uint8)) for n in range(6)]
    assert sides.memory.mapped == 6 * MB
    del batches[3:]
    assert sides.give_back() == [3, 4, 5]
    sides.allocator.trim(keep=5)
    assert sides.memory.mapped == 6 * MB
    sides.allocator.trim(keep=1)
    assert sides.memory.mapped == 4 * MB
    assert sides.cross(np.zeros(BIG))[1] == 5  # the slot that was used last
    assert [(array == n).all() for n, (array, _) in enumerate(batches)] == [True] * 3
    sides.allocator.trim(keep=0)
    assert sides.memory.mapped == 4 * MB  # three are held, and one was not returned
    assert sorted(sides.cross(np.zeros(BIG))[1] for _ in range(4)) == [3, 4, 6, 7]  # the other slots can be used again


def test_a_slot_on_which_the_iterator_still_has_an_array_is_not_used_before_that_goes(sides):
    kept = full(MB, 7, np.uint8)
    sides.cross(kept)
    assert sides.give_back() == [0]
    sides.allocator.trim(keep=0)
    assert (kept == 7).all()
    assert sides.cross(np.zeros(BIG))[1] == 1
    sides.give_back()
    del kept
    sides.allocator.trim(keep=0)
    assert sides.memory.mapped == 0


# ---------------------------------------------------------------------------------------------------------- protection


@pytest.fixture
def protected():
    with Sides(protect=True) as sides:
        yield sides


def test_what_was_yielded_is_protected_to_the_last_byte_until_it_comes_back(protected):
    # Each array takes less than two pages, which is too small for a slot without protection.
    made = [full(5000, n, np.uint8) for n in range(2)]
    views = [made[0][:], made[1]]
    assert lies_in_shared_memory(made[0])
    item, slot = protected.cross(made[:1])
    for at in (0, 4096, 4999):
        assert end_of_child(lambda at=at: views[0][at]) == -signal.SIGSEGV
        assert end_of_child(lambda at=at: views[0].__setitem__(at, 1)) == -signal.SIGSEGV
    assert (views[1] == 1).all()
    views[1].fill(9)
    assert (item[0] == 0).all()
    del item
    made.clear()
    views.clear()
    assert protected.give_back() == [slot]
    array = full(5000, 6, np.uint8)
    assert offset(protected, array) == (slot, 0)
    assert (array == 6).all()


def test_of_an_array_of_which_a_part_was_yielded_the_rest_can_be_used(protected):
    page = mmap.PAGESIZE
    array = full(6 * page, 7, np.uint8)
    protected.cross([array[page + 5 : 3 * page + 5]])
    before, after = array[: page + 5], array[3 * page + 5 :]
    assert (before == 7).all()
    assert (after == 7).all()
    assert end_of_child(lambda: array[2 * page]) == -signal.SIGSEGV
    item, _ = protected.cross([before, after])
    assert (item[1] == 7).all()


# ------------------------------------------------------------------------------------------------------- any item at all

DTYPES = ["u1", "?", ">i2", "f8", "c16", "S7", "U3", "M8[s]", "V3", [("a", "i1"), ("b", ">f4"), ("c", "S2")]]
VIEWS = {
    "whole": lambda a: a,
    "slice": lambda a: a[1:-1],
    "strided": lambda a: a[::2],
    "reversed": lambda a: a[::-1],
    "transposed": lambda a: a.T,
    "flat": lambda a: a.reshape(-1),
}


@st.composite
def arrays_around_the_limit(draw):
    """Generate functions that make an array of about the smallest size that gets a slot."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    size = draw(st.sampled_from([MIN_PLACED - 1, MIN_PLACED, MIN_PLACED + 1, MIN_PLACED + 20, 3 * MIN_PLACED, 100]))
    count = max(size // dtype.itemsize, 1)
    shape = (count,) if draw(st.booleans()) else (count // 2, 2)
    order, view, byte = draw(st.sampled_from("CF")), draw(st.sampled_from(list(VIEWS))), draw(st.integers(0, 127))
    in_place, read_only = draw(st.sampled_from([True, True, False])), draw(st.booleans())

    def make(item, *, plain):
        make_empty = empty if in_place and not plain else np.empty
        array = make_empty(shape, dtype, order)
        raw = array.reshape(-1, order="A").view(np.uint8)
        raw[:] = (np.arange(raw.size) + byte) % (2 if dtype.char == "?" else 128)
        if dtype.kind == "U":
            array[...] = "aé\0"
        array = VIEWS[view](array)
        if read_only:
            array.flags.writeable = False
        return array

    return make


@st.composite
def views_of_an_earlier_part(draw):
    number, view = draw(st.sampled_from([0, 0, 1])), draw(st.sampled_from(list(VIEWS)))

    def make(item, *, plain):
        of = item[number] if number < len(item) else None
        return VIEWS[view](of[...]) if isinstance(of, np.ndarray) and of.ndim else None

    return make


@st.composite
def rounds(draw):
    """Generate items, each as functions that make its parts, with the actions before and after sending it.

    Some items repeat, because the pickler caches the layouts of earlier items.
    """
    parts = st.one_of(
        arrays_around_the_limit(),
        arrays_around_the_limit(),
        views_of_an_earlier_part(),
        items().map(lambda other: lambda item, plain: other),
    )
    return draw(st.sampled_from([1, 1, 3])) * draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "named": st.booleans(),
                    "parts": st.lists(parts, max_size=4),
                    "the next one is made before": st.booleans(),
                    "kept by the iterator": st.booleans(),
                    "overwritten": st.booleans(),
                    "dropped": st.lists(st.integers(0, 5), max_size=3),
                    "given back": st.booleans(),
                }
            ),
            max_size=10,
        )
    )


def build(parts, *, plain):
    item = []
    for part in parts:
        item.append(part(item, plain=plain))
    return item


def compare(held):
    for expected, got in held:
        assert_same(expected, got)


def overwrite(got):
    for array in got:
        if isinstance(array, np.ndarray) and array.size and not array.dtype.hasobject:
            array.reshape(-1, order="A").view(f"V{array.itemsize}").view(np.uint8).fill(0xFF)


@settings(max_examples=60)
@given(rounds())
def test_any_items_cross_unchanged_however_slots_come_back(rounds):
    held, kept, following = [], [], None
    with Sides(slots=4, max_held=3) as sides:
        for n, turn in enumerate(rounds):
            item = following if following is not None else build(turn["parts"], plain=False)
            ahead = turn["the next one is made before"] and n + 1 < len(rounds)
            following = build(rounds[n + 1]["parts"], plain=False) if ahead else None
            named = dict(zip("abcd", item, strict=False))
            payload = sides.send(named if turn["named"] else item)
            got = item_pickler.loads(payload) if isinstance(payload, bytes) else payload.load()
            if turn["named"]:
                assert list(got) == list(named)
                got = list(got.values())
            held.append((build(turn["parts"], plain=True), got))
            if turn["kept by the iterator"]:
                kept = item
            del payload, item, got, named
            compare(held)
            if turn["overwritten"]:
                expected, got = held[-1]
                overwrite(got[:1])
                del expected[:1], got[:1]
                compare(held)
            for number in turn["dropped"]:
                if number < len(held):
                    overwrite(held.pop(number)[1])
            if turn["given back"]:
                sides.give_back()
                sides.allocator.trim(keep=1)
        compare(held)
        held.clear()
        kept.clear()
