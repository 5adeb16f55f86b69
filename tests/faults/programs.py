"""Whole programs, run as users run them: each in a session of its own, that must be empty when it has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.processes import gone, launch, session

HEADER = """
import asyncio, gc, multiprocessing, os, resource, signal, sys, threading, time
import anyio
import numpy as np
from asyncprefetch import *
from asyncprefetch.executors import ProcessExecutor
from tests.pipelines import *
from tests.limits import leave_little_memory, leave_memory

multiprocessing.set_forkserver_preload(["asyncprefetch.executors", "tests.pipelines"])

def descriptors():
    return os.listdir("/proc/self/fd")

FACTORY = {"stream": None, "pull": lambda worker: ProcessExecutor()}[sys.argv[1]]
"""


def start(tmp_path: Path, body: str, transport: str, *arguments: str, within: tuple[str, ...] = ()) -> subprocess.Popen:
    """Start it. Its first argument is the transport; ``within`` is a command that is to run it."""
    return launch(tmp_path, HEADER + body, transport, *arguments, within=within)


@dataclass
class Ended:
    """How a program ended."""

    code: int
    out: str
    err: str
    seconds: float


def end(process: subprocess.Popen, timeout: float = 40.0) -> Ended:
    """Wait for its end, and for that of all that it started."""
    began = time.monotonic()
    try:
        out, err = process.communicate(timeout=timeout)
        seconds = time.monotonic() - began
        # The fork server and the tracker of resources end when they see that the program has.
        until = time.monotonic() + 1
        while left := session(process.pid):
            assert gone(left[0], max(until - time.monotonic(), 0)), "processes are left"
    finally:
        for pid in session(process.pid):
            os.kill(pid, signal.SIGKILL)
    return Ended(process.returncode, out, err, seconds)


def run(tmp_path: Path, body: str, transport: str, *arguments: str, within: tuple[str, ...] = ()) -> Ended:
    """Start it, and wait for its end."""
    with start(tmp_path, body, transport, *arguments, within=within) as process:
        return end(process)
