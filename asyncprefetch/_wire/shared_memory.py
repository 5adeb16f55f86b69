"""Shared memory of one worker: an anonymous file, mapped once on each side and used again and again.

It is cut into slots, one a batch. Its pages cost memory only when they are touched, so a slot may be far larger than any
batch, and nobody has to say how large batches are. The file has no name: it goes with the last process that has it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import sys
import threading
import weakref
from dataclasses import dataclass
from typing import Any, Final

from asyncprefetch._process import limits

# Of the address space, which is what the slots of one worker may take. An x86 process has 128 TiB, an ARM one 256.
_MAX_MAPPED: Final = 2 << 40
_MAX_STRIDE: Final = 8 << 30
# Where it is limited, a segment takes no more than this part of what is left, unless its slots would be too small: other
# workers, batches and threads need some.
_SHARE: Final = 16
_MIN_STRIDE: Final = 1 << 20

_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2
PROT_NONE, PROT_READ_WRITE = 0, 3


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a segment is cut: ``slots`` of ``stride`` bytes each."""

    slots: int
    stride: int


class Segment:
    """The mapping of one side. Slots are numbered from 0.

    The memory stays mapped as long as anything refers to it, closed or not.
    """

    def __init__(self, descriptor: int, geometry: Geometry) -> None:
        """Map the file, and own its descriptor from now on.

        Raises:
            OSError: it can't be mapped: too little address space (RLIMIT_AS).
        """
        self.stride = geometry.stride
        self.slots = geometry.slots
        self._descriptor = descriptor
        # Also of a segment that nobody retires, or that can't be mapped.
        self._to_retire = threading.Lock()
        self._close = weakref.finalize(self, os.close, descriptor)
        self._close.atexit = False
        size = geometry.slots * geometry.stride
        if sys.version_info >= (3, 13):
            self._map = mmap.mmap(descriptor, size, trackfd=False)  # else it keeps a copy of the descriptor
        else:
            self._map = mmap.mmap(descriptor, size)
        # A core dump would write every page of it, those that were never touched as well.
        with contextlib.suppress(OSError):
            self._map.madvise(mmap.MADV_DONTDUMP)
        self._type: Any = ctypes.c_char * geometry.stride
        # One owner a slot, for good: whatever lies on the slot refers to it, so that its count of references tells
        # whether the slot is in use. A weak reference to an array would not do: slices outlive the array.
        self._owners: dict[int, Any] = {}
        first = self._type.from_buffer(self._map)
        self.start = ctypes.addressof(first)
        del first

    @classmethod
    def create(cls, slots: int) -> Segment | None:
        """A new one with so many slots, as large as they may be; ``None`` where the system gives none."""
        if not hasattr(os, "memfd_create"):
            return None
        left = limits.address_space_left()
        most = _MAX_MAPPED if left is None else max(left // _SHARE, slots * _MIN_STRIDE)
        stride = min(_MAX_STRIDE, min(most, _MAX_MAPPED) // slots)
        while stride >= _MIN_STRIDE:
            stride -= stride % mmap.PAGESIZE
            try:
                descriptor = os.memfd_create("asyncprefetch", os.MFD_CLOEXEC)
            except OSError:
                return None
            try:
                os.ftruncate(descriptor, slots * stride)
            except OSError:  # RLIMIT_FSIZE
                os.close(descriptor)
            else:
                try:
                    return cls(descriptor, Geometry(slots, stride))
                except (OSError, ValueError):
                    pass  # a machine with few address bits, or a limit that was reached meanwhile
            stride //= 16
        return None

    @property
    def geometry(self) -> Geometry:
        """How it is cut."""
        return Geometry(self.slots, self.stride)

    @property
    def descriptor(self) -> int:
        """The file's, to be sent to the other side."""
        return self._descriptor

    @property
    def mapped(self) -> int:
        """Bytes of memory that it takes at present."""
        try:
            return os.fstat(self._descriptor).st_blocks * 512
        except OSError:  # it was retired, maybe just now, in another thread
            return 0

    def owner(self, slot: int) -> Any:
        """The slot's memory: a buffer of ``stride`` bytes. Arrays on it, and all views of them, keep it in use."""
        owner = self._owners.get(slot)
        if owner is None:
            owner = self._owners[slot] = self._type.from_buffer(self._map, slot * self.stride)
        return owner

    def in_use(self, slot: int) -> bool:
        """Whether anything on this side refers to the slot's memory."""
        owner = self._owners.get(slot)
        return owner is not None and sys.getrefcount(owner) > _UNUSED

    def give_back(self, slot: int) -> None:
        """Free the slot's pages: its content is lost, and its next use takes new ones."""
        self._free(slot, slot + 1)

    def protect(self, slot: int, begin: int, end: int, access: int) -> None:
        """Let this side do to the slot's pages what ``access`` says; anything else ends the process by SIGSEGV."""
        start = self.start + slot * self.stride + begin
        if _libc().mprotect(ctypes.c_void_p(start), ctypes.c_size_t(end - begin), access):
            raise OSError(ctypes.get_errno(), "mprotect failed")

    def retire(self) -> None:
        """Give back all that nothing lies on, and close the descriptor. The rest goes when nothing lies on any of it.

        It takes as long as freeing the memory does. Nobody may use the segment any more, but what lies on it is safe.
        """
        if not self._to_retire.acquire(blocking=False):
            return  # it is, or another thread is at it: then the descriptor may be another file's any moment
        begin = 0
        for slot in [*(slot for slot in sorted(self._owners) if self.in_use(slot)), self.slots]:
            if slot > begin:
                self._free(begin, slot)
            begin = slot + 1
        self._descriptor = -1
        self._close()
        self._owners.clear()
        del self._map

    def _free(self, begin: int, end: int) -> None:
        mode = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
        # Where a sandbox refuses it the memory stays, which is no reason to end anything.
        with contextlib.suppress(OSError):
            _fallocate(self._descriptor, mode, begin * self.stride, (end - begin) * self.stride)


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    # os.posix_fallocate can't punch holes.
    call = _libc().fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if call(descriptor, mode, offset, length):
        raise OSError(ctypes.get_errno(), "fallocate failed")


def _count_unused() -> int:
    """How many references an owner has that nobody uses, as ``in_use`` counts them."""
    owners = {0: (ctypes.c_char * 1)()}
    owner = owners.get(0)
    return sys.getrefcount(owner)


_UNUSED: Final = _count_unused()
