"""An exception of the user's code as data, whatever its class does."""

from __future__ import annotations

import logging
import pickle
import traceback
from dataclasses import dataclass
from types import TracebackType

_LOG = logging.getLogger("asyncprefetch")

_MAX_PICKLED_ERROR = 1 << 20

# What every exception and every class has, whatever the user's have under the same names.
_TRACEBACK, _MRO = BaseException.__dict__["__traceback__"], type.__dict__["__mro__"]


@dataclass(frozen=True, slots=True)
class RemoteError:
    """An exception as data. ``bases`` are the qualified names of its class and all base classes."""

    phase: str
    type_name: str
    bases: tuple[str, ...]
    text: str
    traceback: str
    pickled: bytes | None


# What ``type`` itself knows of a class: a metaclass may have attributes of these names that raise, or give anything.
_MODULE, _QUALNAME = type.__dict__["__module__"], type.__dict__["__qualname__"]


def class_name(cls: type) -> str:
    """What both sides call a class: a worker runs the user's script under the name ``__mp_main__``. Raises nothing."""
    name = str.__str__(_QUALNAME.__get__(cls))
    try:
        module = str.__str__(_MODULE.__get__(cls))
    except (AttributeError, TypeError):  # it was deleted, or is no string
        module = "?"
    if module == "builtins":
        return name
    return f"{'__main__' if module == '__mp_main__' else module}.{name}"


def text_of(error: BaseException) -> str:
    """``str(error)``, of one that raises too. A plain ``str``: one of a subclass might not be pickled."""
    try:
        return str.__str__(str(error))
    except KeyboardInterrupt:
        raise
    except BaseException:  # SystemExit too would go far from here
        return "<an exception whose str() raises>"


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


def original_of(error: RemoteError) -> BaseException | None:
    """The exception itself, if it comes back as what it was: one with an odd constructor may not."""
    if error.pickled is None:
        return None
    try:
        original: BaseException = pickle.loads(error.pickled)
        whole = class_name(type(original)) == error.type_name and text_of(original) == error.text
    except KeyboardInterrupt:
        raise
    except BaseException:  # whatever an odd constructor does: SystemExit would end the program here
        _LOG.debug("an exception of type %s can't be unpickled here", error.type_name, exc_info=True)
        return None
    return original if whole else None
