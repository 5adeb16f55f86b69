"""Processes that tests start: programs in a session of their own and forked children; and checks that they have ended."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

# Each way of starting a worker process, as the options of an executor or of ``ProcessWorkers``.
WAYS = {
    "forkserver": {"start_method": "forkserver"},
    "spawn": {"start_method": "spawn"},
    "fork": {"start_method": "fork"},
    "env": {"env": {}},
}
EACH_WAY = pytest.mark.parametrize("way", WAYS)


def launch(
    tmp_path: Path,
    text: str,
    *arguments: str,
    warnings: str = "always::ResourceWarning",
    within: tuple[str, ...] = (),
    **how: Any,
) -> subprocess.Popen[str]:
    """Start a program in a session of its own.

    Args:
        tmp_path: the folder for the program's file.
        text: the program.
        arguments: the program's arguments.
        warnings: the argument of Python's ``-W``.
        within: a command that runs the program's command line.
        how: further arguments of ``Popen``. By default the output goes to pipes.
    """
    script = tmp_path / "program.py"
    script.write_text(text)
    return subprocess.Popen(
        [*within, sys.executable, "-W", warnings, str(script), *arguments],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how},
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
        start_new_session=True,
    )


def session(leader: int) -> list[int]:
    """Return the processes of a program's session, without zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, *fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == leader and state != "Z":
                    found.append(int(entry.name))
    return found


def gone(pid: int, seconds: float = 1.0) -> bool:
    """Wait for the end of any process. Return whether it ended in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def has_ended(pid: int) -> bool:
    """Return whether a process is a zombie or reaped. This does not wait and reaps nothing."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def end_of_child(call: Callable[[], object]) -> int:
    """Make a call in a forked child. Return its exit code, or the negative number of the signal that ended it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        call()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
