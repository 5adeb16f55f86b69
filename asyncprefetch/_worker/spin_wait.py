"""Whether a worker that has no credit should look for it again for a moment, before it goes to sleep.

To be put to sleep and woken up takes tens of microseconds, in which a quick consumer waits. Where credit comes quickly,
looking again keeps both going; where it does not, one try in many finds out that it has become so.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_LOOK = 0.00005  # seconds at most

# After a try in vain so many waits go without one; after each further one twice as many, up to a limit.
_FIRST_PAUSE, _LAST_PAUSE = 8, 256


class SpinWait:
    """Decides by how the tries before went."""

    def __init__(self) -> None:
        self._pause = _FIRST_PAUSE
        self._skip = 0

    def look(self, found: Callable[[], bool]) -> None:
        """Call ``found`` until it holds, for a moment at most, and not at all where that was in vain before."""
        if self._skip:
            self._skip -= 1
            return
        until = time.monotonic() + _LOOK
        while not found():
            if time.monotonic() > until:
                self._skip, self._pause = self._pause, min(2 * self._pause, _LAST_PAUSE)
                return
        self._pause = _FIRST_PAUSE
