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
    """Where each source is, and how many draws there were. Tuples, all in the order in which the sources were given.

    ``zip(state.names, state.weights, state.drawn)`` is a table of what each source was to contribute, and did.

    Attributes:
        names: what the sources are called.
        weights: their weights.
        sources: their states. With ``on_exhausted="restart"`` these are of :class:`LoopingIterator`, whose ``epoch``
            tells how often a source was begun again.
        seed: of the draws.
        on_exhausted: what happens at the end of a source.
        draws: how many draws there were: one for each item, and one for each source that was found to have ended.
        drawn: how many items each source contributed.
        ended: which sources were found to have ended.
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
            raise ValueError(f"{count} names, and another number of weights, sources, or counts")
        # With such weights of a file the stream would end at once, without a word, or be another mixture.
        if not (all(weight >= 0 for weight in self.weights) and 0 < sum(self.weights) < math.inf):
            raise ValueError(f"weights {self.weights!r:.200} are not finite, below 0, or all 0")
        return self

    def build(self) -> SamplingIterator[Any]:
        """The iterator that goes on with the next draw."""
        iterator: SamplingIterator[Any] = SamplingIterator.__new__(SamplingIterator)
        iterator._resume(self)
        return iterator


class SamplingIterator(StatefulIterator[T]):
    """Draws each item from one of several sources, which is chosen at random by the weights.

    Which source the ``k``-th draw chooses is a function of the seed, of ``k``, of the weights in the order of
    ``sources``, and of which sources have ended: the same on every platform, whatever the sources yield.

    A source ends when it is chosen and has no further item. Then, by ``on_exhausted``:

    - ``"stop"``: the mixture ends, too;
    - ``"drop"``: it goes on with the others, in the proportion of their weights, until all have ended;
    - ``"restart"``: the source begins again where it was when it was given, and the mixture has no end.

    Args:
        sources: the iterators by name. The objects themselves are only asked for their states.
        weights: for each name, from 0, in any unit: only their proportion counts. A source of weight 0 is never drawn
            from, also when all others have ended.
        seed: from 0, below 2**64.
        on_exhausted: ``"stop"``, ``"drop"`` or ``"restart"``.

    Raises:
        TypeError: a source is no stateful iterator, a name no string, or a weight no number.
        ValueError: there are no sources; sources and weights have other names; a weight is negative or not finite, or all
            are zero; ``seed`` or ``on_exhausted`` is not as described.
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
        self._state = state  # of some time; what it holds of a source is right if ``drawn`` and ``ended`` are
        self._inner: list[StatefulIterator[T] | None] = [None] * len(state.names)
        self._draws = state.draws
        self._drawn, self._ended = list(state.drawn), list(state.ended)

    def get_state(self) -> SamplingState:
        """The number of draws, and where each source is."""
        last = self._state
        drawn, ended = tuple(self._drawn), tuple(self._ended)
        if drawn != last.drawn or ended != last.ended:
            # A source that contributed nothing since the last time is where it was.
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
        """The items that are still to come.

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
                # Counted before the yield: at the yield the state is that after this item.
                self._draws += 1
                drawn[chosen] += 1
                yield item

    def _begin(self, i: int) -> Iterator[T]:
        """The items of a source that are still to come; a source that can't be drawn from is not built."""
        if not self._alive()[i]:
            return iter(())
        inner = self._inner[i]
        if inner is None:
            inner = self._inner[i] = self._state.sources[i].build()
        return iter(inner.create_iter())

    def _alive(self) -> list[float]:
        """The weights of the sources that have not ended; 0 for those that have."""
        return [0.0 if over else weight for weight, over in zip(self._state.weights, self._ended, strict=True)]

    def _chosen(self) -> list[int]:
        """Which sources the draws from here to the end of the chunk choose, while none ends."""
        chunk, offset = divmod(self._draws, _CHUNK)
        bounds = _bounds(self._alive())
        # The first bound above the number, which is below 1, the last bound. So a source of weight 0 is never chosen:
        # it has the bound of the one before it, or 0.
        chosen = np.searchsorted(bounds, uniforms(self._state.seed, chunk, _CHUNK)[offset:], side="right")
        return chosen.tolist()  # type: ignore[no-any-return]


def _bounds(weights: Sequence[float]) -> list[float]:
    """The upper bound of each source's share of [0, 1): sums in a fixed order, of which every bit is defined."""
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
        raise ValueError(f"sources and weights must have the same names; there is {' and '.join(differing)}")
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
    except OverflowError:  # of an integer
        value = math.inf
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"the weight of {name!r} is {weight!r:.80}: a weight must be a finite number, 0 or more")
    return value
