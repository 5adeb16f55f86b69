"""The loader's side of the shared memory: batches that lie on slots, and the slots that can be returned to the worker."""

from __future__ import annotations

import weakref
from typing import Any, Self

from asyncprefetch._wire import item_pickler
from asyncprefetch._wire.payloads import import_size
from asyncprefetch._wire.shared_memory import Segment


class LentSlots:
    """The slots of a worker whose batches were delivered to the consumer.

    Args:
        segment: the memory.
        max_held: when the consumer holds so many, it gets copies, so that the worker never runs out of slots.

    Attributes:
        lent: the slots that the consumer holds, as keys.
    """

    def __init__(self, segment: Segment, max_held: int) -> None:
        self.segment = segment
        self.max_held = max_held
        self.lent: dict[int, None] = {}

    def returned(self) -> list[int]:
        """The slots that no array lies on any more. Each is returned once."""
        returned = [slot for slot in list(self.lent) if not self.segment.in_use(slot)]
        for slot in returned:
            del self.lent[slot]
        return returned


class OnSlot:
    """A batch whose large arrays lie on a slot. The consumer gets the arrays on the slot, or copies of them.

    It gets copies while a snapshot of the batch is being encoded, because the snapshot must not see what the consumer does
    to the arrays, and while it holds too many slots.
    """

    __slots__ = (
        "_extent",
        "_frame",
        "_has_tensors",
        "_lent_slots",
        "_on_slot",
        "_owner",
        "_reading",
        "_slot",
        "_span",
    )

    def __init__(  # noqa: PLR0917 - called once a batch, and by name that would take twice as long
        self,
        frame: bytes | bytearray,
        span: tuple[int, int] | None,
        slot: int,
        extent: int,
        has_tensors: bool,
        lent_slots: LentSlots,
    ) -> None:
        self._frame = frame
        self._span = span
        self._slot = slot
        self._extent = extent
        self._has_tensors = has_tensors
        self._lent_slots = lent_slots
        self._owner = lent_slots.segment.owner(slot)
        self._reading: weakref.ref[_Reading] | None = None
        self._on_slot = False  # whether there may be an item on the slot that the consumer has, or is about to get

    @property
    def size(self) -> int:
        """See :class:`~asyncprefetch._wire.payloads.Payload`."""
        size = self._span[1] if self._span is not None else len(self._frame)
        if self._must_copy:
            size += self._extent
        return size + import_size() if self._has_tensors else size

    @property
    def _must_copy(self) -> bool:
        lent_slots = self._lent_slots
        return len(lent_slots.lent) >= lent_slots.max_held or (
            self._reading is not None and self._reading() is not None
        )

    def load(self) -> Any:
        """The item, for the consumer to keep and to change."""
        # Set before the check for a snapshot: this may run in a thread while the loop takes one.
        self._on_slot = True
        item = self.item_on(self._copy() if self._must_copy else self._owner)
        self._lent_slots.lent[self._slot] = None
        return item

    def reading(self) -> _Reading:
        """The batch as it is now, for a snapshot. On the loop, and not after it was delivered."""
        reading = self._reading() if self._reading is not None else None
        if reading is None:
            reading = _Reading(self)
            self._reading = weakref.ref(reading)
            if self._on_slot:
                reading.memory = self._copy()
        return reading

    def _copy(self) -> bytearray:
        return bytearray(memoryview(self._owner)[: self._extent])

    @property
    def extent(self) -> int:
        """Bytes of the slot that it takes."""
        return self._extent

    def item_on(self, memory: Any) -> Any:
        """The item, with its large arrays on ``memory``: the slot's, if it is ``None``."""
        memory = self._owner if memory is None else memory
        frame: Any = self._frame
        if self._span is not None:
            offset, length = self._span
            frame = memoryview(memory).cast("B")[offset : offset + length]
        return item_pickler.loads(frame, memory)


class _Reading:
    """The batch for a snapshot. While this lives, the consumer gets a copy. If it has the batch already, this is one."""

    __slots__ = ("__weakref__", "_batch", "memory")

    def __init__(self, batch: OnSlot) -> None:
        self._batch = batch
        self.memory: bytearray | None = None

    @property
    def size(self) -> int:
        return self._batch.extent

    def load(self) -> Any:
        return self._batch.item_on(self.memory)

    def reading(self) -> Self:
        return self
