"""The states of a loader, of a worker's run, and of the pull transport, with one table of transitions for each.

A table holds every transition that is possible. Any other one is a fault in this library and raises at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto


class LoaderState(Enum):
    """Where a loader is in its life."""

    NEW = auto()  # no worker was started
    ACTIVE = auto()
    ENDED = auto()  # every shard is exhausted
    FAILED = auto()  # an error was raised to the consumer; each further call raises it again
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
    # A loader is closed a second time if its event loop was closed during the first. Another loop then finishes it.
    LoaderState.CLOSING: {LoaderEvent.CLOSE: LoaderState.CLOSING, LoaderEvent.ALL_GONE: LoaderState.CLOSED},
    LoaderState.CLOSED: {},
}


class RunState(Enum):
    """Where a worker's run is."""

    OFF = auto()  # no worker yet
    STARTING = auto()  # the worker is being started and has not said hello
    RUNNING = auto()  # it takes credit
    STOPPING = auto()  # a stop was sent, and the final sentinel has not come
    IDLE = auto()  # between two runs
    LOST = auto()  # the worker is gone; whether it is started again is not decided
    RETIRED = auto()  # its shards have nothing more to send
    FAILED = auto()  # it is not started again; the consumer gets the error
    CLOSED = auto()


class RunEvent(Enum):
    """What happens to a worker's run."""

    LAUNCH = auto()  # a worker is started, and a run with it
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
        RunEvent.LAUNCH: RunState.STARTING,
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
        RunEvent.LAUNCH: RunState.STARTING,
        RunEvent.GIVE_UP: RunState.FAILED,
        RunEvent.RETIRE: RunState.RETIRED,
        RunEvent.CLOSE: RunState.CLOSED,
    },
    RunState.RETIRED: {RunEvent.CLOSE: RunState.CLOSED},
    RunState.FAILED: {RunEvent.CLOSE: RunState.CLOSED},
    RunState.CLOSED: {RunEvent.CLOSE: RunState.CLOSED},
}


class PullState(Enum):
    """Where the worker of a pull transport is in its life."""

    NEW = auto()  # nothing was submitted
    STARTING = auto()  # the first call has not come back
    UP = auto()
    LOST = auto()  # a call failed; the exit code is awaited
    REPORTED = auto()  # the worker handle knows of the death
    CLOSED = auto()


class PullEvent(Enum):
    """What happens to the worker of a pull transport."""

    LAUNCH = auto()  # the first call is submitted
    ANSWER = auto()  # a call came back
    FAULT = auto()  # the executor or its worker failed
    REPORT = auto()
    CLOSE = auto()


PULL: Mapping[PullState, Mapping[PullEvent, PullState]] = {
    PullState.NEW: {
        PullEvent.LAUNCH: PullState.STARTING,
        PullEvent.CLOSE: PullState.CLOSED,
    },
    PullState.STARTING: {
        PullEvent.ANSWER: PullState.UP,
        PullEvent.FAULT: PullState.LOST,
        PullEvent.CLOSE: PullState.CLOSED,
    },
    PullState.UP: {
        PullEvent.ANSWER: PullState.UP,
        PullEvent.FAULT: PullState.LOST,
        PullEvent.CLOSE: PullState.CLOSED,
    },
    PullState.LOST: {
        PullEvent.REPORT: PullState.REPORTED,
        PullEvent.CLOSE: PullState.CLOSED,
    },
    PullState.REPORTED: {PullEvent.CLOSE: PullState.CLOSED},
    PullState.CLOSED: {PullEvent.CLOSE: PullState.CLOSED},
}


class CallsState(Enum):
    """Whether an executor takes calls."""

    TAKING = auto()
    FAILING = auto()  # a call failed; those under way have a moment to come back, and no more are submitted
    CLOSED = auto()  # nothing more is submitted, taken or reported


class CallsEvent(Enum):
    """What happens to the calls of an executor."""

    FAIL = auto()
    CLOSE = auto()


CALLS: Mapping[CallsState, Mapping[CallsEvent, CallsState]] = {
    CallsState.TAKING: {CallsEvent.FAIL: CallsState.FAILING, CallsEvent.CLOSE: CallsState.CLOSED},
    CallsState.FAILING: {CallsEvent.FAIL: CallsState.FAILING, CallsEvent.CLOSE: CallsState.CLOSED},
    CallsState.CLOSED: {CallsEvent.CLOSE: CallsState.CLOSED},
}
