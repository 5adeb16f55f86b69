"""A weighted mixture of streams."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from numbers import Real
from typing import Any, Literal, Self, TypeVar, get_args

import numpy as np
from pydantic import NonNegativeInt, model_validator

from asyncprefetch.base import IteratorState, Position, StatefulIterator
from asyncprefetch.iterators._random import Seed, uniforms
from asyncprefetch.iterators._stage import state_of
from asyncprefetch.iterators.looping import LoopingIterator

T = TypeVar("T")

OnExhausted = Literal["stop", "drop", "restart"]

_CHUNK = 1024
"""Draws whose random numbers are made at once. Changing it changes every mixture."""


class SamplingState(IteratorState, kind="asyncprefetch.sampling", frozen=True):
    """The state of each source, and how many draws there were. All tuples have the order in which the sources were given.

    ``zip(state.names, state.weights, state.drawn)`` shows for each source its weight and how many items it contributed.

    Attributes:
        names: the names of the sources.
        weights: their weights.
        sources: their states. With ``on_exhausted="restart"`` they are states of a :class:`LoopingIterator`, whose ``epoch``
            is how often a source was restarted.
        seed: the seed of the draws.
        on_exhausted: what happens at the end of a source.
        draws: the number of draws: one for each item, and one for each source that turned out to have ended.
        drawn: how many items each source contributed.
        ended: which sources have ended.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    sources: tuple[IteratorState, ...]
    seed: Seed
    on_exhausted: OnExhausted
    draws: Position[NonNegativeInt] = 0
    drawn: Position[tuple[NonNegativeInt, ...]]
    ended: Position[tuple[bool, ...]]

    @model_validator(mode="after")
    def _check(self) -> Self:
        count = len(self.names)
        if not all(len(part) == count for part in (self.weights, self.sources, self.drawn, self.ended)):
            raise ValueError(f"{count} names, but a different number of weights, sources, or counts")
        # A file with such weights would make a stream that ends at once, or a different mixture.
        if not (all(weight >= 0 for weight in self.weights) and 0 < sum(self.weights) < math.inf):
            raise ValueError(f"weights {self.weights!r:.200} are not finite, below 0, or all 0")
        return self

    def build(self) -> SamplingIterator[Any]:
        """Return the iterator that continues with the next draw."""
        iterator: SamplingIterator[Any] = SamplingIterator.__new__(SamplingIterator)
        iterator._resume(self)
        return iterator


