"""A batch between its worker and the consumer: waiting for delivery, and immutable."""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from typing import Any, Protocol, Self

# Loading the first tensor imports torch, which takes about a second. A size of 1 GiB makes that happen in a thread.
_IMPORT_SIZE = 1 << 30


class Payload(Protocol):
    """A batch that waits for delivery."""

    @property
    def size(self) -> int:
        """About how many bytes are copied to load the batch. A large one is loaded in a thread."""

    def load(self) -> Any:
        """The item, a new one at each call. The consumer may keep it and change it."""

    def reading(self) -> Payload:
        """The same batch for a snapshot. It does not change, whatever the consumer does to the item."""


@dataclass(slots=True)
class Framed:
    """A batch as one frame of bytes."""

    frame: bytes | bytearray
    has_tensors: bool = False

    @property
    def size(self) -> int:
        return len(self.frame) + (import_size() if self.has_tensors else 0)

    def load(self) -> Any:
        return pickle.loads(self.frame)

    def reading(self) -> Self:
        return self


def import_size() -> int:
    """What the import of torch adds to a batch's size, in bytes: nothing if torch is imported already."""
    return _IMPORT_SIZE if "torch" not in sys.modules else 0
