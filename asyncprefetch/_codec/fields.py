"""The fields of an iterator that is one class: how they are read from the class body.

A field is an annotated name of the class body, or of the body of a base class, that does not begin with an underscore and
is not a ``ClassVar``. :func:`read_fields` returns the fields in the form that ``pydantic.create_model`` takes. Every mistake
in the class body is a ``TypeError`` that names the class and the field.
"""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections import ChainMap
from collections.abc import Mapping
from typing import Any, ClassVar

from asyncprefetch._codec.field_values import FieldWithIterators

if sys.version_info >= (3, 14):
    import annotationlib

_DESCRIPTORS = (property, classmethod, staticmethod, functools.cached_property)


def read_fields(cls: type, base: type, reserved: type) -> dict[str, tuple[Any, Any]]:
    """Return annotation and default of each field of ``cls`` in order, those of base classes first.

    Args:
        cls: the class that is being defined.
        base: where to stop: ``base`` and its own bases have no fields.
        reserved: a class whose attributes can't be names of fields.

    Raises:
        TypeError: an annotation is missing or can't be evaluated, or a field has the name of a method.
    """
    fields: dict[str, tuple[Any, Any]] = {}
    scope = _calling_scope(cls.__module__)
    for holder in reversed(cls.__mro__):
        if holder in base.__mro__:
            continue
        annotations = _evaluated(holder, scope)
        _check_others(holder, annotations, fields, constants=not issubclass(holder, base))
        for name, annotation in annotations.items():
            _check_name(cls, holder, name, fields, reserved)
            default = vars(holder).get(name, ...)
            fields[name] = (annotation, default.default if isinstance(default, FieldWithIterators) else default)
    return fields


def is_cached_property(cls: type, name: str) -> bool:
    """Return whether the attribute of an instance is the stored value of a ``functools.cached_property``."""
    return isinstance(inspect.getattr_static(cls, name, None), functools.cached_property)


def _own_annotations(cls: type) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        # Names that are not defined yet, as that of the class itself, come as forward references.
        return annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(cls)


def _evaluated(cls: type, scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the annotations of the class body that declare fields, with strings evaluated."""
    module = sys.modules.get(cls.__module__)
    names = ChainMap(dict(vars(cls)), {cls.__name__: cls}, dict(scope))
    fields = {}
    for name, written in _own_annotations(cls).items():
        if name.startswith("_"):
            continue
        annotation = written
        text = written.__forward_arg__ if isinstance(written, typing.ForwardRef) else written
        if isinstance(text, str):
            try:
                annotation = eval(text, vars(module) if module else {}, names)
            except Exception as error:
                raise TypeError(
                    f"the annotation of {cls.__qualname__}.{name} can't be evaluated ({error}): import what it names "
                    "at run time too, not only under TYPE_CHECKING"
                ) from error
        if annotation is not ClassVar and typing.get_origin(annotation) is not ClassVar:
            fields[name] = annotation
    return fields


def _calling_scope(module: str) -> Mapping[str, Any]:
    """Return the local names at the class statement, for classes that are defined within a function."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__") != module:
        frame = frame.f_back
    return frame.f_locals if frame is not None else {}


def _check_others(holder: type, annotations: Mapping[str, Any], fields: Mapping[str, Any], *, constants: bool) -> None:
    """Check the names of a class body that declare no field there; ``constants``: it may have values of any kind."""
    declared = _own_annotations(holder)
    for name, value in vars(holder).items():
        if name.startswith("_") or name in annotations or isinstance(value, FieldWithIterators):
            continue
        where = f"{holder.__qualname__}.{name}"
        if name in fields:
            raise TypeError(f"{where} hides the field of the same name of a base class: annotate it, or rename it")
        if not constants and name not in declared and not callable(value) and not isinstance(value, _DESCRIPTORS):
            kind = type(value).__name__
            raise TypeError(
                f"{where} has no annotation: write '{name}: {kind} = ...' for a field, '{name}: ClassVar[{kind}] = ...' "
                "for a constant of the class"
            )


def _check_name(cls: type, holder: type, name: str, fields: Mapping[str, Any], reserved: type) -> None:
    where = f"the field {name!r} of {holder.__qualname__}"
    value = vars(holder).get(name)
    defined_here = getattr(value, "__qualname__", None) == f"{holder.__qualname__}.{name}"
    if defined_here or isinstance(value, _DESCRIPTORS):
        raise TypeError(f"{where} has the name of a method: rename one of them")
    if hasattr(reserved, name):
        raise TypeError(f"{where} has a name that every state uses for itself: rename it")
    for other in cls.__mro__[cls.__mro__.index(holder) + 1 :]:
        if name in vars(other) and name not in fields and name not in _own_annotations(other):
            raise TypeError(f"{where} has the name of a method or attribute of {other.__qualname__}: rename it")
