"""The two abstract types of a pipeline: an iterator that can say where it is, and what it says."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from asyncprefetch import _codec
from asyncprefetch._codec import registry
from asyncprefetch.errors import CheckpointError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class _PositionMark:
    """Marks a field of a state as its position in the stream."""

    def __repr__(self) -> str:
        return "Position"


Position = Annotated[T, _PositionMark()]
"""``offset: Position[int]`` says that a field of a state tells *where* its iterator is.

Every other field is configuration: ``AsyncPrefetcherState.load(path, expect=pipeline)`` refuses a checkpoint whose
configuration differs from the pipeline's.
"""


def _validate(declared: type[IteratorState], value: Any, handler: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict) and value.get("$") == "state":
        value = _codec.decode(value, None)
    if isinstance(value, declared):
        return handler(value)
    if isinstance(value, IteratorState):
        if type(value) is not declared.__pydantic_generic_metadata__["origin"]:
            raise ValueError(f"a {type(value).__qualname__} is no {declared.__qualname__}")
        # A file names the generic class; the declaration says which parametrised form it is.
        value = {name: getattr(value, name) for name in type(value).model_fields}
    elif isinstance(value, dict) and registry.kind_of(declared) is None:
        raise ValueError(_no_kind(declared))
    return handler(value)


def _serialize(state: IteratorState) -> Any:
    return _codec.encode_state(state, None)


def _no_kind(cls: type[IteratorState]) -> str:
    return (
        f"{cls.__qualname__} has no kind of its own, so a checkpoint can't name it: declare "
        f"class {cls.__name__}(..., kind='package.name')"
    )


class IteratorState(BaseModel):
    """Where a :class:`StatefulIterator` is, as data: what comes after the item it yielded last.

    A subclass declares its fields, how a file names it, and how to build the iterator from it::

        class CountState(IteratorState, kind="mypackage.count", version=1, aliases=()):
            stop: int
            position: Position[int] = 0

            def build(self) -> "Count": ...

    The kind is not inherited: a subclass without one of its own is abstract, and making an instance is a
    ``TypeError``. A parametrised generic is written as the generic class it comes from. Fields may hold whatever an
    item of the stream may (see the README), other states among it, and any type that pydantic turns into JSON and back.
    """

    # By name: a checkpoint holds the names of fields, not their pydantic aliases.
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", arbitrary_types_allowed=True, populate_by_name=True)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse an abstract class, however the instance is made: by a call, a validator, pickle, or a copy."""
        if registry.kind_of(cls) is None:
            raise TypeError(_no_kind(cls))
        return super().__new__(cls)

    def __init_subclass__(
        cls, *, kind: object = None, version: object = 1, aliases: object = (), **kwargs: Any
    ) -> None:
        # Only takes the arguments off: the class is not complete before __pydantic_init_subclass__.
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(
        cls, *, kind: object = None, version: object = 1, aliases: object = (), **kwargs: Any
    ) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        origin = cls.__pydantic_generic_metadata__["origin"]
        if origin is not None:
            inherited = registry.kind_of(origin)
            if inherited is not None:
                registry.share_kind(cls, inherited)
        elif kind is not None:
            registry.register_kind(cls, kind, version, aliases)

    def build(self) -> StatefulIterator[Any]:
        """The iterator that goes on from here. Called inside a worker.

        Raises:
            NotImplementedError: the subclass does not say how.
        """
        raise NotImplementedError(f"{type(self).__qualname__} must define build()")

    @classmethod
    def upgrade(cls, data: dict[str, Any], from_version: int) -> dict[str, Any]:
        """The fields of a state that was written as ``from_version``, changed to fit this version.

        Called before unknown fields are refused. Override it when the version of a class grows.

        Raises:
            CheckpointError: the class does not say how.
        """
        kind = registry.kind_of(cls)
        raise CheckpointError(
            f"{cls.__qualname__} can't read version {from_version} of "
            f"{kind.name if kind else 'its state'!r}: define upgrade(data, from_version)"
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.__pydantic_generic_metadata__["origin"] is None:
            return super().__reduce_ex__(protocol)
        return _new_parametrised, (_described(type(self)),), self.__getstate__()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            partial(_validate, cls),
            handler(source),
            serialization=core_schema.plain_serializer_function_ser_schema(_serialize),
        )


