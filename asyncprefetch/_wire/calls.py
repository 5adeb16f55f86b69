"""What crosses in one call of the pull transport: numbered messages to the worker, and what the worker answers.

The number is what makes an executor that reorders, repeats or drops calls visible. A worker does only the call that is
due, and answers with its number.
"""

from collections.abc import Sequence
from typing import NamedTuple

from asyncprefetch._wire.messages import FromWorker, ToWorker


class Call(NamedTuple):
    """Messages for the worker. Calls are numbered from 0 over the life of one worker."""

    number: int
    messages: tuple[ToWorker, ...]


class Answer(NamedTuple):
    """What the worker made in one call.

    Attributes:
        number: the call's number.
        messages: in the order in which they were made.
        more: whether credit was left when the call returned: another call continues with it.
    """

    number: int
    messages: Sequence[FromWorker]
    more: bool


class Refusal(NamedTuple):
    """The worker did not do the call, because it is not the one that is due.

    Attributes:
        number: the call's number.
        due: number of the call that the worker was to do next, or is doing.
        running: whether it was doing that one.
    """

    number: int
    due: int
    running: bool
