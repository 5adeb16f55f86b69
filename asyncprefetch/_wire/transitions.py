"""Transition tables: for each state, which events can happen in it and which state follows."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


class WrongTransitionError(RuntimeError):
    """A fault in this library: an event that can't happen in a state."""


def advance(table: Mapping[S, Mapping[E, S]], state: S, event: E) -> S:
    """The state after ``event``.

    Raises:
        WrongTransitionError: the event is not in the table for this state.
    """
    try:
        return table[state][event]
    except KeyError:
        raise WrongTransitionError(f"{type(state).__name__} {state.name} has no transition for {event.name}") from None
