"""Slots of an anonymous file: in use while references exist, returned in parts, and removed without a trace."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import descriptors
from tests.inside import PROT_NONE, PROT_READ_WRITE, Geometry, Segment, shared_memory
from tests.limits import memory_left
from tests.processes import end_of_child
from tests.transports.sides import mappings

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create")

MB = 1 << 20


@pytest.fixture
def segment():
    segment = Segment.create(4)
    yield segment
    segment.retire()


def array_on(segment, slot, size=MB):
    return np.ndarray(size, np.uint8, segment.owner(slot))


KEEP = {
    "the array": lambda array: array,
    "a slice": lambda array: array[5:7],
    "a slice of a slice": lambda array: array[5:700][1:3],
    "a transpose": lambda array: array.reshape(1024, 1024).T,
    "a view of another type": lambda array: array.view(np.int64),
    "a scalar array": lambda array: array[3:4].reshape(()),
    "a memoryview": memoryview,
    "an array of a memoryview": lambda array: np.asarray(memoryview(array)[1:]),
    "a strided view": lambda array: np.lib.stride_tricks.as_strided(array, (3,), (0,)),
    "an iterator": lambda array: array.flat,
    "a subclass": lambda array: array.view(np.matrix),
    "a masked array": np.ma.masked_array,
}


@pytest.mark.filterwarnings("ignore:.*matrix:PendingDeprecationWarning")
@pytest.mark.parametrize("what", KEEP)
def test_a_slot_is_in_use_as_long_as_anything_lies_on_it(segment, what):
    assert not segment.in_use(1)
    array = array_on(segment, 1)
    kept = KEEP[what](array)
    del array
    assert segment.in_use(1)
    assert [segment.in_use(slot) for slot in (0, 2, 3)] == [False] * 3
    del kept
    assert not segment.in_use(1)
    assert not segment.in_use(1)


def test_memory_is_taken_when_it_is_touched_and_given_back_slot_by_slot(segment):
    assert segment.mapped == 0
    arrays = [array_on(segment, slot) for slot in range(4)]
    assert segment.mapped == 0
    for n, array in enumerate(arrays, 1):
        array.fill(n)
        assert segment.mapped == n * MB
    segment.give_back(2)
    assert segment.mapped == 3 * MB
    assert [array[-1] for array in arrays] == [1, 2, 0, 4]


def test_two_mappings_of_one_file_are_the_same_memory_and_count_their_uses_apart(segment):
    other = Segment(os.dup(segment.descriptor), segment.geometry)
    mine, theirs = array_on(segment, 3), array_on(other, 3)
    mine.fill(7)
    assert theirs[-1] == 7
    del theirs
    assert segment.in_use(3)
    assert not other.in_use(3)
    other.retire()


def test_a_retired_segment_gives_back_all_but_what_is_in_use(segment):
    watch = os.dup(segment.descriptor)
    arrays = [array_on(segment, slot) for slot in range(4)]
    for n, array in enumerate(arrays):
        array.fill(n)
    kept = arrays[1][10:]
    del arrays, array
    segment.retire()
    assert os.fstat(watch).st_blocks * 512 == MB
    os.close(watch)
    assert (kept == 1).all()
    kept[:] = 9
    assert (kept == 9).all()
    assert segment.mapped == 0
    segment.retire()  # a second call does nothing


def test_a_segment_that_is_being_retired_is_not_retired_by_another_thread(segment, monkeypatch):
    """A second thread would unmap the memory that the first thread frees."""
    real_remove = shared_memory._remove

    def remove(*args):
        removed.append(args)
        if len(removed) == 1:
            descriptor = segment.descriptor
            other = threading.Thread(target=segment.retire)
            other.start()
            other.join()
            assert "memfd:asyncprefetch" in os.readlink(f"/proc/self/fd/{descriptor}")
            assert segment.descriptor == descriptor
        real_remove(*args)

    removed = []
    monkeypatch.setattr(shared_memory, "_remove", remove)
    segment.retire()
    assert len(removed) == 1


@pytest.mark.parametrize("retired", [True, False])
def test_nothing_is_left_when_all_is_dropped(retired):
    gc.collect()  # free what earlier tests have left
    before, mapped = descriptors(), mappings()
    segment = Segment.create(3)
    kept = array_on(segment, 2)[5:]
    kept.fill(3)
    if retired:
        segment.retire()
    del segment
    gc.collect()
    assert mappings() == mapped + 1
    assert (kept == 3).all()
    del kept
    assert mappings() == mapped
    assert descriptors() == before


def test_pages_can_be_protected_and_released(segment):
    array = array_on(segment, 1, 4 * mmap.PAGESIZE)
    array.fill(1)
    begin, end = mmap.PAGESIZE, 3 * mmap.PAGESIZE
    segment.protect(1, begin, end, PROT_NONE)
    assert [end_of_child(lambda at=at: array[at]) for at in (begin - 1, begin, end - 1, end)] == [
        0,
        -signal.SIGSEGV,
        -signal.SIGSEGV,
        0,
    ]
    segment.protect(1, 0, segment.stride, PROT_READ_WRITE)
    array += 1
    assert (array == 2).all()
    with pytest.raises(OSError, match="mprotect"):
        segment.protect(1, 1, end, PROT_NONE)


# ------------------------------------------------------------------------------------------- where there is not enough


def test_without_memfd_there_is_no_segment(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    assert Segment.create(3) is None


@pytest.mark.parametrize(("slots", "stride"), [(1, 8 << 30), (33, 8 << 30), (300, (2 << 40) // 300 // 4096 * 4096)])
def test_slots_are_as_large_as_they_may_be(slots, stride):
    segment = Segment.create(slots)
    assert segment.geometry == Geometry(slots, stride)
    segment.retire()


@pytest.mark.parametrize("refused", ["mmap", "ftruncate"])
@pytest.mark.parametrize("limit", [1 << 34, 1 << 30])
def test_where_there_is_less_room_slots_are_smaller_and_begin_at_pages(monkeypatch, refused, limit):
    real_map, real_truncate = mmap.mmap, os.ftruncate

    def map_less(descriptor, size, **how):
        if size > limit:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return real_map(descriptor, size, **how)

    def truncate_less(descriptor, size):
        if size > limit:
            raise OSError(errno.EFBIG, "File too large")
        real_truncate(descriptor, size)

    before = descriptors()
    monkeypatch.setattr(shared_memory.mmap, "mmap", map_less if refused == "mmap" else real_map)
    monkeypatch.setattr(shared_memory.os, "ftruncate", truncate_less if refused == "ftruncate" else real_truncate)
    segment = Segment.create(299)
    assert 1 * MB <= segment.stride <= limit // 299
    assert segment.stride % mmap.PAGESIZE == 0
    array_on(segment, 298).fill(1)
    segment.protect(298, 0, segment.stride, PROT_READ_WRITE)
    segment.retire()
    del segment
    assert descriptors() == before


def test_where_there_is_far_too_little_address_space_there_is_no_segment():
    before = descriptors()
    with memory_left(64):
        assert Segment.create(100) is None
        small = Segment.create(2)
    assert MB <= small.stride <= 32 * MB
    small.retire()
    del small
    assert descriptors() == before


def test_with_far_too_many_slots_there_is_no_segment():
    assert Segment.create(3_000_000) is None


def test_where_address_space_is_limited_most_of_it_is_left_to_others():
    with memory_left(8192):
        segment = Segment.create(32)
        many = Segment.create(1000)
    assert MB <= segment.stride <= 16 * MB
    assert many.stride == MB  # a larger stride would not fit the limit
    segment.retire()
    many.retire()


def test_where_the_address_space_left_is_unknown_it_is_tried(monkeypatch):
    def refuse(path):
        raise FileNotFoundError(path)

    with memory_left(8192), monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", refuse)
        segment = Segment.create(32)
    assert segment.stride >= MB
    segment.retire()
