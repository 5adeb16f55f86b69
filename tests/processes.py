"""Programs in processes of their own, and the ends of processes that are not our children."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def launch(
    tmp_path: Path,
    text: str,
    *arguments: str,
    warnings: str = "always::ResourceWarning",
    within: tuple[str, ...] = (),
    **how: Any,
) -> subprocess.Popen:
    """Start a program in a session of its own.

    Args:
        tmp_path: where its file is written.
        text: the program.
        arguments: of the program.
        warnings: as for Python's ``-W``.
        within: a command that is to run it.
        how: further arguments of ``Popen``. By default what the program prints comes through pipes.
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
    """The processes that a program and its children are, but for those that only wait to be reaped."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, *fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == leader and state != "Z":
                    found.append(int(entry.name))
    return found


def gone(pid: int, seconds: float = 1.0) -> bool:
    """Whether a process that is not our child ends in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)
