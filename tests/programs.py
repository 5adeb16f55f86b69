"""Whole programs, run as users run them. Each has a session of its own, which must be empty after the program's end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes import gone, launch, session

# The imports of all programs. A program that has only these looks as a user writes it.
IMPORTS = """
import asyncio, gc, multiprocessing, os, resource, signal, sys, threading, time, warnings
from pathlib import Path
import anyio
import numpy as np
from asyncprefetch import *
from asyncprefetch.executors import ProcessExecutor
from tests.pipelines.arrays import Arrays
from tests.pipelines.counting import Count
from tests.limits import leave_little_memory, leave_memory
"""

# The beginning of most programs. The first argument is the transport. The preload makes workers start faster.
HEADER = (
    IMPORTS
    + """
from tests.pipelines import PRELOAD

multiprocessing.set_forkserver_preload(PRELOAD)

def descriptors():
    return os.listdir("/proc/self/fd")

def pids(loader):
    return [worker.pid for worker in loader.statistics().workers]

FACTORY = {"stream": None, "pull": lambda worker: ProcessExecutor()}[sys.argv[1]]
"""
)

# An iterator that makes one item and then computes without end.
FOREVER = """
class ForeverState(IteratorState, kind="program.forever"):
    def build(self): return Forever()
class Forever(StatefulIterator):
    def get_state(self): return ForeverState()
    def create_iter(self):
        yield 0
        while True: pass
"""


def read_line(process: subprocess.Popen[str]) -> str:
    """Read one line of a program's output. The rest stays in the pipe for ``end``."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(process.stdout.fileno(), 1)):
        line += byte
    return line.decode()


@dataclass
class Ended:
    """How a program ended."""

    code: int
    out: str
    err: str
    seconds: float
    """From the call of ``end`` to the program's end."""


def start(
    tmp_path: Path,
    body: str,
    transport: str = "stream",
    *arguments: str,
    header: str = HEADER,
    within: tuple[str, ...] = (),
) -> subprocess.Popen[str]:
    """Start a program. ``within`` is a command that runs the program's command line."""
    return launch(tmp_path, header + body, transport, *arguments, within=within)


def end(process: subprocess.Popen[str], timeout: float = 40.0) -> Ended:
    """Wait for the end of a program and of all processes that it started."""
    began = time.monotonic()
    try:
        out, err = process.communicate(timeout=timeout)
        seconds = time.monotonic() - began
        # The fork server and the resource tracker end when they see that the program has ended.
        deadline = time.monotonic() + 1
        while left := session(process.pid):
            assert gone(left[0], max(deadline - time.monotonic(), 0)), "processes are left"
    finally:
        for pid in session(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return Ended(process.returncode, out, err, seconds)


def run(tmp_path: Path, body: str, transport: str = "stream", *arguments: str, **how: Any) -> Ended:
    """Start a program, and wait for its end. Takes the arguments of ``start``."""
    with start(tmp_path, body, transport, *arguments, **how) as process:
        return end(process)
