"""Both sides of one worker's shared memory in one process, each with a mapping of its own, and no socket between them.

And a socket in a call of which a signal handler of the user's raises.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from asyncprefetch import arrays
from tests.inside import ItemPickler, LentSlots, OnSlot, Segment, SlotAllocator, item_pickler


class Sides:
    """A worker's allocator, from which arrays are made within ``with``, and a loader's lent slots."""

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
        """The item as it waits for delivery: on a slot, or as a frame if it needs none."""
        frame, _, has_tensors = self.pickler.encode(item)
        sealed = self.allocator.seal()
        return frame if sealed is None else OnSlot(frame, None, *sealed, has_tensors, self.lent_slots)

    def give_back(self):
        """Release what the consumer has let go. Gives the slots."""
        returned = self.lent_slots.returned()
        for slot in returned:
            self.allocator.release(slot)
        return returned

    def cross(self, item):
        """The item as the consumer gets it, with its slot."""
        payload = self.send(item)
        return (item_pickler.loads(payload), None) if isinstance(payload, bytes) else (payload.load(), payload._slot)


def lies_in_shared_memory(array):
    """Whether an array's memory is that of a segment."""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(part, 16) for part in line.split(maxsplit=1)[0].split("-"))
        if begin <= address < end:
            return "memfd:asyncprefetch" in line
    raise AssertionError("the array lies nowhere")


def mappings():
    """How many mappings of segments this process has."""
    return Path("/proc/self/maps").read_text().count("memfd:asyncprefetch")


def alarm_in(sock, call):
    """From now on, half of the next such call is done when the handler of an alarm raises; those after it are as ever."""
    sock.__class__ = {"recv_into": _AlarmedReader, "send": _AlarmedWriter, "shutdown": _AlarmedEnder}[call]


class _Alarmed(socket.socket):
    __slots__ = ()

    def _alarm(self):
        # Not a call more: what the socket itself raises within ours would look like a handler's.
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
