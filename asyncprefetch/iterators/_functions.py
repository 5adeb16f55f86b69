"""The functions that a pipeline applies, in a form that a state can hold and a checkpoint can name."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from asyncprefetch import _codec
from asyncprefetch._codec.registry import register, tag_of

_NUMBERS = {0: "without arguments", 1: "with one argument"}


@register("asyncprefetch.Partial")
@dataclass(frozen=True, slots=True)
class Partial:
    """A ``functools.partial`` in a form that a checkpoint can hold."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    keywords: dict[str, Any]

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Call the function with the held arguments, followed by those given."""
        return called(self)(*args, **keywords)


def named(function: Any, what: str, n_arguments: int = 1) -> Callable[..., Any]:
    """Return a function in the form in which a state holds it.

    Args:
        function: is registered by :func:`asyncprefetch.register`, or is a ``functools.partial`` of such a function with
            arguments that a checkpoint can hold, or an object of a registered class. An argument may be such a function
            too. The arguments are copied.
        what: its name in messages.
        n_arguments: number of arguments, 0 or 1, with which the pipeline calls it.

    Raises:
        TypeError: a checkpoint can't name the function or hold its arguments, or it can't be called with ``n_arguments``.
    """
    if not callable(function):
        raise TypeError(f"{what} must be a function, not {function!r:.80}: one to call {_NUMBERS[n_arguments]}")
    held = _convert(function, functools.partial, Partial)
    reason = _codec.explain_unsupported(held)
    if reason is not None:
        raise TypeError(f"{what}: {_why(held, reason)}")
    plain = _convert(held, Partial, _plain)
    if inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain):
        raise TypeError(f"{what} is asynchronous, and a worker awaits nothing: pass a plain function")
    try:
        inspect.signature(plain).bind(*[None] * n_arguments)
    except TypeError as error:
        raise TypeError(f"{what} must be callable {_NUMBERS[n_arguments]}: {error}") from None
    except ValueError as error:
        if isinstance(error.__cause__, TypeError):
            raise TypeError(f"{what} can't take the arguments that the partial binds: {error.__cause__}") from None
        # A built-in function without a signature: the first call shows whether the arguments fit.
    # The caller may change a list or an array that the partial binds. The state must not change with it.
    return copy.deepcopy(held) if isinstance(held, Partial) else held


def called(held: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function to call: a ``functools.partial`` is faster than what the state holds.

    It binds copies of the arguments, so that the state does not change if the function changes an argument.
    """
    return _convert(copy.deepcopy(held), Partial, _plain) if isinstance(held, Partial) else held


def described(held: Any) -> str:
    """Return the tag of a function that a state holds, and the arguments that it binds, for messages."""
    if not isinstance(held, Partial):
        return repr(tag_of(held) or tag_of(type(held)))
    bound = [*map(_codec.brief, held.args), *(f"{name}={_codec.brief(part)}" for name, part in held.keywords.items())]
    return f"{described(held.function)} with {', '.join(bound)}"


def _plain(function: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> Callable[..., Any]:
    return functools.partial(function, *args, **keywords)


def _convert(value: Any, cls: type, make: Callable[[Any, Any, Any], Any], depth: int = 0) -> Any:
    """Replace each partial of type ``cls``, also in other partials, lists, tuples and dicts, by what ``make`` returns."""
    if depth > _codec.MAX_DEPTH:  # a checkpoint can't hold it
        return value
    deeper = depth + 1
    if isinstance(value, cls):
        partial: Any = value
        function = partial.func if isinstance(partial, functools.partial) else partial.function
        return make(*(_convert(part, cls, make, deeper) for part in (function, partial.args, partial.keywords)))
    if type(value) in (list, tuple):
        return type(value)([_convert(part, cls, make, deeper) for part in value])
    if type(value) is dict:
        return {key: _convert(part, cls, make, deeper) for key, part in value.items()}
    return value


def _parts(held: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts in which a function may be, each with its path."""
    if isinstance(held, Partial):
        yield ".function", held.function
        yield ".args", held.args
        yield ".keywords", held.keywords
    elif type(held) in (list, tuple):
        yield from ((f"[{i}]", part) for i, part in enumerate(held))
    elif type(held) is dict:
        yield from ((f"[{key!r}]", part) for key, part in held.items())


def _why(held: Any, reason: str) -> str:
    """Return why a checkpoint can't hold a value, and what to do."""
    path = ""
    for _ in range(_codec.MAX_DEPTH):  # a list may hold itself
        reasons = ((step, part, _codec.explain_unsupported(part)) for step, part in _parts(held))
        culprit = next((each for each in reasons if each[2] is not None), None)
        if culprit is None:
            break
        path += culprit[0]
        held, reason = culprit[1], culprit[2] or ""
    where = f"{path.lstrip('.')}, which it binds: " if path.replace(".function", "") else ""
    if not callable(held) or tag_of(type(held)) is not None:
        itself = reason.removeprefix("item: ")
        return where + (itself if itself != reason else f"a checkpoint can't hold it ({reason})")
    name = getattr(held, "__qualname__", type(held).__qualname__)
    if inspect.ismethod(held):
        way = "write a function instead, bind the data it needs by functools.partial, and decorate it with"
    elif name.endswith("<lambda>"):
        way = "write it as a function at the top level of a module, and decorate that with"
    elif inspect.isfunction(held) or (inspect.isclass(held) and held.__module__ != "builtins"):
        way = "decorate it with"
    elif hasattr(held, "__qualname__"):
        way = "call it in a function of your own, and decorate that with"
    else:
        way = f"make its class {name} a dataclass, and decorate that with"
    return f"{where}{name} is not registered, so a checkpoint can't name it: {way} @asyncprefetch.register('your.tag')"
