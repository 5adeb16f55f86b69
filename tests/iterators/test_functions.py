"""The functions that a pipeline accepts, and the errors for all others."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from asyncprefetch import register
from tests.inside import called, named


@register("tests.functions.plain")
def plain(item: Any) -> Any:
    return item


@register("tests.functions.two")
def of_two(first: Any, second: Any) -> Any:
    return first, second


@register("tests.functions.none")
def of_none() -> None: ...


@register("tests.functions.coroutine")
async def coroutine(item: Any) -> Any: ...


def unknown(item: Any) -> Any: ...


@register("tests.functions.Adder")
@dataclass(frozen=True)
class Adder:
    n: int

    def __call__(self, item: int) -> int:
        return item + self.n

    def method(self, item: int) -> int:
        return item


class Unknown:
    def __call__(self, item: Any) -> Any: ...


def test_takes_a_registered_function_as_it_is() -> None:
    assert named(plain, "f") is plain
    assert called(plain) is plain


def test_takes_an_object_of_a_registered_class() -> None:
    assert called(named(Adder(3), "f"))(4) == 7


@pytest.mark.parametrize(
    "given", [functools.partial(of_two, 1), functools.partial(functools.partial(of_two, second=0), second=1)]
)
def test_what_it_holds_for_a_partial_is_called_as_that_would_be(given: Any) -> None:
    held = named(given, "f")
    assert held(5) == called(held)(5) == given(5)
    assert held == named(given, "f")


REGISTER = r"is not registered, so a checkpoint can't name it: %s @asyncprefetch.register\('your.tag'\)"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (unknown, "unknown " + REGISTER % "decorate it with"),
        (tuple, "tuple " + REGISTER % "call it in a function of your own, and decorate that with"),
        (lambda item: item, "<lambda> " + REGISTER % "write it as a function at the top level .*decorate that with"),
        (Adder(3).method, r"Adder.method " + REGISTER % "write a function instead, bind the data .* decorate it with"),
        ([].append, "list.append " + REGISTER % "call it in a function of your own, and decorate that with"),
        (Unknown(), "Unknown " + REGISTER % "make its class Unknown a dataclass, and decorate that with"),
        (functools.partial(unknown, 1), "unknown " + REGISTER % "decorate it with"),
        (
            functools.partial(of_two, threading.Lock()),
            r"a checkpoint can't hold an argument that it binds .*\.args\[0\]",
        ),
        (
            functools.partial(of_two, second={"a": object}),
            r"a checkpoint can't hold an argument that it binds .*'second'",
        ),
        (of_none, "must be callable with one argument: too many"),
        (of_two, "must be callable with one argument: missing"),
        (functools.partial(of_two, 1, 2), "must be callable with one argument: too many"),
        (coroutine, "is asynchronous"),
        (7, "must be a function of one argument, not 7"),
        (None, "must be a function of one argument, not None"),
    ],
)
def test_says_what_to_do_about_a_function_that_it_can_not_take(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"the function.*{message}"):
        named(given, "the function")
