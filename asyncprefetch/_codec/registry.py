"""The names by which a checkpoint may call classes and functions.

A *kind* names a class of iterator states, a *tag* a function or an item type. Both are given by the author, never
derived from a module, so that code can move without old files losing it, and so that a file can name nothing that its
reader did not register. Looking a name up never imports anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Kind:
    """What a state class is called in a file."""

    cls: type
    name: str
    version: int
    aliases: tuple[str, ...]


_kinds: dict[str, Kind] = {}
_kind_of: WeakKeyDictionary[type, Kind] = WeakKeyDictionary()
_tagged: dict[str, Any] = {}
_tag_of: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def _definition(obj: Any) -> tuple[str, str]:
    # A worker runs the user's script under the name __mp_main__: the same definition for us.
    module = obj.__module__
    return ("__main__" if module == "__mp_main__" else module, obj.__qualname__)


def _check_name(name: object, what: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise TypeError(f"{what} must be a dotted name like 'package.name', not {name!r}")
    return name


def _check_free(name: str, holder: Any, newcomer: Any, what: str) -> None:
    if _definition(holder) != _definition(newcomer):
        raise TypeError(
            f"{what} {name!r} is taken: {'.'.join(_definition(holder))} has it, "
            f"and {'.'.join(_definition(newcomer))} asks for it; give one of them another name"
        )


def register_kind(cls: type, name: object, version: object, aliases: object) -> Kind:
    """Make ``name`` (and the ``aliases``, for reading only) stand for the state class ``cls`` in checkpoints.

    Raises:
        TypeError: a name is malformed or taken by another class, or the version is not a positive int.
    """
    name = _check_name(name, f"{cls.__qualname__}: kind")
    if "." not in name:
        raise TypeError(f"{cls.__qualname__}: kind must be a dotted name like 'package.name', not {name!r}")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise TypeError(f"{cls.__qualname__}: version must be an int from 1, not {version!r}")
    if not isinstance(aliases, tuple | list):
        raise TypeError(f"{cls.__qualname__}: aliases must be a tuple of names, not {aliases!r}")
    aliases = tuple(_check_name(alias, f"{cls.__qualname__}: alias") for alias in aliases)
    kind = Kind(cls, name, version, aliases)
    taken = {key: _kinds[key] for key in (name, *aliases) if key in _kinds}
    for key, older in taken.items():
        _check_free(key, older.cls, cls, "the kind or alias")
    for older in taken.values():
        for key in (older.name, *older.aliases):  # also names that the newer definition has given up
            _kinds.pop(key, None)
    _kinds.update(dict.fromkeys((name, *aliases), kind))
    _kind_of[cls] = kind
    return kind


def share_kind(cls: type, kind: Kind) -> None:
    """Let ``cls``, a parametrised form of the generic class that was registered, be written as that class's kind."""
    _kind_of[cls] = kind


def kind_of(cls: type) -> Kind | None:
    """The kind of exactly this class, or ``None``: kinds are not inherited."""
    return _kind_of.get(cls)


def find_kind(name: str) -> Kind | None:
    """The state class registered under ``name`` as a kind or an alias, or ``None``."""
    return _kinds.get(name)


def register(tag: str) -> Callable[[T], T]:
    """Let checkpoints name a function or an item type (dataclass, pydantic model, named tuple) by ``tag``.

    Use it as a decorator, at the top level of a module that whoever loads the checkpoint imports too::

        @register("mycorpus.lines")
        def lines(): ...

    Raises:
        TypeError: the tag is malformed, is taken by another definition, or the object can't be registered.
    """
    _check_name(tag, "the tag")

    def decorate(obj: T) -> T:
        if not callable(obj) or not hasattr(obj, "__qualname__") or not hasattr(obj, "__module__"):
            raise TypeError(f"register({tag!r}) takes a function or a class, not {obj!r}")
        if tag in _tagged:
            _check_free(tag, _tagged[tag], obj, "the tag")
        known = _tag_of.get(obj)
        if known is not None and known != tag:
            raise TypeError(f"{obj.__qualname__} is registered already, as {known!r}")
        _tag_of[obj] = tag
        _tagged[tag] = obj
        return obj

    return decorate


def tag_of(obj: Any) -> str | None:
    """The tag under which ``obj`` was registered, or ``None``."""
    try:
        return _tag_of.get(obj)
    except TypeError:  # unhashable or without weak references: never registered
        return None


def find_tag(tag: str) -> Any | None:
    """What was registered under ``tag``, or ``None``."""
    return _tagged.get(tag)