class SamplingIterator(StatefulIterator[T]):
    """Draws each item from one of several sources, chosen at random by the weights.

    The source of the ``k``-th draw is a function of the seed, of ``k``, of the weights in the order of ``sources``, and of
    which sources have ended. It is the same on every platform and does not depend on the items.

    A source ends when it is chosen and has no further item. ``on_exhausted`` says what happens then:

    - ``"stop"``: the mixture ends too;
    - ``"drop"``: it continues with the others, in the proportion of their weights, until all have ended;
    - ``"restart"``: the source restarts from the state that it had when it was given, and the mixture has no end.

    Args:
        sources: the iterators by name. Only their states are used; the objects themselves are not advanced.
        weights: a number for each name, from 0. Only the proportions count. A source of weight 0 is never drawn from, even
            when all others have ended.
        seed: an integer from 0, below 2**64.
        on_exhausted: ``"stop"``, ``"drop"`` or ``"restart"``.

    Raises:
        TypeError: a source is not a stateful iterator, a name is not a string, or a weight is not a number.
        ValueError: there are no sources; sources and weights have different names; a weight is negative or not finite, or
            all are zero; ``seed`` or ``on_exhausted`` is not as described.
    """

    def __init__(
        self,
        sources: Mapping[str, StatefulIterator[T]],
        weights: Mapping[str, float],
        *,
        seed: int = 0,
        on_exhausted: OnExhausted = "stop",
    ) -> None:
        checked = _checked_weights(sources, weights)
        if on_exhausted not in get_args(OnExhausted):
            raise ValueError(f"on_exhausted must be 'stop', 'drop' or 'restart', not {on_exhausted!r:.80}")
        states: list[IteratorState] = []
        for name, source in sources.items():
            state = state_of(source, f"SamplingIterator's source {name!r}")
            states.append(LoopingIterator(source).get_state() if on_exhausted == "restart" else state)
        self._resume(
            SamplingState(
                names=tuple(sources),
                weights=checked,
                sources=tuple(states),
                seed=seed,
                on_exhausted=on_exhausted,
                drawn=(0,) * len(states),
                ended=(False,) * len(states),
            )
        )

    def _resume(self, state: SamplingState) -> None:
        self._state = state  # an earlier one; a source's state in it is current where ``drawn`` and ``ended`` are
        self._inner: list[StatefulIterator[T] | None] = [None] * len(state.names)
        self._draws = state.draws
        self._drawn, self._ended = list(state.drawn), list(state.ended)

    def get_state(self) -> SamplingState:
        """Return the number of draws and the state of each source."""
        last = self._state
        drawn, ended = tuple(self._drawn), tuple(self._ended)
        if drawn != last.drawn or ended != last.ended:
            # A source that contributed nothing since the last time has the same state.
            sources = tuple(
                known if inner is None or (now, over) == before else inner.get_state()
                for known, inner, now, over, before in zip(
                    last.sources, self._inner, drawn, ended, zip(last.drawn, last.ended, strict=True), strict=True
                )
            )
            update = {"sources": sources, "draws": self._draws, "drawn": drawn, "ended": ended}
            self._state = last.model_copy(update=update)
        return self._state

    def create_iter(self) -> Iterator[T]:
        """Return an iterator over the items that were not yielded yet.

        Raises:
            ValueError: with ``on_exhausted="restart"``, a source has no items at all.
        """
        items = [self._begin(i) for i in range(len(self._drawn))]
        drawn, stop = self._drawn, self._state.on_exhausted == "stop"
        while not (stop and any(self._ended)) and any(self._alive()):
            for chosen in self._chosen():
                try:
                    item = next(items[chosen])
                except StopIteration:
                    self._ended[chosen] = True
                    self._draws += 1
                    break
                except Exception as error:
                    error.add_note(f"raised in source {self._state.names[chosen]!r} of a SamplingIterator")
                    raise
                # Count before the yield: at the yield, the state is the one after this item.
                self._draws += 1
                drawn[chosen] += 1
                yield item

    def _begin(self, i: int) -> Iterator[T]:
        """Return an iterator over the rest of a source. A source that can't be drawn from is not built."""
        if not self._alive()[i]:
            return iter(())
        inner = self._inner[i]
        if inner is None:
            inner = self._inner[i] = self._state.sources[i].build()
        return iter(inner)

    def _alive(self) -> list[float]:
        """Return the weights of the sources, 0 for those that have ended."""
        return [0.0 if over else weight for weight, over in zip(self._state.weights, self._ended, strict=True)]

    def _chosen(self) -> list[int]:
        """Return the source of each draw from here to the end of the chunk, valid until a source ends."""
        chunk, offset = divmod(self._draws, _CHUNK)
        bounds = _bounds(self._alive())
        # Choose the first bound above the number; the last bound is 1, and the number is below 1. A source of weight 0 has
        # the same bound as the source before it, or 0, so it is never chosen.
        chosen = np.searchsorted(bounds, uniforms(self._state.seed, chunk, _CHUNK)[offset:], side="right")
        return chosen.tolist()  # type: ignore[no-any-return]


def _bounds(weights: Sequence[float]) -> list[float]:
    """Return the upper bound of each source's share of [0, 1). Sums are taken in a fixed order, so every bit is defined."""
    sums = list(accumulate(weights))
    return [total / sums[-1] for total in sums]


def _checked_weights(sources: Mapping[str, Any], weights: Mapping[str, Any]) -> tuple[float, ...]:
    for what, given in (("sources", sources), ("weights", weights)):
        if not isinstance(given, Mapping):
            raise TypeError(f"SamplingIterator's {what} must be a mapping by name, not {given!r:.80}")
        for name in given:
            if not isinstance(name, str):
                raise TypeError(f"SamplingIterator's {what} are named by strings, not {name!r:.80}")
    if not sources:
        raise ValueError("SamplingIterator has no sources: give at least one")
    differing = [
        f"{', '.join(map(repr, sorted(names)))} {which}"
        for names, which in (
            (sources.keys() - weights.keys(), "without a weight"),
            (weights.keys() - sources.keys(), "with a weight, but no source"),
        )
        if names
    ]
    if differing:
        raise ValueError(f"sources and weights must have the same names; got {' and '.join(differing)}")
    checked = tuple(_checked_weight(name, weights[name]) for name in sources)
    if not any(checked):
        raise ValueError("all weights are zero: at least one source must have a weight above 0")
    if not math.isfinite(sum(checked)):
        raise ValueError("the weights are too large to be added up: only their proportion counts, so scale them down")
    return checked


def _checked_weight(name: str, weight: Any) -> float:
    if not isinstance(weight, Real):
        raise TypeError(f"the weight of {name!r} must be a number, not {weight!r:.80}")
    try:
        value = float(weight)
    except OverflowError:  # an integer that is too large
        value = math.inf
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"the weight of {name!r} is {weight!r:.80}: a weight must be a finite number, 0 or more")
    return value
