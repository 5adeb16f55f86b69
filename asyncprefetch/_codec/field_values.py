"""The values of an iterator's fields: how they are copied, and how the iterators in them are built when they are first read.

A program that gives a pipeline to a loader needs only the pipeline's state, and iterators should be built in a worker. So a
field with iterators keeps their states until something reads it.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Mapping, Sequence, Set
from operator import methodcaller
from typing import Any

from asyncprefetch._codec import registry

_build = methodcaller("build")
_ATOMS = frozenset({types.NoneType, bool, int, float, complex, str, bytes})


class _CopyError(Exception):
    """A value can't be copied. The message gives the reason and what to do, without the field."""


def _unchanged(value: Any) -> Any:
    return value


def copied_field(
    instance: Any,
    name: str,
    value: Any,
    replaced: type | tuple[()] = (),
    replace: Callable[[Any], Any] = _unchanged,
) -> Any:
    """Return :func:`copied` of a field's value.

    Raises:
        TypeError: the value can't be copied. The message names the class and the field.
    """
    try:
        return copied(value, replaced, replace)
    except _CopyError as error:
        raise TypeError(f"{type(instance).__qualname__}.{name}: {error}") from error.__cause__


def copied(value: Any, replaced: type | tuple[()], replace: Callable[[Any], Any]) -> Any:
    """Return a deep copy of a value. Replace each ``x`` of type ``replaced`` in lists, tuples and dicts by ``replace(x)``.

    States are not copied: they never change.
    """
    cls = type(value)
    if cls in _ATOMS:
        return value
    if cls is list:
        return [copied(part, replaced, replace) for part in value]
    if cls is tuple:
        return tuple([copied(part, replaced, replace) for part in value])
    if cls is dict:
        return {key: copied(part, replaced, replace) for key, part in value.items()}
    if isinstance(value, replaced):
        return replace(value)
    if registry.kind_of(cls) is not None:
        return value
    if replaced and any(isinstance(part, replaced) for part in _parts(value)):
        raise _CopyError(
            f"a {cls.__qualname__} can't hold iterators: hold them in a list, a tuple or the values of a dict"
        )
    try:
        return copy.deepcopy(value)
    except Exception as error:
        raise _CopyError(
            f"a {cls.__qualname__} can't be copied ({type(error).__name__}: {error!s:.200}). What is not data belongs in an "
            "attribute whose name begins with an underscore: make it in post_init()"
        ) from error


def _parts(value: Any) -> list[Any]:
    """Return what a container or an object holds directly. A validator of a field may return any."""
    parts = list(getattr(value, "__dict__", {}).values())
    if isinstance(value, Mapping):
        parts += [*value.keys(), *value.values()]
    elif isinstance(value, Sequence | Set):
        parts += value
    return parts


class FieldWithIterators:
    """The class attribute of a field that holds iterators. It builds them when the field of an instance is first read.

    Like ``functools.cached_property``, it then sets an attribute of the instance, which later reads find first.

    Args:
        name: the name of the field.
        default: what the class body assigned to the name; ``...``: nothing.
        states: the class of the states that stand for the iterators.
    """

    def __init__(self, name: str, default: Any, states: type) -> None:
        self.default = default
        self._name, self._states = name, states

    def __get__(self, instance: Any, owner: type) -> Any:
        name = self._name
        if instance is None:
            if self.default is ...:
                raise AttributeError(f"type object {owner.__name__!r} has no attribute {name!r}", name=name, obj=owner)
            return self.default
        unbuilt = instance._unbuilt
        if name not in unbuilt:
            text = f"{type(instance).__qualname__!r} object has no attribute {name!r}"
            raise AttributeError(text, name=name, obj=instance)
        try:
            value = copied_field(instance, name, unbuilt[name], self._states, _build)
        except AttributeError as error:  # Python would take it for a field that is missing, and ask __getattr__
            raise RuntimeError(f"{type(instance).__qualname__}.{name} can't be built: {error}") from error
        setattr(instance, name, value)
        # A new dict: a copy of the instance refers to the same one.
        instance._unbuilt = {other: states for other, states in unbuilt.items() if other != name}
        return value


def read_without_building(instance: Any, name: str) -> Any:
    """Return the value of a field; for a field with iterators that was not read yet, the states that stand for them.

    Raises:
        AttributeError: the field has no value. A ``__getattr__`` of the class is not called.
    """
    # Never by instance.__dict__: on Python 3.11 and 3.12 every later access to an attribute would be slower.
    unbuilt = instance._unbuilt
    try:
        if name not in unbuilt:
            return object.__getattribute__(instance, name)
        instance._unbuilt = {}
        try:
            return object.__getattribute__(instance, name)  # it was set anew before it was read
        except AttributeError:
            return unbuilt[name]
        finally:
            instance._unbuilt = unbuilt
    except AttributeError:
        cls = type(instance).__qualname__
        raise AttributeError(
            f"{cls}.{name} has no value: if {cls} has an __init__, it must call super().__init__({name}=...)"
        ) from None
