"""Draws an item again, after a pause, if it failed with an error of ``retry_on``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Set

from asyncprefetch._wire.messages import Failed

_LOG = logging.getLogger("asyncprefetch")

# One item is retried after 0.1, 0.2, 0.4, 0.8 and 1.6 s.
_MAX_RETRIES = 5
_FIRST_BACKOFF = 0.1


class Retries:
    """The retries of one worker's shards.

    Args:
        names: the qualified names of the error classes that are retried.
        on_due: called with the shard when its pause is over.

    Attributes:
        count: the number of retries so far.
        attempted: how often the current item of each shard was retried; empty most of the time.
    """

    def __init__(self, names: frozenset[str], on_due: Callable[[int], None]) -> None:
        self.count = 0
        self._names = names
        self._on_due = on_due
        self.attempted: dict[int, int] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}

    @property
    def resting(self) -> Set[int]:
        """The shards that pause before their retry."""
        return self._timers.keys()

    def attempts(self, shard: int) -> int:
        """How often the shard's current item was retried."""
        return self.attempted.get(shard, 0)

    def begin(self, failed: Failed) -> bool:
        """Retry the shard after a pause, if its error is one that is retried and the item has retries left.

        Returns:
            Whether it will be retried.
        """
        shard, error, attempt = failed.shard, failed.error, self.attempts(failed.shard)
        if attempt >= _MAX_RETRIES or self._names.isdisjoint(error.bases):
            return False
        self.attempted[shard] = attempt + 1
        self.count += 1
        delay = _FIRST_BACKOFF * 2**attempt
        _LOG.warning(
            "shard %d, position %d: %s: %s; retry %d of %d in %.1f s",
            *(shard, failed.position, error.type_name, error.text, attempt + 1, _MAX_RETRIES, delay),
        )
        self._timers[shard] = asyncio.get_running_loop().call_later(delay, self._pause_over, shard)
        return True

    def succeeded(self, shard: int) -> None:
        """An item of the shard came."""
        self.attempted.pop(shard, None)

    def cancel(self) -> None:
        """Cancel all retries that are due later."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _pause_over(self, shard: int) -> None:
        del self._timers[shard]
        self._on_due(shard)
