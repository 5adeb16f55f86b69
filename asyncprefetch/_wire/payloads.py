"""A batch on its way from a worker to the consumer, as something that nobody can change."""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from typing import Any, Protocol, Self

# Opening the first tensor imports torch, which takes a second: as if so many bytes had to be copied.
_IMPORT_SIZE = 1 << 30


class Payload(Protocol):
    """A batch that waits for delivery: each ``open()`` gives a new item."""

    @property
    def size(self) -> int:
        """About how many bytes have to be copied to open it: a large one is opened in a thread."""

    def open(self) -> Any:
        """The item, for the consumer to keep and to change."""

    def reading(self) -> Payload:
        """The same batch for a snapshot, that stays as it is whatever the consumer does to the item."""


@dataclass(slots=True)
class Framed:
    """A batch as one frame of bytes."""

    frame: bytes | bytearray
    has_tensors: bool = False

    @property
    def size(self) -> int:
        return len(self.frame) + (import_size() if self.has_tensors else 0)

    def open(self) -> Any:
        return pickle.loads(self.frame)

    def reading(self) -> Self:
        return self


def import_size() -> int:
    """What the import of torch counts, if it is still to come."""
    return _IMPORT_SIZE if "torch" not in sys.modules else 0
