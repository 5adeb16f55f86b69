"""What ``on_error="skip"`` means: an error is counted and logged instead of raised."""

from __future__ import annotations

import logging
from typing import Literal, TypeAlias

from asyncprefetch._worker import counters
from asyncprefetch.iterators.text._files import DocumentError

OnError: TypeAlias = Literal["raise", "skip"]

_LOGGED = 10
"""How many of the errors of a run are logged."""

_log = logging.getLogger("asyncprefetch.iterators")


def pass_over(error: DocumentError, on_error: OnError, before: int) -> None:
    """Raise ``error``, or count the document as ``"documents skipped"`` and log a warning.

    Args:
        error: what was the matter with it.
        on_error: what the user chose.
        before: how many were passed over in the same run: in the same file, say. From the eleventh on none is logged.
    """
    if on_error == "raise":
        raise error
    counters.add("documents skipped", 1)
    if before < _LOGGED:
        # The text only: a record that is kept would keep the error's frames, and with them the file that is being read.
        _log.warning("passed over: %s", str(error))
    elif before == _LOGGED:
        _log.warning("passed over: %s. Further ones are not logged", str(error))
