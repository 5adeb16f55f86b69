"""A timer for silence: it tells when nothing was heard for so many seconds though something was owed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# A message that has arrived needs a few rounds of the loop to be heard.
_ROUNDS = 5


class Watchdog:
    """Calls ``bark`` once, when ``owes()`` held and ``heard()`` was not called for ``seconds``.

    What counts is the silence of the other side, not that of a loop which a long step of the consumer blocked: before it
    barks, it lets the loop work off what has arrived meanwhile.
    """

    def __init__(self, seconds: float, owes: Callable[[], bool], bark: Callable[[], None]) -> None:
        self._seconds = seconds
        self._owes = owes
        self._bark = bark
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._timer: asyncio.Handle | None = None

    def heard(self) -> None:
        """Something came."""
        self._heard_at = self._loop.time()

    def expect(self) -> None:
        """Something is about to be asked for: called before it is owed."""
        if not self._owes():
            self._heard_at = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._expired)

    def cancel(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self) -> None:
        if self._restarted():
            return
        self._timer = self._loop.call_later(min(self._seconds / 10, 1.0), self._confirm, _ROUNDS)

    def _confirm(self, rounds: int) -> None:
        if self._restarted():
            return
        if rounds:
            self._timer = self._loop.call_soon(self._confirm, rounds - 1)
        else:
            self._timer = None
            self._bark()

    def _restarted(self) -> bool:
        """Whether there is no reason to bark now; then the timer is set for the next time, if there may be one."""
        self._timer = None
        if not self._owes():
            return True
        left = self._heard_at + self._seconds - self._loop.time()
        if left <= 0:
            return False
        self._timer = self._loop.call_later(left, self._expired)
        return True
