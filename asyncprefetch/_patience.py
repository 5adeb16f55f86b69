"""Whether to look again for a moment before going to sleep.

To be put to sleep and woken up costs both sides tens of microseconds: more than what a quick other side needs for the next
message. Where it is quick, looking again is cheaper; where it is not, one try in many finds out that it has become so.
"""

from __future__ import annotations

import time
from collections.abc import Callable

# Seconds to look at most. A loop is held up for so long, which is less than many a callback takes.
_LOOK = 0.00005

# After a try in vain so many waits go without one; after each further one twice as many, up to a limit.
_FIRST_PAUSE, _LAST_PAUSE = 8, 256


class Patience:
    """Decides by how the tries before went."""

    def __init__(self) -> None:
        self._pause = _FIRST_PAUSE
        self._skip = 0

    def look(self, found: Callable[[], bool]) -> bool:
        """Call ``found`` for a moment, if that is likely to help. Gives whether it held."""
        if self._skip:
            self._skip -= 1
            return False
        until = time.monotonic() + _LOOK
        while not found():
            if time.monotonic() > until:
                self._skip, self._pause = self._pause, min(2 * self._pause, _LAST_PAUSE)
                return False
        self._pause = _FIRST_PAUSE
        return True
