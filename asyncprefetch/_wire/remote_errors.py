"""Exceptions of the user's code as data.

An exception may have a class that can't be pickled, or whose methods raise. It crosses as text, with the names of its
classes and its formatted traceback. The pickled exception goes along if there is one, for the loader to raise ``from``.
"""

import logging
import pickle
import traceback
from types import TracebackType
from typing import NamedTuple

_LOG = logging.getLogger("asyncprefetch")

_MAX_PICKLED_ERROR = 1 << 20

# The attributes of every exception and class. The user's classes may have others under the same names, which may raise.
_TRACEBACK, _MRO = BaseException.__dict__["__traceback__"], type.__dict__["__mro__"]
_MODULE, _QUALNAME = type.__dict__["__module__"], type.__dict__["__qualname__"]


class RemoteError(NamedTuple):
    """An exception as data.

    Attributes:
        phase: what the worker was doing: ``"next"``, say.
        type_name: the qualified name of its class.
        bases: the qualified names of its class and of all base classes.
        text: ``str()`` of the exception.
        traceback: formatted, of several lines.
        pickled: the exception itself; ``None`` if it can't be pickled or is too large.
    """

    phase: str
    type_name: str
    bases: tuple[str, ...]
    text: str
    traceback: str
    pickled: bytes | None


def describe(error: BaseException, phase: str) -> RemoteError:
    """The exception as data. Raises nothing, whatever the exception's class does."""
    try:
        return _described(error, phase)
    except BaseException:  # the user's class raised, or memory ran out
        name = class_name(type(error))
        return RemoteError(phase, name, (name,), "<an exception that can't be described>", "<no traceback>\n", None)


def original_of(error: RemoteError) -> BaseException | None:
    """The exception itself, if it can be unpickled here and comes back with the same class and text."""
    if error.pickled is None:
        return None
    try:
        original: BaseException = pickle.loads(error.pickled)
        whole = class_name(type(original)) == error.type_name and text_of(original) == error.text
    except KeyboardInterrupt:
        raise
    except BaseException:  # a constructor of the user's may raise anything; SystemExit would end the program here
        _LOG.debug("an exception of type %s can't be unpickled here", error.type_name, exc_info=True)
        return None
    return original if whole else None


def class_name(cls: type) -> str:
    """The name of a class in both processes: a worker runs the user's script as ``__mp_main__``. Raises nothing."""
    name = str.__str__(_QUALNAME.__get__(cls))
    try:
        module = str.__str__(_MODULE.__get__(cls))
    except (AttributeError, TypeError):  # it was deleted, or is no string
        module = "?"
    if module == "builtins":
        return name
    return f"{'__main__' if module == '__mp_main__' else module}.{name}"


def text_of(error: BaseException) -> str:
    """``str(error)`` as a plain ``str``, which can always be pickled. Raises nothing but ``KeyboardInterrupt``."""
    try:
        return str.__str__(str(error))
    except KeyboardInterrupt:
        raise
    except BaseException:  # SystemExit too: it would end the process
        return "<an exception whose str() raises>"


def _described(error: BaseException, phase: str) -> RemoteError:
    text = text_of(error)
    # The first frame is the producer's, which says nothing to the user.
    raised_at: TracebackType | None = _TRACEBACK.__get__(error)
    below = raised_at.tb_next if raised_at is not None else None
    try:
        formatted = "".join(traceback.format_exception(type(error), error, below))
    except BaseException:  # formatting calls methods of the user's class
        formatted = "".join(traceback.format_tb(below))
    bases = tuple(map(class_name, _MRO.__get__(type(error))))
    return RemoteError(phase, bases[0], bases, text, formatted, _pickled_error(error))


def _pickled_error(error: BaseException) -> bytes | None:
    try:
        pickled = pickle.dumps(error)
    except BaseException:  # pickling calls methods of the user's class
        return None
    return pickled if len(pickled) <= _MAX_PICKLED_ERROR else None
