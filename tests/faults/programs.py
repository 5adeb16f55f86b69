"""Whole programs, run as users run them: each in a session of its own, that must be empty when it has ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

HEADER = """
import asyncio, gc, multiprocessing, os, resource, signal, sys, threading, time
import anyio
import numpy as np
from asyncprefetch import *
from asyncprefetch.executors import ProcessExecutor
from tests.pipelines import *
from tests.faults.limits import leave_little_memory

multiprocessing.set_forkserver_preload(["asyncprefetch.executors", "tests.pipelines"])

def descriptors():
    return os.listdir("/proc/self/fd")

FACTORY = {"stream": None, "pull": lambda worker: ProcessExecutor()}[sys.argv[1]]
"""


def start(tmp_path: Path, body: str, carrier: str, *arguments: str, within: tuple[str, ...] = ()) -> subprocess.Popen:
    """Start it. Its first argument is the carrier; ``within`` is a command that is to run it."""
    script = tmp_path / "program.py"
    script.write_text(HEADER + body)
    return subprocess.Popen(
        [*within, sys.executable, "-W", "always::ResourceWarning", str(script), carrier, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


def session(leader: int) -> list[int]:
    """The processes that a program and its children are, but for those that only wait to be reaped."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, *fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == leader and state != "Z":
                    found.append(int(entry.name))
    return found


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
        while (left := session(process.pid)) and time.monotonic() < began + seconds + 1:
            time.sleep(0.02)
        assert left == [], "processes are left"
    finally:
        for pid in session(process.pid):
            os.kill(pid, signal.SIGKILL)
    return Ended(process.returncode, out, err, seconds)


def run(tmp_path: Path, body: str, carrier: str, *arguments: str, within: tuple[str, ...] = ()) -> Ended:
    """Start it, and wait for its end."""
    with start(tmp_path, body, carrier, *arguments, within=within) as process:
        return end(process)
