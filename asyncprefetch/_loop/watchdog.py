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

    Args:
        seconds: the limit.
        owes: whether a message is due.
        bark: what to call.
        time: the clock that counts the seconds, by default the loop's. It may run more slowly than the loop's clock.
    """

    def __init__(
        self,
        seconds: float,
        owes: Callable[[], bool],
        bark: Callable[[], None],
        time: Callable[[], float] | None = None,
    ) -> None:
        self._seconds = seconds
        # A message that has arrived is received within this time after a step that blocked the loop.
        self._grace = min(seconds / 10, 1.0)
        self._owes = owes
        self._bark = bark
        self._loop = asyncio.get_running_loop()
        self._time = time or self._loop.time
        self._heard_at = self._time()
        self._timer: asyncio.Handle | None = None

    def heard(self) -> None:
        """A message came."""
        self._heard_at = self._time()

    def expect(self) -> None:
        """Something is about to be asked of the worker. Call it before ``owes()`` becomes true."""
        if not self._owes():
            self._heard_at = self._time()
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
        self._timer = self._loop.call_later(self._grace, self._confirm, _ROUNDS)

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
        left = self._heard_at + self._seconds - self._time()
        if left <= 0:
            return False
        # On a slow clock something is left again after that time, and less each time. The grace bounds the repetitions.
        self._timer = self._loop.call_later(max(left, self._grace), self._expired)
        return True
