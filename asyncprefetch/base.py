"""The two abstract types of a pipeline: an iterator that can be stopped at any item, and its state.

An iterator is written in one of two forms. In the *one-class form* the annotated fields of a ``StatefulIterator`` with a
``kind`` are its state, and the state class is made from them. In the *two-class form* the author writes the
``IteratorState`` too, and converts between the two in ``get_state()`` and ``build()``.
"""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from functools import partial
from operator import methodcaller
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Self, TypeVar, dataclass_transform

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError, create_model
from pydantic_core import CoreSchema, core_schema

from asyncprefetch import _codec
from asyncprefetch._codec import class_errors, registry
from asyncprefetch._codec.field_types import holds_iterators
from asyncprefetch._codec.field_values import FieldWithIterators, copied_field, read_without_building
from asyncprefetch._codec.fields import is_cached_property, read_fields
from asyncprefetch._codec.parametrised import describe, new_instance
from asyncprefetch._codec.positions import Position, compare_configuration, is_position
from asyncprefetch._codec.program import is_worker
from asyncprefetch.errors import CheckpointError

__all__ = ["IteratorState", "Position", "StatefulIterator", "compare_configuration", "is_position"]

T_co = TypeVar("T_co", covariant=True)
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_state_of = methodcaller("get_state")


def _validate(declared: type[IteratorState], value: Any, handler: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict) and value.get("$") == "state":
        value = _codec.decode(value, None)
    if isinstance(value, declared):
        return handler(value)
    if isinstance(value, IteratorState):
        origin = declared.__pydantic_generic_metadata__["origin"]
        if type(value) is not origin:
            wrong = f"a {type(value).__qualname__} is not a {declared.__qualname__}"
            raise ValueError(class_errors.defined_twice(type(value), origin or declared) or wrong)
        # A file names the generic class; the declaration says which parametrised form it is.
        value = {name: getattr(value, name) for name in type(value).model_fields}
    elif isinstance(value, dict) and registry.kind_of(declared) is None:
        raise ValueError(class_errors.no_kind(declared))
    return handler(value)


def _serialize(state: IteratorState) -> Any:
    return _codec.encode_state(state, None)


class IteratorState(BaseModel):
    """The position and the configuration of a :class:`StatefulIterator`, as data. It determines all further items.

    A subclass declares its fields, the kind by which a checkpoint names it, and how to build the iterator::

        class CountState(IteratorState, kind="mypackage.count", version=1, aliases=()):
            stop: int
            position: Position[int] = 0

            def build(self) -> "Count": ...

    The kind is not inherited. A subclass without its own kind is abstract; making an instance raises ``TypeError``. A
    parametrised generic class is written as the generic class. Fields may hold the same values as items of the stream,
    other states, and any type that pydantic converts to JSON and back.
    """

    # By name: a checkpoint holds the names of fields, not their pydantic aliases. Building a validator takes milliseconds a
    # class and loads pydantic's plugins, and a worker seldom validates a state.
    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, populate_by_name=True, defer_build=is_worker()
    )

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse an abstract class, for calls, validation, pickle and copies alike."""
        if registry.kind_of(cls) is None:
            raise TypeError(class_errors.no_kind(cls))
        return super().__new__(cls)

    def __init_subclass__(
        cls, *, kind: object = None, version: object = 1, aliases: object = (), **kwargs: Any
    ) -> None:
        # The kind is registered in __pydantic_init_subclass__: the class is not complete before.
        known, config = ("kind", "version", "aliases"), ConfigDict.__annotations__
        class_errors.check_class_keywords(cls, IteratorState, kwargs, known, config)
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
        """Return the iterator that continues from this state. Called inside a worker.

        Raises:
            NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError(f"{type(self).__qualname__} must define build()")

    @classmethod
    def upgrade(cls, data: dict[str, Any], from_version: int) -> dict[str, Any]:
        """Return the fields of a state that was written as ``from_version``, changed to fit this version.

        Called before unknown fields are refused. Override it when you raise the version of a class.

        Raises:
            CheckpointError: the class does not override it.
        """
        raise CheckpointError(class_errors.no_upgrade(cls, cls, from_version))

    def __reduce_ex__(self, protocol: Any) -> Any:
        if registry.was_defined_again(type(self)):
            raise pickle.PicklingError(class_errors.defined_after(type(self)))
        if self.__pydantic_generic_metadata__["origin"] is None:
            return super().__reduce_ex__(protocol)
        return new_instance, (describe(type(self)),), self.__getstate__()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            partial(_validate, cls),
            handler(source),
            serialization=core_schema.plain_serializer_function_ser_schema(_serialize),
        )


