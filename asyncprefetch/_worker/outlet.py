"""Where a producer's messages go: the interface of a runner to its producer, and log records and counts on their way."""

from __future__ import annotations

from typing import Any, Protocol

from asyncprefetch._wire.item_pickler import ItemPickler
from asyncprefetch._wire.messages import FromWorker, Item, Log, Tally
from asyncprefetch._wire.payloads import Framed
from asyncprefetch._worker import counters, logs


class Outlet(Protocol):
    """Takes a producer's messages, in the order in which they are made."""

    def item(self, where: tuple[int, int, int], item: Any) -> None:
        """Pickle an item and send it.

        Args:
            where: run, shard and position.
            item: what the iterator yielded. It may be changed as soon as this returns.

        Raises:
            BaseException: whatever the pickling raises. Nothing was sent then.
        """

    def send(self, message: FromWorker) -> None:
        """Send any other message. Raises nothing."""


class Collecting:
    """An outlet that keeps the messages, as the answer to a call.

    Attributes:
        size: bytes of the items that are kept.
    """

    def __init__(self) -> None:
        self.size = 0
        self._messages: list[FromWorker] = []
        self._pickler = ItemPickler()

    def item(self, where: tuple[int, int, int], item: Any) -> None:
        """Keep the item as one frame."""
        frame, fingerprint, has_tensors = self._pickler.encode(item)
        self.size += len(frame)
        self._messages.append(Item(*where, fingerprint, Framed(frame, has_tensors)))

    def send(self, message: FromWorker) -> None:
        """Keep the message."""
        self._messages.append(message)

    def take(self) -> list[FromWorker]:
        """The messages since the last call."""
        messages, self._messages, self.size = self._messages, [], 0
        return messages


def send_reports(outlet: Outlet) -> None:
    """Send the log records and counts since the last call. They belong before the message that follows them."""
    for record in logs.drain():
        outlet.send(Log(record))
    if counters.pending():
        outlet.send(Tally(counters.drain()))
