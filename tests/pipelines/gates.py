"""An iterator that waits at gates, which the test opens."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from asyncprefetch import IteratorState, Position, StatefulIterator
from tests.inside import in_daemon_thread


class GateState(IteratorState, kind="tests.gate"):
    stop: int
    folder: str
    position: Position[int] = 0

    def build(self) -> Gate:
        return Gate(self.stop, self.folder, self.position)


class Gate(StatefulIterator[int]):
    """Counts, and waits before each item that has a gate until a ``GateKeeper`` opens the gate."""

    def __init__(self, stop: int, folder: str, position: int = 0) -> None:
        self.stop, self.folder, self.position = stop, folder, position

    def get_state(self) -> GateState:
        return GateState(stop=self.stop, folder=self.folder, position=self.position)

    def create_iter(self) -> Iterator[int]:
        while self.position < self.stop:
            gate = Path(self.folder, f"gate-{self.position}")
            if gate.exists():
                Path(self.folder, f"reached-{self.position}").write_bytes(b"!")  # blocks until the keeper reads
                gate.read_bytes()  # blocks until the keeper writes
            self.position += 1
            yield self.position - 1


class GateKeeper:
    """The test's side of the gates. Each gate has two named pipes, so that neither side sleeps or polls."""

    def __init__(self, folder: Path, *positions: int) -> None:
        self.folder = folder
        for position in positions:
            os.mkfifo(folder / f"gate-{position}")
            os.mkfifo(folder / f"reached-{position}")

    async def reached(self, position: int) -> None:
        """Wait until the iterator has reached the gate."""
        # A daemon thread waits: if the iterator dies before the gate, the test fails and does not hang.
        await in_daemon_thread((self.folder / f"reached-{position}").read_bytes, "gate")

    @asynccontextmanager
    async def held_once(self, position: int) -> AsyncIterator[None]:
        """Hold the iterator at the gate until the block ends or the iterator dies. A later iterator finds no gate."""
        await self.reached(position)
        # Both ends are open now, so the gate can be removed before the iterator continues.
        writer = await self._writer(position)
        try:
            (self.folder / f"gate-{position}").unlink()
            yield
        finally:
            os.close(writer)

    async def open(self, position: int) -> None:
        """Let the iterator through after it has reached the gate. A later iterator finds no gate."""
        writer = await self._writer(position)
        (self.folder / f"gate-{position}").unlink()
        os.close(writer)

    async def _writer(self, position: int) -> int:
        return await in_daemon_thread(lambda: os.open(self.folder / f"gate-{position}", os.O_WRONLY), "gate")
