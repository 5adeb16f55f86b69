"""``empty``, ``full`` and ``zeros`` give the same arrays as numpy, on a slot if possible; and iterators that use them."""

from __future__ import annotations

import os
import threading
import warnings

import numpy as np
import pytest

from asyncprefetch import AsyncPrefetcher, ProcessWorkers, ProducerError, WorkerDiedError, arrays, empty, full, zeros
from asyncprefetch.iterators import PackingIterator
from asyncprefetch.testing import assert_items_equal
from tests.consumer import take
from tests.iterators.sources import ListIterator
from tests.pipelines.arrays import NEEDS_PROTECTION, REFUSED_WAYS, RIGHT_WAYS, Arrays
from tests.transports.sides import Sides, lies_in_shared_memory

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create")

PROTECTED = {"workers": ProcessWorkers(protect=True)}

# Arguments of numpy.empty that give an array large enough for a slot.
LARGE = [
    ((2000,), {}),
    ((2000,), {"dtype": None}),
    (([20, 100], np.int64), {}),
    (((30, 100), "f4", "F"), {}),
    (((30, 100), "f4", "C"), {}),
    ((np.int32(9000), "u1"), {}),
    (((0x2000,), "?"), {}),
    (((3000,), ">i4"), {}),
    (((3000,), "U3"), {}),
    (((3000,), "S3"), {}),
    (((3000,), "V3"), {}),
    (((3000,), "M8[s]"), {}),
    (((3000,), "c16"), {}),
    (((3000,), "(2,)i2"), {}),
    (((3000,), np.dtype([("a", "i1"), ("b", "S3"), ("c", "f8")], align=True)), {}),
]

# Arguments that give an array outside of slots: it is too small, has objects, or its shape is no tuple of ints.
PLAIN = [
    ((), {"shape": 1000}),
    (((),), {}),
    (((0, 9000),), {}),
    (((9000, 0), "f8", "F"), {}),
    ((9000, object), {}),
    ((9000, np.dtype([("a", "O"), ("b", "f8")])), {}),
    ((9000, "S"), {}),
    ((np.array([20, 3000]),), {}),
]

WRONG = [
    ((-1,), {}),
    (((-90, -90),), {}),
    ((2.5,), {}),
    (((2.5, 9000),), {}),
    (("34",), {}),
    ((9000, "nonsense"), {}),
    ((9000, "f8", "A"), {}),
    ((9000, "f8", ["C"]), {}),
    (((1 << 62, 8),), {}),
    (([[1], [2]],), {}),
    ((), {}),
]


def layout(array):
    return type(array), array.dtype, array.shape, array.strides, array.flags.writeable, array.flags.aligned


def with_value(arguments, value):
    """Return the arguments of ``full`` that correspond to these arguments of ``empty``."""
    args, keywords = arguments
    return ((*args[:1], value, *args[1:]), keywords) if args else (args, {**keywords, "fill_value": value})


def error_of(call, args, keywords):
    """Return the type of the error that the call raises."""
    try:
        call(*args, **keywords)
    except Exception as error:
        return type(error)
    raise AssertionError("it raised nothing")


def overwrite(item):
    """Overwrite every byte of all arrays in an item."""
    match item:
        case np.ndarray() if item.flags.forc:
            item.reshape(-1, order="A").view(np.uint8).fill(0xA5)
        case np.ndarray():
            item.fill(-1)
        case dict():
            overwrite(list(item.values()))
        case list() | tuple():
            for value in item:
                overwrite(value)


# ------------------------------------------------------------------------------------------------------- as numpy has it


@pytest.mark.parametrize("arguments", LARGE + PLAIN)
def test_outside_of_a_worker_they_are_what_numpy_gives(arguments):
    args, keywords = arguments
    assert layout(empty(*args, **keywords)) == layout(np.empty(*args, **keywords))
    assert empty(*args, **keywords).base is None
    assert_items_equal(zeros(*args, **keywords), np.zeros(*args, **keywords))
    args, keywords = with_value(arguments, 1)
    assert_items_equal(full(*args, **keywords), np.full(*args, **keywords))


@pytest.mark.parametrize("arguments", LARGE)
def test_on_a_slot_they_are_what_numpy_gives(arguments):
    args, keywords = arguments
    like_empty, like_zeros = np.empty(*args, **keywords), np.zeros(*args, **keywords)
    args_full, keywords_full = with_value(arguments, 1)
    like_full = np.full(*args_full, **keywords_full)
    with Sides() as sides:
        for _ in range(2):  # first on new memory, then on used memory
            made = [empty(*args, **keywords), zeros(*args, **keywords), full(*args_full, **keywords_full)]
            assert all(lies_in_shared_memory(array) for array in made)
            assert [layout(array) for array in made] == [layout(a) for a in (like_empty, like_zeros, like_full)]
            assert_items_equal(made[1:], [like_zeros, like_full])
            assert made[1].tobytes() == like_zeros.tobytes()  # also the bytes between the fields of a structure
            overwrite(made[0])
            item, slot = sides.cross(made)
            assert slot == 0
            assert_items_equal(item[1:], [like_zeros, like_full])
            overwrite(item)
            del made, item
            assert sides.give_back() == [0]


