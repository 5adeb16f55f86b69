"""Both sides of one worker's shared memory in one process, each with its own mapping, and without a socket in between.

Also a socket on which the user's signal handler raises during a call.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from asyncprefetch import arrays
from tests.inside import ItemPickler, LentSlots, OnSlot, Segment, SlotAllocator, item_pickler


class Sides:
    """A worker's slot allocator, which makes arrays within ``with``, and a loader's lent slots."""

    def __init__(self, slots=8, max_held=8, *, protect=False):
        self.memory = Segment.create(slots)
        self.growths = 0
        self.allocator = SlotAllocator(self.memory, self._grow, protect=protect)
        self.pickler = ItemPickler(self.allocator)
        self.lent_slots = LentSlots(Segment(os.dup(self.memory.descriptor), self.memory.geometry), max_held)

    def __enter__(self):
        self._before = arrays.use(self.allocator)
        return self

    def __exit__(self, *_):
        arrays.use(self._before)
        self.memory.retire()
        self.lent_slots.segment.retire()

    def _grow(self):
        self.growths += 1

    def send(self, item):
        """Return the item as it waits for delivery: on a slot, or as a frame if it needs no slot."""
        frame, _, has_tensors = self.pickler.encode(item)
        sealed = self.allocator.seal()
        return frame if sealed is None else OnSlot(frame, None, *sealed, has_tensors, self.lent_slots)

    def give_back(self):
        """Release the slots that the consumer no longer uses, and return them."""
        returned = self.lent_slots.returned()
        for slot in returned:
            self.allocator.release(slot)
        return returned

    def cross(self, item):
        """Return the item as the consumer gets it, and its slot."""
        payload = self.send(item)
        return (item_pickler.loads(payload), None) if isinstance(payload, bytes) else (payload.load(), payload._slot)


def lies_in_shared_memory(array):
    """Return whether an array's memory belongs to a segment."""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(part, 16) for part in line.split(maxsplit=1)[0].split("-"))
        if begin <= address < end:
            return "memfd:asyncprefetch" in line
    raise AssertionError("the array lies nowhere")


def mappings():
    """Return the number of segments' mappings in this process."""
    return Path("/proc/self/maps").read_text().count("memfd:asyncprefetch")


def alarm_in(sock, call):
    """Make an alarm's handler raise during the next such call, which has done half of its work. Later calls are normal."""
    sock.__class__ = {"recv_into": _AlarmedReader, "send": _AlarmedWriter, "shutdown": _AlarmedEnder}[call]


class _Alarmed(socket.socket):
    __slots__ = ()

    def _alarm(self):
        # Only one call is changed: an error of the socket within our method would look like the handler's.
        self.__class__ = socket.socket
        raise TimeoutError("an alarm")


class _AlarmedReader(_Alarmed):
    __slots__ = ()

    def recv_into(self, buffer):
        super().recv_into(buffer)
        self._alarm()


class _AlarmedWriter(_Alarmed):
    __slots__ = ()

    def send(self, data, flags):
        super().send(data[: len(data) // 2], flags)
        self._alarm()


class _AlarmedEnder(_Alarmed):
    __slots__ = ()

    def shutdown(self, how):
        super().shutdown(how)
        self._alarm()