@dataclass(frozen=True, slots=True)
class _Parametrised:
    """A parametrised class, which is no attribute of its module, in a form that pickle can carry."""

    origin: Any
    args: tuple[Any, ...]


def _described(argument: Any) -> Any:
    generic = getattr(argument, "__pydantic_generic_metadata__", None)
    if not generic or generic["origin"] is None:
        return argument
    return _Parametrised(generic["origin"], tuple(map(_described, generic["args"])))


def _found(description: Any) -> Any:
    if not isinstance(description, _Parametrised):
        return description
    return description.origin[tuple(map(_found, description.args))]


def _new_parametrised(description: _Parametrised) -> IteratorState:
    cls: type[IteratorState] = _found(description)
    return cls.__new__(cls)


class StatefulIterator(ABC, Generic[T_co]):
    """A synchronous iterator, run inside a worker, that can say at any item where it is.

    ``get_state()`` is called before the first item, while the iterator is suspended after a yield, and after the end.
    It describes exactly what comes after the item last yielded, and must not change when the iterator goes on. At the
    same item its positions are the same, however often the iterator was resumed on the way: iterators around it, which
    draw from it again when they are resumed, compare them to find out whether it still gives what it gave.
    """

    @abstractmethod
    def get_state(self) -> IteratorState:
        """Where the iterator is: the state from which everything that it has not yielded yet can be made again."""

    @abstractmethod
    def create_iter(self) -> Iterator[T_co]:
        """The items that are still to come. A second call goes on from where the first stopped."""


def is_position(field: FieldInfo) -> bool:
    """Whether a field of a state is marked as its position."""
    return any(isinstance(mark, _PositionMark) for mark in field.metadata)


def compare_configuration(saved: Any, given: Any, path: str) -> list[str]:
    """One line for each field, outside of positions, in which two states (or nests that hold states) differ."""
    if isinstance(saved, IteratorState) and isinstance(given, IteratorState):
        # Not by type: read from a file, a parametrised generic may be the class that it comes from.
        if registry.kind_of(type(saved)) is registry.kind_of(type(given)):
            return [
                line
                for name, field in type(saved).model_fields.items()
                if not is_position(field)
                for line in compare_configuration(getattr(saved, name), getattr(given, name), f"{path}.{name}")
            ]
    elif type(saved) is type(given):
        if isinstance(saved, list | tuple) and len(saved) == len(given):
            pairs = enumerate(zip(saved, given, strict=True))
            return [line for i, (a, b) in pairs for line in compare_configuration(a, b, f"{path}[{i}]")]
        if isinstance(saved, dict) and saved.keys() == given.keys():
            return [line for k in saved for line in compare_configuration(saved[k], given[k], f"{path}[{k!r}]")]
        if _same(saved, given):
            return []
    return [f"{path}: saved {_brief(saved)}, given {_brief(given)}"]


def _same(saved: Any, given: Any) -> bool:
    if isinstance(saved, np.ndarray):  # of whatever memory order
        same_kind = saved.dtype == given.dtype and saved.shape == given.shape
        return same_kind and _codec.raw_bytes(saved) == _codec.raw_bytes(given)
    try:
        # To the bit: == does not tell 1 from 1.0, nor find NaN equal, nor say anything of what holds arrays.
        texts = (json.dumps(_codec.encode(value, None), sort_keys=True) for value in (saved, given))
        return next(texts) == next(texts)
    except CheckpointError:
        return bool(saved == given)


def _brief(value: Any) -> str:
    return type(value).__qualname__ if isinstance(value, IteratorState) else _codec.brief(value)
