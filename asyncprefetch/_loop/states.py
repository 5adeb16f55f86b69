"""The states of a loader and of a worker's run, and the two tables in which every transition stands.

A transition that is not in its table is a fault in this library and raises at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

from asyncprefetch._wire.transitions import WrongTransitionError, advance

__all__ = ["LOADER", "RUN", "LoaderEvent", "LoaderState", "RunEvent", "RunState", "WrongTransitionError", "advance"]


class LoaderState(Enum):
    """Where a loader is in its life."""

    NEW = auto()  # nothing was started
    ACTIVE = auto()
    ENDED = auto()  # every shard's end was reached
    FAILED = auto()  # an error was raised to the consumer, and will be again
    CLOSING = auto()
    CLOSED = auto()


class LoaderEvent(Enum):
    """What happens to a loader."""

    START = auto()
    END = auto()
    FAIL = auto()
    CLOSE = auto()
    ALL_GONE = auto()


LOADER: Mapping[LoaderState, Mapping[LoaderEvent, LoaderState]] = {
    LoaderState.NEW: {
        LoaderEvent.START: LoaderState.ACTIVE,
        LoaderEvent.CLOSE: LoaderState.CLOSING,
    },
    LoaderState.ACTIVE: {
        LoaderEvent.END: LoaderState.ENDED,
        LoaderEvent.FAIL: LoaderState.FAILED,
        LoaderEvent.CLOSE: LoaderState.CLOSING,
    },
    LoaderState.ENDED: {LoaderEvent.CLOSE: LoaderState.CLOSING},
    LoaderState.FAILED: {LoaderEvent.CLOSE: LoaderState.CLOSING},
    # To be closed again: its loop was closed in the midst of the first time, and another one takes over.
    LoaderState.CLOSING: {LoaderEvent.CLOSE: LoaderState.CLOSING, LoaderEvent.ALL_GONE: LoaderState.CLOSED},
    LoaderState.CLOSED: {},
}


class RunState(Enum):
    """Where a worker's run is."""

    OFF = auto()  # no worker yet
    STARTING = auto()  # the worker was asked for and has not said hello
    RUNNING = auto()  # it may be given credit
    STOPPING = auto()  # a stop was sent, the final sentinel has not come
    IDLE = auto()  # between two runs
    LOST = auto()  # the worker is gone, its restart not decided
    RETIRED = auto()  # no shard of it has anything more to send
    FAILED = auto()  # given up; its shards' consumers get the error
    CLOSED = auto()


class RunEvent(Enum):
    """What happens to a worker's run."""

    OPEN = auto()  # a worker is asked for, and a run with it
    HELLO = auto()
    STOP = auto()
    FINAL = auto()
    START = auto()  # another run on the same worker
    DEATH = auto()
    GIVE_UP = auto()
    RETIRE = auto()
    CLOSE = auto()


RUN: Mapping[RunState, Mapping[RunEvent, RunState]] = {
    RunState.OFF: {
        RunEvent.OPEN: RunState.STARTING,
        RunEvent.RETIRE: RunState.RETIRED,
        RunEvent.CLOSE: RunState.CLOSED,
    },
    RunState.STARTING: {
        RunEvent.HELLO: RunState.RUNNING,
        RunEvent.DEATH: RunState.LOST,
        RunEvent.GIVE_UP: RunState.FAILED,
        RunEvent.CLOSE: RunState.CLOSED,
    },
    RunState.RUNNING: {
        RunEvent.STOP: RunState.STOPPING,
        RunEvent.DEATH: RunState.LOST,
        RunEvent.GIVE_UP: RunState.FAILED,
        RunEvent.RETIRE: RunState.RETIRED,
        RunEvent.CLOSE: RunState.CLOSED,
    },
    RunState.STOPPING: {
        RunEvent.FINAL: RunState.IDLE,
        RunEvent.DEATH: RunState.LOST,
        RunEvent.GIVE_UP: RunState.FAILED,
        RunEvent.CLOSE: RunState.CLOSED,
    },
    RunState.IDLE: {
        RunEvent.START: RunState.RUNNING,
        RunEvent.DEATH: RunState.LOST,
        RunEvent.RETIRE: RunState.RETIRED,
        RunEvent.CLOSE: RunState.CLOSED,
    },
    RunState.LOST: {
        RunEvent.OPEN: RunState.STARTING,
        RunEvent.GIVE_UP: RunState.FAILED,
        RunEvent.RETIRE: RunState.RETIRED,
        RunEvent.CLOSE: RunState.CLOSED,
    },
    RunState.RETIRED: {RunEvent.CLOSE: RunState.CLOSED},
    RunState.FAILED: {RunEvent.CLOSE: RunState.CLOSED},
    RunState.CLOSED: {RunEvent.CLOSE: RunState.CLOSED},
}
