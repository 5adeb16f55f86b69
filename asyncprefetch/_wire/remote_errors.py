"""An exception of the user's code as data, whatever its class does."""

from __future__ import annotations

import pickle
import traceback
from types import TracebackType

from asyncprefetch._wire.messages import RemoteError, class_name, text_of

_MAX_PICKLED_ERROR = 1 << 20

# What every exception and every class has, whatever the user's have under the same names.
_TRACEBACK, _MRO = BaseException.__dict__["__traceback__"], type.__dict__["__mro__"]


def describe(error: BaseException, phase: str) -> RemoteError:
    """An exception as data: it crosses whatever its class does when it is asked for its text, its traceback or anything."""
    try:
        return _described(error, phase)
    except BaseException:  # it is the user's class that answers, or there is no memory for more
        name = class_name(type(error))
        return RemoteError(phase, name, (name,), "<an exception that can't be described>", "<no traceback>\n", None)


def _described(error: BaseException, phase: str) -> RemoteError:
    text = text_of(error)
    # Not what the class may have in the place of it. The first frame is the producer's, which tells the user nothing.
    raised_at: TracebackType | None = _TRACEBACK.__get__(error)
    below = raised_at.tb_next if raised_at is not None else None
    try:
        formatted = "".join(traceback.format_exception(type(error), error, below))
    except BaseException:  # it is the user's code that formats it
        formatted = "".join(traceback.format_tb(below))
    bases = tuple(map(class_name, _MRO.__get__(type(error))))
    return RemoteError(phase, bases[0], bases, text, formatted, _pickled_error(error))


def _pickled_error(error: BaseException) -> bytes | None:
    """The exception itself, for whoever can use it on the other side: many classes can't be pickled."""
    try:
        pickled = pickle.dumps(error)
    except BaseException:  # and here it is the user's too
        return None
    return pickled if len(pickled) <= _MAX_PICKLED_ERROR else None