@pytest.mark.parametrize("arguments", PLAIN)
def test_in_a_worker_too_some_are_plain(arguments):
    args, keywords = arguments
    with Sides():
        for ours, numpys in [(empty, np.empty), (zeros, np.zeros)]:
            array = ours(*args, **keywords)
            assert array.base is None
            assert layout(array) == layout(numpys(*args, **keywords))


@pytest.mark.parametrize("arguments", WRONG)
@pytest.mark.parametrize("worker", [False, True])
def test_what_numpy_refuses_is_refused_in_the_same_way(arguments, worker):
    args, keywords = arguments
    with Sides() as sides:
        if not worker:
            arrays.use(None)
        for ours, numpys in [(empty, np.empty), (zeros, np.zeros)]:
            with pytest.raises(error_of(numpys, args, keywords)):
                ours(*args, **keywords)
        assert not sides.memory.in_use(0)


def test_the_type_of_a_value_is_the_type_of_the_array():
    with Sides():
        for value in (1, 1.5, True, "abc", np.float32(1), np.datetime64(5, "s")):
            assert_items_equal(full(9000, value), np.full(9000, value))
        assert_items_equal(full((3, 4000), np.arange(4000)), np.full((3, 4000), np.arange(4000)))
        assert_items_equal(full(9000, 1.9, np.int8), np.full(9000, 1.9, np.int8))


def test_another_thread_gets_plain_arrays():
    """An allocator belongs to one thread. A second thread would get the same bytes."""
    made = []
    with Sides():
        thread = threading.Thread(target=lambda: made.append(full(9000, 1)))
        thread.start()
        thread.join()
        assert not lies_in_shared_memory(made[0])
        assert lies_in_shared_memory(full(9000, 1))


def test_a_forked_child_gets_plain_arrays():
    """Otherwise the child would write to the memory of the parent's next batch."""
    with Sides():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            os._exit(2 if full(9000, 1).base is not None else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert full(9000, 1).base is not None


# -------------------------------------------------------------------------------------------- what iterators do with them


def test_the_librarys_own_packing_makes_its_batches_in_place():
    packing = PackingIterator(ListIterator([np.arange(3000)]), batch_size=2, sequence_length=1000)
    with Sides():
        batches = list(packing.create_iter())
        assert [lies_in_shared_memory(array) for batch in batches for array in (batch.x, batch.y)] == [True] * 4


ENDS_IN_AN_ERROR = {
    "one buffer of empty": r"position 1 \(next\): ValueError: assignment destination is read-only",
    "write late": r"position 1 \(next\): ValueError: assignment destination is read-only",
    "again": r"position 1 \(pickle\): ValueError: .* was yielded before, .*: make a new one for each item, or yield plain",
}


@pytest.mark.parametrize("options", [{}, PROTECTED], ids=["", "protected"])
@pytest.mark.parametrize("way", RIGHT_WAYS)
async def test_the_stream_is_right_though_the_consumer_changes_each_batch(way, options):
    pipeline = Arrays(30, way)  # more items than slots, for an iterator that keeps all arrays
    model = pipeline.model()
    async with AsyncPrefetcher(pipeline, n_batches_to_prefetch=3, max_restarts=0, **options) as loader:
        async for item in loader:
            assert_items_equal(model.pop(0), item)
            overwrite(item)
        assert model == []


@pytest.mark.parametrize("way", REFUSED_WAYS)
@pytest.mark.both_loops
async def test_what_was_given_away_can_not_be_used_again(way):
    async with AsyncPrefetcher(Arrays(5, way), n_batches_to_prefetch=3) as loader:
        (item,) = await take(loader, 1)
        assert_items_equal(item, np.full(4096, 0))
        for _ in range(2):
            with pytest.raises(ProducerError, match=ENDS_IN_AN_ERROR[way]):
                await anext(loader)
        assert_items_equal(item, np.full(4096, 0))


@pytest.mark.parametrize("way", NEEDS_PROTECTION)
@pytest.mark.both_loops
async def test_a_protected_worker_ends_at_a_late_use_that_is_not_seen_otherwise(way):
    async with AsyncPrefetcher(Arrays(5, way), n_batches_to_prefetch=3, max_restarts=0, **PROTECTED) as loader:
        (item,) = await take(loader, 1)
        with pytest.raises(WorkerDiedError, match=r"SIGSEGV \(protect=True: .*to its standard error\)"):
            await anext(loader)
        assert_items_equal(item, np.full(4096, 0))


@pytest.mark.both_loops
async def test_what_is_made_and_not_yielded_does_not_add_up():
    pipeline = Arrays(60, "drop many")
    async with AsyncPrefetcher(pipeline, n_batches_to_prefetch=2) as loader:
        async for _ in loader:
            # Two are ahead, the consumer has two, the iterator makes one and still has another one.
            assert loader.statistics().mapped <= 6 * (pipeline.size * 8 + 4096)
