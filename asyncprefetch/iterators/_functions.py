"""The functions that a pipeline applies, in a form that a state can hold and a checkpoint can name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asyncprefetch import _codec
from asyncprefetch._codec.registry import register, tag_of


@register("asyncprefetch.Partial")
@dataclass(frozen=True, slots=True)
class Partial:
    """A ``functools.partial`` in a form that a checkpoint can hold."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    keywords: dict[str, Any]

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Call the function with the held arguments, followed by those given."""
        return self.function(*self.args, *args, **{**self.keywords, **keywords})


def named(function: Any, what: str) -> Callable[..., Any]:
    """Return a function in the form in which a state holds it.

    Args:
        function: takes one argument. It is registered by :func:`asyncprefetch.register`, or is a ``functools.partial`` of
            such a function with arguments that a checkpoint can hold, or an object of a registered class.
        what: its name in messages.

    Raises:
        TypeError: a checkpoint can't name the function, or it can't be called with one argument.
    """
    if not callable(function):
        raise TypeError(f"{what} must be a function of one argument, not {function!r:.80}")
    held = function
    if isinstance(function, functools.partial):
        held = Partial(function.func, function.args, function.keywords)
    reason = _codec.explain_unsupported(held)
    if reason is not None:
        raise TypeError(f"{what}: {_why(held, reason)}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{what} is asynchronous, and a worker awaits nothing: pass a plain function")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise TypeError(f"{what} must be callable with one argument: {error}") from None
    except ValueError:  # a built-in without a signature: the first call shows whether it fits
        pass
    return held  # type: ignore[no-any-return]


def called(held: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function to call for each item: a ``functools.partial`` is faster than what the state holds."""
    return functools.partial(held.function, *held.args, **held.keywords) if isinstance(held, Partial) else held


def _why(held: Any, reason: str) -> str:
    if tag_of(type(held)) is not None and not isinstance(held, Partial):
        return f"a checkpoint can't hold it ({reason})"
    if isinstance(held, Partial) and _codec.explain_unsupported(held.function) is None:
        return f"a checkpoint can't hold an argument that it binds ({reason})"
    function = held.function if isinstance(held, Partial) else held
    name = getattr(function, "__qualname__", type(function).__qualname__)
    if inspect.ismethod(function):
        way = "write a function instead, bind the data it needs by functools.partial, and decorate it with"
    elif name.endswith("<lambda>"):
        way = "write it as a function at the top level of a module, and decorate that with"
    elif inspect.isfunction(function):
        way = "decorate it with"
    elif hasattr(function, "__qualname__"):
        way = "call it in a function of your own, and decorate that with"
    else:
        way = f"make its class {name} a dataclass, and decorate that with"
    return f"{name} is not registered, so a checkpoint can't name it: {way} @asyncprefetch.register('your.tag')"
