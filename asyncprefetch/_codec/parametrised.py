"""How pickle carries instances of ``Model[int]``.

A parametrised pydantic class is not an attribute of its module, so pickle can't find it by name. The generic class and its
arguments can be found, so they travel instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Parametrised:
    """A parametrised class in a form that pickle can carry: the generic class and its arguments."""

    origin: Any
    args: tuple[Any, ...]


def describe(argument: Any) -> Any:
    """Return a :class:`Parametrised` for a parametrised pydantic class; return anything else as it is."""
    generic = getattr(argument, "__pydantic_generic_metadata__", None)
    if not generic or generic["origin"] is None:
        return argument
    return Parametrised(generic["origin"], tuple(map(describe, generic["args"])))


def new_instance(description: Parametrised) -> Any:
    """Return an empty instance of the described class. Pickle then sets its state."""
    cls = _find(description)
    return cls.__new__(cls)


def _find(description: Any) -> Any:
    if not isinstance(description, Parametrised):
        return description
    return description.origin[tuple(map(_find, description.args))]
