"""What carries a run between the loop and one worker: the interface, and behind it one transport a module.

Nothing above this package knows which transport it has. A transport delivers a worker's messages in the order in which they
were made, tells of a death once and after the last message, and never draws an item without credit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from asyncprefetch._wire.messages import Credit, Death, FromWorker, Setup, Start, Stop


class Sink(Protocol):
    """Where a transport puts what comes from its worker. Called on the loop, never after ``aclose()`` was begun."""

    def received(self, messages: Sequence[FromWorker]) -> None:
        """Messages came, in this order."""

    def died(self, death: Death) -> None:
        """The worker is gone; every message of it was received before."""


class Transport(Protocol):
    """One worker, from its start to its end. No method but ``aclose`` waits for anything."""

    @property
    def drawing(self) -> tuple[int, int] | None:
        """Shard and position of the item that is being made, as far as is known."""

    def open(self, setup: Setup, start: Start) -> None:
        """Ask for the worker, and for its first run."""

    def start(self, start: Start) -> None:
        """Ask for a further run."""

    @property
    def mapped(self) -> int:
        """Bytes of shared memory that the worker's batches take at present."""

    def credit(self, credit: Credit) -> None:
        """Let a shard send more, from the next ``flush`` on at the latest."""

    def flush(self) -> None:
        """Let the worker know of all credit."""

    def poll(self) -> None:
        """Receive what has come, without waiting for the loop to tell of it."""

    def stop(self, stop: Stop) -> None:
        """Ask for the end of the run; credit that was not used lapses."""

    def detach(self) -> None:
        """Tell the sink nothing more, from now on."""

    def kill(self) -> None:
        """End the worker at once, if that can be done. From any thread, also while a method runs."""

    async def aclose(self) -> None:
        """Close the iterators, end the worker, and give back all that it held. A busy worker is waited for briefly."""
