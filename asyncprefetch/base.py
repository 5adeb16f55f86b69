"""The two abstract types of a pipeline: an iterator that can say where it is, and what it says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, SerializationInfo
from pydantic_core import CoreSchema, core_schema

from asyncprefetch import _items, _registry
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
        value = _items.decode(value, None)
        if not isinstance(value, declared) and isinstance(value, BaseModel):
            origin = declared.__pydantic_generic_metadata__["origin"]
            if origin is None or type(value) is not origin:
                raise ValueError(f"a {type(value).__qualname__} is no {declared.__qualname__}")
            # The file names the generic class; the declaration says which parametrised form it is.
            value = {name: getattr(value, name) for name in type(value).model_fields}
    if not isinstance(value, declared) and _registry.kind_of(declared) is None:
        raise TypeError(
            f"{declared.__qualname__} has no kind of its own, so a checkpoint can't name it: declare "
            f"class {declared.__name__}(..., kind='package.name')"
        )
    return handler(value)


def _serialize(state: IteratorState, info: SerializationInfo) -> Any:
    return _items.encode_state(state, None)


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

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

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
            inherited = _registry.kind_of(origin)
            if inherited is not None:
                _registry.share_kind(cls, inherited)
        elif kind is not None:
            _registry.register_kind(cls, kind, version, aliases)

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
        kind = _registry.kind_of(cls)
        raise CheckpointError(
            f"{cls.__qualname__} can't read version {from_version} of "
            f"{kind.name if kind else 'its state'!r}: define upgrade(data, from_version)"
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        generic = self.__pydantic_generic_metadata__
        if generic["origin"] is None:
            return super().__reduce_ex__(protocol)
        # A parametrised class is no attribute of its module, so pickle can't find it by name.
        return _new_parametrised, (generic["origin"], generic["args"]), self.__getstate__()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            partial(_validate, cls),
            handler(source),
            serialization=core_schema.plain_serializer_function_ser_schema(_serialize, info_arg=True),
        )


def _new_parametrised(origin: Any, args: tuple[Any, ...]) -> IteratorState:
    cls: type[IteratorState] = origin[args]
    return cls.__new__(cls)


class StatefulIterator(ABC, Generic[T_co]):
    """A synchronous iterator, run inside a worker, that can say at any item where it is.

    ``get_state()`` is called before the first item, while the iterator is suspended after a yield, and after the end.
    It describes exactly what comes after the item last yielded, and must not change when the iterator goes on.
    """

    @abstractmethod
    def get_state(self) -> IteratorState:
        """Where the iterator is: the state from which everything that it has not yielded yet can be made again."""

    @abstractmethod
    def create_iter(self) -> Iterator[T_co]:
        """The items that are still to come. A second call goes on from where the first stopped."""


def compare_configuration(saved: Any, given: Any, path: str) -> list[str]:
    """One line for each field, outside of positions, in which two states (or nests that hold states) differ."""
    if isinstance(saved, IteratorState) and type(saved) is type(given):
        return [
            line
            for name, field in type(saved).model_fields.items()
            if not any(isinstance(mark, _PositionMark) for mark in field.metadata)
            for line in compare_configuration(getattr(saved, name), getattr(given, name), f"{path}.{name}")
        ]
    if isinstance(saved, list | tuple) and type(saved) is type(given) and len(saved) == len(given):
        return [
            line
            for i, (a, b) in enumerate(zip(saved, given, strict=True))
            for line in compare_configuration(a, b, f"{path}[{i}]")
        ]
    if isinstance(saved, dict) and isinstance(given, dict) and saved.keys() == given.keys():
        return [line for k in saved for line in compare_configuration(saved[k], given[k], f"{path}[{k!r}]")]
    if isinstance(saved, np.ndarray) and isinstance(given, np.ndarray):
        same = saved.dtype == given.dtype and np.array_equal(saved, given)
    else:
        same = type(saved) is type(given) and bool(saved == given)
    return [] if same else [f"{path}: saved {_brief(saved)}, given {_brief(given)}"]


def _brief(value: Any) -> str:
    if isinstance(value, IteratorState):
        return type(value).__qualname__
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
