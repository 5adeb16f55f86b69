"""A timer for silence: it fires when a worker owes something and sent nothing for so many seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# A message that has arrived needs a few turns of the loop until it is received.
_ROUNDS = 5


class Watchdog:
    """Calls ``bark`` once, when ``owes()`` held and ``heard()`` was not called for ``seconds``.

    A long step of the consumer blocks the loop, and that is no silence of the worker: before the watchdog barks, it lets the
    loop receive what has arrived meanwhile.
    """

    def __init__(self, seconds: float, owes: Callable[[], bool], bark: Callable[[], None]) -> None:
        self._seconds = seconds
        self._owes = owes
        self._bark = bark
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._timer: asyncio.Handle | None = None

    def heard(self) -> None:
        """A message came."""
        self._heard_at = self._loop.time()

    def expect(self) -> None:
        """Something is about to be asked of the worker. Call it before ``owes()`` becomes true."""
        if not self._owes():
            self._heard_at = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._expired)

    def cancel(self) -> None:
        """Stop watching."""
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
        """Whether there is no reason to bark now. The timer is then set again if there may be one later."""
        self._timer = None
        if not self._owes():
            return True
        left = self._heard_at + self._seconds - self._loop.time()
        if left <= 0:
            return False
        self._timer = self._loop.call_later(left, self._expired)
        return True
