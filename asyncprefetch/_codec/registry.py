"""The names by which a checkpoint refers to classes and functions.

A *kind* names a class of iterator states; a *tag* names a function or an item type. The author chooses both; they are never
derived from a module. So code can move without breaking old files, and a file can only name what its reader has registered.
Looking up a name never imports anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")

T = TypeVar("T", bound=Callable[..., Any])


class Kind(NamedTuple):
    """How a file names a state class."""

    cls: type
    name: str
    version: int
    aliases: tuple[str, ...]


_kinds: dict[str, Kind] = {}
_kind_of: WeakKeyDictionary[type, Kind] = WeakKeyDictionary()
_tagged: dict[str, Any] = {}
_tag_of: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def _definition(obj: Any) -> tuple[str, str]:
    # A worker runs the user's script as __mp_main__, with the same definitions.
    module = obj.__module__
    return ("__main__" if module == "__mp_main__" else module, obj.__qualname__)


def is_same_definition(a: type, b: type) -> bool:
    """Return whether two classes come from one class statement, which may have run twice."""
    return _definition(a) == _definition(b)


def _check_name(name: object, what: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise TypeError(f"{what} must be a dotted name like 'package.name', not {name!r}")
    return name


def _check_free(name: str, holder: Any, newcomer: Any, what: str) -> None:
    if _definition(holder) != _definition(newcomer):
        raise TypeError(
            f"{what} {name!r} is taken: {'.'.join(_definition(holder))} has it, "
            f"and {'.'.join(_definition(newcomer))} asks for it; give one of them a different name"
        )


def register_kind(cls: type, name: object, version: object, aliases: object) -> Kind:
    """Register ``name``, and for reading also the ``aliases``, for the state class ``cls`` in checkpoints.

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
        for key in (older.name, *older.aliases):  # names that the newer definition no longer has, too
            _kinds.pop(key, None)
    _kinds.update(dict.fromkeys((name, *aliases), kind))
    _kind_of[cls] = kind
    return kind


def share_kind(cls: type, kind: Kind) -> None:
    """Write ``cls``, a parametrised form of a registered generic class, with the kind of that class."""
    _kind_of[cls] = kind


def kind_of(cls: type) -> Kind | None:
    """Return the kind of exactly this class, or ``None``: kinds are not inherited."""
    return _kind_of.get(cls)


def was_defined_again(cls: type) -> bool:
    """Return whether a newer definition of a class has taken over its kind."""
    kind = _kind_of[cls]
    newest = _kinds.get(kind.name)
    return newest is not None and newest.cls is not kind.cls


def find_kind(name: str) -> Kind | None:
    """Return the state class registered under ``name`` as a kind or an alias, or ``None``."""
    return _kinds.get(name)


def register(tag: str) -> Callable[[T], T]:
    """Register ``tag`` as the name of a function or an item type (dataclass, pydantic model, named tuple) in checkpoints.

    Use it as a decorator at the top level of a module. A program that loads the checkpoint must import that module too::

        @register("mycorpus.lines")
        def lines(): ...

    Raises:
        TypeError: the tag is malformed, is taken by another definition, or the object can't be registered.
    """
    _check_name(tag, "the tag")

    def decorate(obj: T) -> T:
        if not callable(obj) or not hasattr(obj, "__qualname__") or not hasattr(obj, "__module__"):
            is_partial = isinstance(obj, partial)
            advice = "; register the function of the partial, then bind its arguments" if is_partial else ""
            raise TypeError(f"register({tag!r}) takes a function or a class, not {obj!r:.200}{advice}")
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
    """Return the tag under which ``obj`` was registered, or ``None``."""
    try:
        return _tag_of.get(obj)
    except TypeError:  # not hashable or not weakly referable, so never registered
        return None


def find_tag(tag: str) -> Any | None:
    """Return the object that was registered under ``tag``, or ``None``."""
    return _tagged.get(tag)
