"""The functions that a pipeline accepts, and the errors for all others."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from asyncprefetch import register
from tests.inside import called, decode, encode, named


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


def test_a_partial_within_a_partial_is_held_and_called_as_a_partial() -> None:
    inner = functools.partial(of_two, 1)
    held = named(functools.partial(of_two, {"a": [inner, (inner,)]}), "f")
    (bound, item) = decode(encode(held, None), None)(5), held(5)
    for given, last in (bound, item):
        assert last == 5
        for partial in (given["a"][0], given["a"][1][0]):
            assert isinstance(partial, functools.partial)
            assert partial(2) == (1, 2)


def test_what_a_state_holds_of_a_partial_never_changes() -> None:
    given = [1]
    held = named(functools.partial(of_two, given), "f")
    given.append(2)
    first, _ = called(held)(0)
    first.append(3)
    assert called(held)(0) == held(0) == ([1], 0)


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
            r"args\[0\], which it binds: a checkpoint can't hold a _thread.lock; use",
        ),
        (
            functools.partial(of_two, second={"a": object}),
            r"keywords\['second'\]\['a'\], which it binds: object is not registered.*: call it in a function of your own",
        ),
        (functools.partial(of_two, Unknown), r"args\[0\], which it binds: Unknown " + REGISTER % "decorate it with"),
        (
            functools.partial(of_two, second=[0, lambda: 1]),
            r"keywords\['second'\]\[1\], which it binds: .*<lambda> "
            + REGISTER % "write it as a function .* that with",
        ),
        (
            functools.partial(of_two, functools.partial(unknown, 1)),
            r"args\[0\].function, which it binds: unknown " + REGISTER % "decorate it with",
        ),
        (
            functools.partial(functools.partial(lambda a, b: a), 1),
            "<lambda> " + REGISTER % "write it as a function at the top level .*decorate that with",
        ),
        (functools.partial(of_two, 1, 2, 3), "can't take the arguments that the partial binds: too many"),
        (functools.partial(of_two, 1, third=3), "can't take the arguments that the partial binds: .*'third'"),
        (of_none, "must be callable with one argument: too many"),
        (of_two, "must be callable with one argument: missing"),
        (functools.partial(of_two, 1, 2), "must be callable with one argument: too many"),
        (coroutine, "is asynchronous"),
        (7, "must be a function, not 7: one to call with one argument"),
        (None, "must be a function, not None: one to call with one argument"),
    ],
)
def test_says_what_to_do_about_a_function_that_it_can_not_take(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"the function.*{message}"):
        named(given, "the function")


def test_refuses_a_list_that_holds_itself() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TypeError, match=r"the function: args\[0\].*, which it binds: .*nested deeper than"):
        named(functools.partial(of_two, endless), "the function")
