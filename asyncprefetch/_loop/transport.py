"""The interface of a transport: it carries the runs of one worker between the loop and the worker.

There is one module for each transport, and nothing above them knows which one it has. A transport delivers a worker's
messages in the order in which they were made, reports a death once and after the last message, and never lets a worker
draw an item without credit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from asyncprefetch._wire.messages import Credit, Death, FromWorker, Setup, Start, Stop


class Sink(Protocol):
    """Where a transport puts what comes from its worker. Called on the loop, and never after ``aclose()`` has begun."""

    def received(self, messages: Sequence[FromWorker]) -> None:
        """Messages came, in this order."""

    def died(self, death: Death) -> None:
        """The worker is gone. All of its messages were received before."""


class Transport(Protocol):
    """One worker, from its start to its end. Only ``aclose`` waits."""

    @property
    def drawing(self) -> tuple[int, int] | None:
        """Shard and position of the item that is being made, as far as is known."""

    @property
    def mapped(self) -> int:
        """Bytes of shared memory that the worker's batches take at present."""

    def launch(self, setup: Setup, start: Start) -> None:
        """Ask for the worker and its first run."""

    def start(self, start: Start) -> None:
        """Ask for a further run."""

    def credit(self, credit: Credit) -> None:
        """Let a shard send more, from the next ``flush`` on at the latest."""

    def flush(self) -> None:
        """Send all credit to the worker."""

    def poll(self) -> None:
        """Receive what has arrived, without waiting for the loop."""

    def stop(self, stop: Stop) -> None:
        """Ask for the end of the run. Unused credit lapses."""

    def detach(self) -> None:
        """Call nothing of the sink from now on."""

    def kill(self) -> None:
        """End the worker at once, if the transport can. From any thread, also while another method runs."""

    async def aclose(self) -> None:
        """Close the iterators, end the worker, and free all that it held. A busy worker is waited for briefly."""
