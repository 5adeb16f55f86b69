"""Where the annotation of a field holds iterators.

A state holds the states of these iterators. They are converted in both directions in lists, in tuples and in the values of
dicts. Pydantic converts iterators in other types too, as in the fields of a dataclass. There they would stay states, so such
an annotation is a ``TypeError`` when the class is defined.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, InstanceOf

# Values of these types hold no iterators: pydantic keeps functions, classes and literals as they are.
_NOT_CONVERTED = (Callable, type, typing.Literal)
_INSTANCE_OF: Any = InstanceOf  # type checkers take it for a type form
_UNIONS = (typing.Union, types.UnionType)


def holds_iterators(annotation: Any, iterators: type, states: type, where: str) -> bool:
    """Return whether a field with this annotation holds iterators, itself or within lists, tuples and the values of dicts.

    Args:
        annotation: of the field.
        iterators: the base class of iterators.
        states: the base class of states. A state holds no iterators.
        where: the field, for messages.

    Raises:
        TypeError: an iterator occurs within something else, or an inner part of the annotation is in quotes.
    """
    return _Search(iterators, states, where).found(annotation, None)


class _Search:
    def __init__(self, iterators: type, states: type, where: str) -> None:
        self._iterators, self._states, self._where = iterators, states, where
        self._followed: set[Any] = set()  # aliases and classes that may occur within themselves

    def found(self, annotation: Any, outer: str | None) -> bool:
        """Return whether iterators occur in an annotation.

        Args:
            annotation: a type, or a list of types.
            outer: the name of a type around it in which iterators can't be held.
        """
        origin, parts = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
        if isinstance(annotation, str | typing.ForwardRef):
            raise TypeError(
                f"{self._where}: put the whole annotation in quotes, and not only a part of it ({annotation!r})"
            )
        if any(origin is each for each in _NOT_CONVERTED):
            return False
        if isinstance(annotation, list):  # the value of a ParamSpec
            parts = tuple(annotation)
        elif isinstance(annotation, TypeVar):
            parts = self._values_of(annotation)
        elif hasattr(annotation, "__supertype__"):  # a NewType
            parts = (annotation.__supertype__,)
        elif origin is Annotated:
            parts = parts[:1]
            if any(isinstance(mark, _INSTANCE_OF) for mark in annotation.__metadata__):
                outer = outer or "InstanceOf"  # it takes the iterator itself and refuses its state
        elif hasattr(origin, "__type_params__") and hasattr(origin, "__value__"):
            parts = self._value_of_alias(origin, parts, outer)
        elif isinstance(origin, type) and origin not in _UNIONS:
            return self._found_in_class(annotation, origin, parts, outer)
        elif origin not in _UNIONS:
            outer = outer or str(annotation)
        return self._any(parts, outer)

    def _any(self, annotations: Iterable[Any], outer: str | None) -> bool:
        return True in [self.found(each, outer) for each in annotations]  # look at all: each may be an error

    def _found_in_class(self, annotation: Any, cls: type, parts: Sequence[Any], outer: str | None) -> bool:
        if issubclass(cls, self._iterators):
            if outer is not None:
                raise TypeError(f"{self._where}: iterators can be held in lists, tuples and dicts, not in {outer}")
            return True
        if issubclass(cls, self._states):
            return False
        if cls is dict and parts:
            self.found(parts[0], outer or f"the keys of {annotation}")
            return self.found(parts[1], outer)
        if cls not in (list, tuple):
            outer = outer or (cls.__qualname__ if annotation is cls else str(annotation))
            parts = [*parts, *self._types_of_fields(cls)]
        return self._any(parts, outer)

    def _types_of_fields(self, cls: type) -> Iterable[Any]:
        """Return the annotations in a dataclass, a named tuple, a TypedDict or a pydantic model."""
        if cls in self._followed:
            return ()
        self._followed.add(cls)
        if issubclass(cls, BaseModel):
            return [field.annotation for field in cls.model_fields.values()]
        is_typed_dict = issubclass(cls, dict) and hasattr(cls, "__total__")
        is_named_tuple = issubclass(cls, tuple) and hasattr(cls, "_fields")
        if not (dataclasses.is_dataclass(cls) or is_typed_dict or is_named_tuple):
            return ()
        try:
            return typing.get_type_hints(cls, include_extras=True).values()
        except NameError:  # pydantic reports what it can't evaluate either
            return ()

    def _value_of_alias(self, alias: Any, given: tuple[Any, ...], outer: str | None) -> tuple[Any, ...]:
        """Return the value of an alias that a ``type`` statement made, with the types that are given for its parameters."""
        key = (id(alias), str(given), outer is None)
        if key in self._followed:
            return ()
        self._followed.add(key)
        value = self._evaluated(alias, alias.__value__)
        types_given = dict(zip(alias.__type_params__, given, strict=False))
        if isinstance(value, TypeVar):
            return (types_given.get(value, value),)
        parameters = getattr(value, "__parameters__", ())
        if types_given and parameters:
            value = value[tuple(types_given.get(each, each) for each in parameters)]
        return (value,)

    def _values_of(self, variable: Any) -> tuple[Any, ...]:
        """Return the types for which a type variable stands."""
        values = (*variable.__constraints__, variable.__bound__, getattr(variable, "__default__", None))
        return tuple(self._evaluated(variable, value) for value in values if value is not None)

    def _evaluated(self, owner: Any, value: Any) -> Any:
        """Return the value of an alias, or the bound of a type variable, which may be in quotes."""
        text = value.__forward_arg__ if isinstance(value, typing.ForwardRef) else value
        if not isinstance(text, str):
            return value
        try:
            return eval(text, vars(sys.modules[owner.__module__]))
        except NameError as error:
            raise TypeError(
                f"{self._where}: {owner.__name__} can't be evaluated ({error}): define what it names in its module, and "
                "import it at run time too"
            ) from error
