"""Takes snapshots: stops the runs, waits for their final sentinels, copies the state at once, and starts the next runs."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence

from asyncprefetch._loop.snapshot import Snapshot
from asyncprefetch._loop.states import RunState
from asyncprefetch._loop.worker_handle import WorkerHandle


class SnapshotTaker:
    """The snapshot that was asked for and is not taken yet, if there is one. Calls that come meanwhile share it.

    Args:
        handles: the loader's workers.
        look: makes the snapshot of this moment.
        deal_credit: called after the next runs have begun.
    """

    def __init__(
        self, handles: Sequence[WorkerHandle], look: Callable[[], Snapshot], deal_credit: Callable[[], None]
    ) -> None:
        self.starting = False  # next runs are being started: credit is dealt when all can use it, not all to the first
        self._handles = handles
        self._look = look
        self._deal_credit = deal_credit
        self._pending: asyncio.Future[Snapshot] | None = None

    @property
    def pending(self) -> bool:
        """Whether a snapshot was asked for and is not taken: an idle worker then starts no run."""
        return self._pending is not None

    async def take(self, grace: float | None) -> Snapshot:
        """Stop the runs and take a snapshot once every final sentinel has come, or after ``grace`` seconds.

        Cancelling this changes nothing for other callers.
        """
        pending = self._pending if self._pending is not None else self._ask()
        timer = None if grace is None else asyncio.get_running_loop().call_later(grace, self._take)
        try:
            return await asyncio.shield(pending)
        finally:
            if timer is not None:
                timer.cancel()

    def take_if_quiet(self) -> None:
        """Take the pending snapshot if every worker that was asked to stop has stopped."""
        if self._pending is not None and all(handle.state is not RunState.STOPPING for handle in self._handles):
            self._take()

    def fail(self, error: Exception) -> None:
        """The pending snapshot will not be taken: its callers get ``error``."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            if not pending.done():
                # A copy of its own: raised, it gets the frames of its callers, which must not live as long as the loader.
                own = copy.copy(error)
                own.__cause__ = error.__cause__
                pending.set_exception(own)
                pending.exception()  # the callers may be gone, which is not worth asyncio's warning

    def forget(self) -> None:
        """Drop the pending snapshot: its loop was closed, and its callers are gone."""
        self._pending = None

    def _ask(self) -> asyncio.Future[Snapshot]:
        pending = self._pending = asyncio.get_running_loop().create_future()
        for handle in self._handles:
            handle.stop()
        self.take_if_quiet()
        return pending

    def _take(self) -> None:
        # No await in here: the buffer and the states belong together.
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        if not pending.done():
            try:
                pending.set_result(self._look())
            except Exception as error:  # no memory for the copies, for example: the callers get it, the loader goes on
                pending.set_exception(error)
        self.starting = True
        for handle in self._handles:
            if handle.state is RunState.IDLE:
                handle.start()
        self.starting = False
        self._deal_credit()
