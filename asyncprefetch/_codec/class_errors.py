"""The texts of errors about classes of iterators and states: a missing kind, an unknown keyword, a second definition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydantic import ValidationError

from asyncprefetch._codec import registry

# Base classes of these packages take no class keywords of their own.
_WITHOUT_KEYWORDS = {"builtins", "typing", "abc", "pydantic"}


def no_kind(cls: type) -> str:
    """Return the text for a class that has no kind and needs one."""
    return (
        f"{cls.__qualname__} has no kind of its own, so a checkpoint can't name it: declare "
        f"class {cls.__name__}(..., kind='package.name')"
    )


def no_upgrade(cls: type, state: type, from_version: int) -> str:
    """Return the text for a class that does not define ``upgrade()``."""
    kind = registry.kind_of(state)
    return (
        f"{cls.__qualname__} can't read version {from_version} of {kind.name if kind else 'its state'!r}: define "
        "upgrade(data, from_version)"
    )


def defined_twice(given: type, expected: type) -> str | None:
    """Return the text for an object that does not fit because its class was defined again; ``None``: it was not."""
    if not any(registry.is_same_definition(cls, expected) and cls is not expected for cls in given.__mro__):
        return None
    return (
        f"{_iterator_name(expected)} was defined twice, as by a notebook cell that ran again, and this object is not of the "
        "definition that the field names: define the class that has the field again, then make the objects again"
    )


def defined_after(cls: type) -> str:
    """Return the text for an object whose class was defined again after the object was made."""
    return (
        f"{_iterator_name(cls)} was defined again after this object was made, as by a notebook cell that ran twice: make "
        "the object again from the new class"
    )


def check_class_keywords(
    cls: type, base: type, given: Mapping[str, object], known: Sequence[str], config: Iterable[str] = ()
) -> None:
    """Refuse class keywords that neither ``base`` nor a base class after it takes.

    Args:
        cls: the class that is being defined.
        base: the class that takes the keywords.
        given: the keywords that ``base`` does not take.
        known: those that it takes.
        config: those that pydantic takes.

    Raises:
        TypeError: a keyword is unknown.
    """
    others = cls.__mro__[cls.__mro__.index(base) + 1 :]
    passed_on = any(
        "__init_subclass__" in vars(other) and other.__module__.partition(".")[0] not in _WITHOUT_KEYWORDS
        for other in others
    )
    if given and not passed_on:
        name, more = next(iter(given)), " and those of pydantic.ConfigDict" if config else ""
        raise TypeError(
            f"{cls.__qualname__} has the unknown class keyword {name!r}{_closest(name, [*known, *config])} The keywords "
            f"are {', '.join(known)}{more}"
        )


def unknown_field(cls: type, error: ValidationError, fields: Iterable[str]) -> str | None:
    """Return the text for the first unknown keyword of a constructor; ``None``: pydantic found no such error."""
    for found in error.errors(include_url=False, include_context=False, include_input=False):
        if found["type"] == "extra_forbidden" and len(found["loc"]) == 1:
            name, known = str(found["loc"][0]), list(fields)
            names = ", ".join(known)
            return f"{cls.__qualname__} has no field {name!r}{_closest(name, known)} Its fields are: {names or 'none'}"
    return None


def no_items(cls: type, made: object) -> str:
    """Return the text for a ``create_iter()`` that did not return an iterator."""
    if hasattr(made, "__await__") or hasattr(made, "__aiter__"):
        return (
            f"{cls.__qualname__}.create_iter() is asynchronous, and a worker has no event loop: write it with 'def' "
            "instead of 'async def', and read the data by blocking calls"
        )
    return (
        f"{cls.__qualname__}.create_iter() must return an iterator, not {made!r:.80}: use 'yield' in it, or end it with "
        "'return iter(...)'"
    )


def _iterator_name(cls: type) -> str:
    """Return the name of the class that the user wrote: a state's is ``Count.State``."""
    return cls.__qualname__.removesuffix(".State")


def _closest(name: str, known: Sequence[str]) -> str:
    """Return the end of a sentence about an unknown name."""
    # Not by difflib: importing it takes 2 ms, in each worker.
    distance, closest = min(((_distance(name, other), other) for other in known), default=(0, ""))
    return f"; did you mean {closest!r}?" if known and distance <= max(len(name), len(closest)) // 2 else "."


def _distance(a: str, b: str) -> int:
    """Return how many characters have to be added, removed or replaced to get from one text to the other."""
    row = list(range(len(b) + 1))
    for i, character in enumerate(a, 1):
        above, row = row, [i]
        for j, other in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (character != other)))
    return row[-1]
