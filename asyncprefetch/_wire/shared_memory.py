"""Shared memory of one worker: an anonymous file, mapped once on each side and used again and again.

The file is cut into slots; a batch takes one slot. Pages cost memory only when they are touched. A slot may therefore be far
larger than any batch, and the size of batches need not be known. The file has no name: the system removes it with the last
process that has it.
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
from pathlib import Path
from typing import Any, Final, NamedTuple

if sys.platform != "win32":
    import resource

# Address space that the slots of one worker may take. A process has 128 TiB on x86, and 256 TiB on ARM.
_MAX_MAPPED: Final = 2 << 40
_MAX_STRIDE: Final = 8 << 30
# Where address space is limited, a segment takes at most this part of what is left, or the smallest slots if that is more:
# other workers, batches and threads need some too.
_SHARE: Final = 16
_MIN_STRIDE: Final = 1 << 20

PROT_NONE, PROT_READ_WRITE = 0, 3


class Geometry(NamedTuple):
    """How a segment is cut: ``slots`` of ``stride`` bytes each."""

    slots: int
    stride: int


class Segment:
    """One side's mapping of the file. Slots are numbered from 0.

    The memory stays mapped as long as anything refers to it, also after :meth:`retire`.

    Args:
        descriptor: the file's, owned by the segment from now on.
        geometry: how the file is cut.

    Attributes:
        slots: how many there are.
        stride: bytes of a slot.
        address: the first slot's address.

    Raises:
        OSError: the file can't be mapped: there is too little address space (RLIMIT_AS).
    """

    def __init__(self, descriptor: int, geometry: Geometry) -> None:
        self.stride = geometry.stride
        self.slots = geometry.slots
        self._descriptor = descriptor
        self._to_retire = threading.Lock()
        # Also if the segment is never retired, or can't be mapped.
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
        # One owner for each slot, for good. Everything that lies on the slot refers to it, so its reference count says
        # whether the slot is in use. A weak reference to an array can't say that: slices outlive the array.
        self._owners: dict[int, Any] = {}
        first = self._type.from_buffer(self._map)
        self.address = ctypes.addressof(first)
        del first

    @classmethod
    def create(cls, slots: int) -> Segment | None:
        """A segment with so many slots, as large as they may be; ``None`` where the system gives none."""
        if not hasattr(os, "memfd_create"):
            return None
        left = _address_space_left()
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
        """The file's descriptor, to be sent to the other side."""
        return self._descriptor

    @property
    def mapped(self) -> int:
        """Bytes of memory that the file takes at present."""
        try:
            return os.fstat(self._descriptor).st_blocks * 512
        except OSError:  # another thread retired it just now
            return 0

    def owner(self, slot: int) -> Any:
        """The slot's memory: a buffer of ``stride`` bytes. Arrays on it, and all views of them, keep the slot in use."""
        owner = self._owners.get(slot)
        if owner is None:
            owner = self._owners[slot] = self._type.from_buffer(self._map, slot * self.stride)
        return owner

    def in_use(self, slot: int) -> bool:
        """Whether anything on this side refers to the slot's memory."""
        owner = self._owners.get(slot)
        return owner is not None and sys.getrefcount(owner) > _UNUSED

    def give_back(self, slot: int) -> None:
        """Give the slot's pages back to the system: its content is lost, and its next use takes new pages."""
        self._free(slot, slot + 1)

    def protect(self, slot: int, begin: int, end: int, access: int) -> None:
        """Allow this side only the given access to a slot's pages. Any other access ends the process by SIGSEGV.

        Args:
            slot: the slot.
            begin: offset of the first page.
            end: offset after the last page.
            access: :data:`PROT_NONE` or :data:`PROT_READ_WRITE`.

        Raises:
            OSError: ``begin`` is no page's beginning, or there are too many ranges with different access.
        """
        start = self.address + slot * self.stride + begin
        if _libc().mprotect(ctypes.c_void_p(start), ctypes.c_size_t(end - begin), access):
            raise OSError(ctypes.get_errno(), "mprotect failed")

    def retire(self) -> None:
        """Give back the memory on which nothing lies, and close the descriptor. The rest is freed with the last reference.

        The segment must not be used any more, but everything that lies on it stays as it is. May be called from any thread,
        and more than once. It takes as long as the system takes to free the memory.
        """
        if not self._to_retire.acquire(blocking=False):
            return  # another call has done it or is doing it
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
        # Where a sandbox refuses it, the memory stays: no reason to end anything.
        with contextlib.suppress(OSError):
            _remove(self.address + begin * self.stride, (end - begin) * self.stride)


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _remove(address: int, size: int) -> None:
    # mmap.madvise() keeps the interpreter locked, and to free a gigabyte takes half a second. A call by ctypes does not.
    if _libc().madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), mmap.MADV_REMOVE):
        raise OSError(ctypes.get_errno(), "madvise failed")


def _address_space_left() -> int | None:
    """Bytes; ``None`` where there is no limit (RLIMIT_AS), or where it can't be found out."""
    if sys.platform != "linux":
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    except OSError:  # no /proc, or no more descriptors
        return None
    return max(limit - used, 0)


def _count_unused() -> int:
    """How many references ``in_use`` counts to the owner of a slot that is not in use."""
    owners = {0: (ctypes.c_char * 1)()}
    owner = owners.get(0)
    return sys.getrefcount(owner)


_UNUSED: Final = _count_unused()
