"""``on_error="skip"``: an error is counted and logged instead of raised."""

from __future__ import annotations

import logging
from typing import Literal, TypeAlias

from asyncprefetch._worker import counters
from asyncprefetch.iterators._document_error import DocumentError

OnError: TypeAlias = Literal["raise", "skip"]

_LOGGED = 10
"""How many errors of a run are logged."""

_log = logging.getLogger("asyncprefetch.iterators")


def pass_over(error: DocumentError, on_error: OnError, before: int) -> None:
    """Raise ``error``, or count the document as ``"documents skipped"`` and log a warning.

    Args:
        error: what is wrong with the document.
        on_error: what the user chose.
        before: how many documents were skipped before in the same run, such as the same file. The eleventh warning says that
            it is the last.
    """
    if on_error == "raise":
        raise error
    counters.add("documents skipped", 1)
    if before < _LOGGED:
        # Log the text only: a record that is kept would keep the frames of the error, and the open file with them.
        _log.warning("skipped: %s", str(error))
    elif before == _LOGGED:
        _log.warning("skipped: %s. Further ones are not logged", str(error))
