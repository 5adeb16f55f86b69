"""What type checkers accept and reject of the one-class form. It is read by mypy and pyright, and imported by no test.

Every ``# type: ignore`` must be needed: both checkers report one that is not.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Generic, TypeVar, assert_type

from pydantic import Field

from asyncprefetch import AsyncPrefetcher, IteratorState, Position, StatefulIterator

T = TypeVar("T")


class Count(StatefulIterator[int], kind="tests.typing.count"):
    LIMIT: ClassVar[int] = 100

    stop: int
    position: Position[int] = 0

    def create_iter(self) -> Iterator[int]:
        while self.position < self.stop:
            self.position += 1
            yield self.position - 1


class Take(StatefulIterator[T], Generic[T], kind="tests.typing.take", version=2, aliases=("tests.typing.first",)):
    inner: StatefulIterator[T]
    n: int = Field(ge=0)
    taken: Position[int] = Field(default=0, ge=0)
    seen: Position[list[Any]] = Field(default_factory=list)

    def create_iter(self) -> Iterator[T]:
        for item in self.inner:
            self.taken += 1
            yield item

    def post_init(self) -> None:
        self._cache: dict[str, int] = {}

    @classmethod
    def upgrade(cls, data: dict[str, Any], from_version: int) -> dict[str, Any]:
        return data


class Mixture(StatefulIterator[T], Generic[T], kind="tests.typing.mixture"):
    named: dict[str, StatefulIterator[T]]
    others: list[StatefulIterator[T]] = []  # noqa: RUF012

    def create_iter(self) -> Iterator[T]:
        for iterator in (*self.named.values(), *self.others):
            yield from iterator


class Stepped(Count, kind="tests.typing.stepped"):
    step: int = 1


class Between(Count, kind="tests.typing.between"):
    def __init__(self, first: int, last: int) -> None:
        super().__init__(stop=last, position=first)


class State(IteratorState, kind="tests.typing.two"):
    position: Position[int] = 0

    def build(self) -> Two:
        return Two(self.position)


class Two(StatefulIterator[str]):
    def __init__(self, position: int) -> None:
        self._position = position

    def get_state(self) -> State:
        return State(position=self._position)

    def create_iter(self) -> Iterator[str]:
        yield "a"


class Three(Two, init=False):
    """Inherits its constructor."""


count = Count(stop=20)
assert_type(count.stop, int)
assert_type(count.position, int)
assert_type(count.get_state(), IteratorState)
assert_type(Count.State, type[IteratorState])
assert_type(list(count), list[int])
Count(stop=20, position=3)

take = Take(inner=count, n=3)
assert_type(take, Take[int])
assert_type(take.inner, StatefulIterator[int])
assert_type(next(iter(take)), int)
assert_type(next(take.create_iter()), int)
assert_type(take.taken, int)
Take[int](inner=take, n=1, taken=1, seen=[1])

assert_type(next(iter(Mixture(named={"a": count}, others=[take]))), int)
assert_type(Stepped(stop=3, step=2).step, int)
assert_type(Between(1, 2).stop, int)
assert_type(next(iter(Two(3))), str)
assert_type(Two(3).get_state(), State)
assert_type(Three(3).get_state(), State)
assert_type(AsyncPrefetcher(count), AsyncPrefetcher[int])
assert_type(AsyncPrefetcher([count, take]), AsyncPrefetcher[int])

Count()  # type: ignore[call-arg]
Count(20)  # type: ignore[call-arg]
Count(stop="many")  # type: ignore[arg-type]
Count(stop=1, begin=2)  # type: ignore[call-arg]
print(Count(stop=1).missing)  # type: ignore[attr-defined]
Count(stop=1).position = "two"  # type: ignore[assignment]
Take(inner=count)  # type: ignore[call-arg]
Take(inner=[1, 2], n=1)  # type: ignore[arg-type]
Take[str](inner=count, n=1)  # type: ignore[arg-type]
Mixture(named=[count])  # type: ignore[arg-type]
Between(first=1)  # type: ignore[call-arg]


class WrongKind(StatefulIterator[int], kind=3):  # type: ignore[arg-type]
    pass


class WrongItem(StatefulIterator[int], kind="tests.typing.wrong-item"):
    def create_iter(self) -> Iterator[str]:  # type: ignore[override]
        yield "a"
