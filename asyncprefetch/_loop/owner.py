"""What a receiver asks of the loader that it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from asyncprefetch._loop.shard_queue import Entry
from asyncprefetch._loop.transport import Transport


class Owner(Protocol):
    """What a receiver needs of the loader's core."""

    def new_run(self) -> int:
        """A run number that was never used."""

    @property
    def put(self) -> Callable[[int, Entry], None]:
        """Queues an entry of a shard for the consumer."""

    def run_ended(self, start: Callable[[], None]) -> None:
        """A run came to its final sentinel; the next one begins with ``start()``."""

    def changed(self) -> None:
        """Credit may be dealt in another way now, or nothing is left to wait for."""

    def crashed(self, error: Exception) -> None:
        """A fault in this library: raise it to the consumer, so that nobody waits for ever."""

    @property
    def let_go(self) -> Callable[[Transport], None]:
        """Closes a transport of which nothing more is needed; the loader's end waits for that."""