class _FieldsState(IteratorState, frozen=True, validate_default=True):
    """The state of an iterator in the one-class form: each such class has a subclass of this one, ``Count.State``."""

    _iterator: ClassVar[type[StatefulIterator[Any]]]
    _built: ClassVar[frozenset[str]]
    """The names of fields with iterators: the iterator holds iterators there, and the state holds their states."""

    def __repr_name__(self) -> str:
        return type(self).__qualname__

    def build(self) -> StatefulIterator[Any]:
        """Return the iterator that continues from this state."""
        iterator = self._iterator.__new__(self._iterator)
        _fill(iterator, self)
        return iterator

    @classmethod
    def upgrade(cls, data: dict[str, Any], from_version: int) -> dict[str, Any]:
        """Return the fields as :meth:`StatefulIterator.upgrade` changes them."""
        return cls._iterator.upgrade(data, from_version)


@dataclass_transform(eq_default=False, kw_only_default=True, field_specifiers=(Field,))
class StatefulIterator(ABC, Generic[T_co]):
    """A synchronous iterator that can be stopped at any item and continued exactly. It runs inside a worker.

    In the one-class form the class has a ``kind``, and its annotated fields are its state::

        class Count(StatefulIterator[int], kind="mypackage.count", version=1, aliases=()):
            stop: int
            position: Position[int] = 0

            def create_iter(self) -> Iterator[int]:
                while self.position < self.stop:
                    self.position += 1
                    yield self.position - 1

    ``Count(stop=20)`` validates its arguments as a pydantic model does. The class ``Count.State``, ``get_state()`` and
    ``Count.State.build()`` are made from the fields. The iterator owns its fields: values are copied into it and into each
    state. If a field is given an iterator, it holds a new one, built from that iterator's state when the field is first
    read. Names that begin with an underscore and ``ClassVar`` are not fields. The kind is not inherited; fields are.

    In the two-class form the class has no kind, and defines ``get_state()``, which returns a state of a class of its own.
    Type checkers expect a constructor made from fields for every subclass that defines none: declare a subclass that
    inherits its ``__init__`` with ``init=False``, which does nothing else.
    """

    State: ClassVar[type[IteratorState]]
    """The state class of an iterator in the one-class form."""

    _unbuilt: Mapping[str, Any] = _NOTHING
    """By name of a field with iterators that was not read yet: their states."""

    def __init_subclass__(
        cls,
        *,
        kind: str | None = None,
        version: int = 1,
        aliases: tuple[str, ...] | list[str] = (),
        init: bool = True,
        **kwargs: Any,
    ) -> None:
        class_errors.check_class_keywords(cls, StatefulIterator, kwargs, ("kind", "version", "aliases", "init"))
        super().__init_subclass__(**kwargs)
        if kind is not None:
            _make_state(cls, kind, version, aliases)
        elif version != 1 or aliases:
            raise TypeError(f"{cls.__qualname__}: version and aliases belong to a kind: give kind='package.name' too")

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse a class that neither has a kind of its own nor defines ``get_state()``."""
        self = super().__new__(cls)
        for base in cls.__mro__:
            if _fields_state(base) is not None and base is not cls:
                raise TypeError(class_errors.no_kind(cls))
            if base is StatefulIterator:
                raise TypeError(f"{class_errors.no_kind(cls)}, or define get_state()")
            if _fields_state(base) is not None or "get_state" in vars(base):
                break
        return self

    def __init__(self, /, *positional: Any, **fields: Any) -> None:
        """Set the fields of the one-class form, then call :meth:`post_init`.

        A class may define an ``__init__`` with arguments of its own. That one must call ``super().__init__(field=...)``.
        ``State.build()`` does not call it.

        Raises:
            TypeError: a field was given by position, is unknown, or has a value that can't be copied.
            ValueError: a field is missing, or its value does not fit (``pydantic.ValidationError``).
        """
        cls = type(self)
        state = _nearest_state(cls)
        if state is None:
            super().__init__(*positional, **fields)  # the two-class form: another base class may take them
            return
        if positional:
            usage = ", ".join(f"{name}=..." for name in state.model_fields)
            raise TypeError(f"{cls.__qualname__} takes its fields by keyword: {cls.__qualname__}({usage})")
        try:
            given = state(**fields)
        except ValidationError as error:
            if unknown := class_errors.unknown_field(cls, error, state.model_fields):
                raise TypeError(unknown) from None
            raise
        _fill(self, given)

    def get_state(self) -> IteratorState:
        """Return the state from which all items that were not yielded yet can be made again.

        It is called before the first item, while the iterator is suspended after a yield, and after the end. The state
        describes exactly what comes after the item last yielded, and must not change when the iterator advances. At the
        same item the positions must be the same, no matter how often the iterator was resumed before: iterators around
        it that draw again on resume compare them, to detect that the data has changed.

        In the one-class form it copies the fields. Override it there only to set fields first, and return
        ``super().get_state()``.

        Raises:
            AttributeError: one-class form: a field has no value.
            TypeError: one-class form: the value of a field can't be copied.
            ValueError: one-class form: the value of a field does not fit its annotation.
        """
        state = _nearest_state(type(self))
        if state is None:
            raise TypeError(f"{class_errors.no_kind(type(self))}, or define get_state()")
        values = {}
        for name in state.model_fields:
            replaced = StatefulIterator if name in state._built else ()
            values[name] = copied_field(self, name, read_without_building(self, name), replaced, _state_of)
        return state(**values)

    @abstractmethod
    def create_iter(self) -> Iterator[T_co]:
        """Return an iterator over the items that were not yielded yet. A second call continues where the first stopped."""

    def __iter__(self) -> Iterator[T_co]:
        """Return an iterator over the items that were not yielded yet: that of :meth:`create_iter`.

        Raises:
            TypeError: ``create_iter()`` is asynchronous, or did not return an iterator.
        """
        return iterate(self)

    def post_init(self) -> None:
        """Called in the one-class form when the fields are set: after construction and after ``State.build()``.

        Override it to check fields together, and to make what is not data: open files, caches, generators.
        """

    @classmethod
    def upgrade(cls, data: dict[str, Any], from_version: int) -> dict[str, Any]:
        """Return the fields of a state that was written as ``from_version``, changed to fit this version.

        Called in the one-class form before unknown fields are refused. Override it when you raise the version of a class.

        Raises:
            CheckpointError: the class does not override it.
        """
        raise CheckpointError(class_errors.no_upgrade(cls, cls.State, from_version))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """For a field that is an iterator, a state holds the state of that iterator."""
        state = _fields_state(cls) or IteratorState
        return core_schema.no_info_before_validator_function(partial(_state_given, cls), handler.generate_schema(state))


def _make_state(cls: Any, kind: str, version: int, aliases: tuple[str, ...] | list[str]) -> None:
    """Give the class in the one-class form its ``State``."""
    fields: dict[str, Any] = read_fields(cls, StatefulIterator, reserved=_FieldsState)
    if "State" in vars(cls) or "State" in fields:
        raise TypeError(f"{cls.__qualname__}.State can't be defined beside a kind: it is made from the fields")
    state = create_model(
        "State", __base__=_FieldsState, __module__=cls.__module__, __cls_kwargs__={"title": cls.__qualname__}, **fields
    )
    state.__qualname__ = f"{cls.__qualname__}.State"
    state.__doc__ = f"The state of a ``{cls.__qualname__}``."
    state._iterator = cls
    state._built = frozenset(
        name
        for name, (annotation, _) in fields.items()
        if holds_iterators(annotation, StatefulIterator, IteratorState, f"{cls.__qualname__}.{name}")
    )
    registry.register_kind(state, kind, version, aliases)
    for name in state._built:
        setattr(cls, name, FieldWithIterators(name, fields[name][1], IteratorState))
    cls.State = state


def _fields_state(cls: type) -> type[_FieldsState] | None:
    """The state that was made from the fields of exactly this class. ``State`` may also be borrowed, or anything else."""
    state: Any = vars(cls).get("State")
    return state if getattr(state, "_iterator", None) is cls else None


def _nearest_state(cls: type) -> type[_FieldsState] | None:
    """The state that was made from the fields of a class or of the nearest base class that has one."""
    for base in cls.__mro__:
        if (state := _fields_state(base)) is not None:
            return state
    return None


def _fill(iterator: StatefulIterator[Any], state: _FieldsState) -> None:
    """Set the fields to copies of what the state holds. Iterators are built when their field is first read."""
    unbuilt: dict[str, Any] = {}
    for name in type(state).model_fields:
        value = getattr(state, name)
        if name in state._built:
            unbuilt[name] = copied_field(iterator, name, value, IteratorState)
        else:
            setattr(iterator, name, copied_field(iterator, name, value))
    if unbuilt:
        iterator._unbuilt = unbuilt
    iterator.post_init()


def _state_given(declared: type[StatefulIterator[Any]], value: Any) -> Any:
    if isinstance(value, declared):
        return value.get_state()
    if not isinstance(value, IteratorState | dict):
        wrong = f"must be a {declared.__qualname__}, not {_codec.brief(value)}"
        raise ValueError(class_errors.defined_twice(type(value), declared) or wrong)
    return value


def iterate(iterator: StatefulIterator[T_co]) -> Iterator[T_co]:
    """Return the iterator that ``create_iter()`` returns.

    Raises:
        TypeError: ``create_iter()`` is asynchronous, or did not return an iterator.
    """
    made = iterator.create_iter()
    if isinstance(made, Iterable):
        return iter(made)
    if isinstance(made, Coroutine):
        made.close()  # otherwise Python warns that it was never awaited
    raise TypeError(class_errors.no_items(type(iterator), made))


def find_forgotten(iterator: StatefulIterator[Any]) -> list[str]:
    """Return the public attributes of an iterator in the one-class form that are not fields: no state holds them."""
    cls = type(iterator)
    state = _fields_state(cls)
    if state is None:
        return []
    names = [name for name in vars(iterator) if not name.startswith("_") and name not in state.model_fields]
    return [name for name in names if not is_cached_property(cls, name)]
