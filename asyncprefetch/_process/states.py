"""The states of a worker process, and the table that holds every transition."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto


class ProcessState(Enum):
    """The life of a process executor."""

    NEW = auto()  # no call was submitted; there is no process and no thread
    STARTING = auto()  # the executor's thread starts the process; calls are queued
    RUNNING = auto()  # the process takes calls
    CLOSING = auto()  # no more calls are taken; the process ends after those it has
    GONE = auto()  # every call was answered or failed, and no more are taken


class ProcessEvent(Enum):
    """An event in the life of a process executor."""

    SUBMIT = auto()  # the first call
    STARTED = auto()
    SHUT_DOWN = auto()
    END = auto()  # the process ended, could not be started, or will not be


PROCESS: Mapping[ProcessState, Mapping[ProcessEvent, ProcessState]] = {
    ProcessState.NEW: {
        ProcessEvent.SUBMIT: ProcessState.STARTING,
        ProcessEvent.SHUT_DOWN: ProcessState.GONE,
        ProcessEvent.END: ProcessState.GONE,
    },
    ProcessState.STARTING: {
        ProcessEvent.STARTED: ProcessState.RUNNING,
        ProcessEvent.SHUT_DOWN: ProcessState.CLOSING,
        ProcessEvent.END: ProcessState.GONE,
    },
    ProcessState.RUNNING: {
        ProcessEvent.SHUT_DOWN: ProcessState.CLOSING,
        ProcessEvent.END: ProcessState.GONE,
    },
    ProcessState.CLOSING: {
        ProcessEvent.STARTED: ProcessState.CLOSING,
        ProcessEvent.SHUT_DOWN: ProcessState.CLOSING,
        ProcessEvent.END: ProcessState.GONE,
    },
    # A kill may end the executor at any allocation, also while one of its methods runs.
    ProcessState.GONE: dict.fromkeys(ProcessEvent, ProcessState.GONE),
}
