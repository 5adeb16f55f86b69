"""A second after the parent was killed, no worker is alive, whatever it did, and /dev/shm contains nothing of ours."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.processes import gone, launch, session

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfd_open"),
    pytest.mark.xdist_group("machine"),
]

PROGRAM = """
import asyncio, multiprocessing, os, signal, sys, time
from pathlib import Path
from asyncprefetch import *
from tests.consumer import until
from tests.faults import mortals
from tests.faults.mortals import World
from tests.pipelines.counting import Count

transport, what, folder, start_method = sys.argv[1:]

async def main():
    pipeline = {"idle": Count(10**6), "writes": mortals.texts}.get(what) or World.make(10**6, what, folder)
    how = mortals.workers_with(transport == "pull", start_method=start_method)
    if what == "writes":
        del os.memfd_create  # the texts cross the socket
    loader = AsyncPrefetcher(pipeline, n_batches_to_prefetch=4, **how)
    await anext(loader)
    pids = [worker.pid for worker in loader.statistics().workers]
    if what == "idle":
        await until(lambda: loader.statistics().buffered == 4, 10)
    elif what == "writes" and transport == "process":
        while mortals.unread(loader) < 50_000:  # the loop reads nothing without an await
            pass
    elif what != "writes":
        await until(lambda: Path(folder, f"{what}-done").exists(), 10)
    FORK
    print(*pids, flush=True)
    time.sleep(60)

if __name__ == "__main__":
    asyncio.run(main())
"""

# A sibling of the workers that inherits every descriptor of the parent, including the ends of all their pipes.
FORK = """
    sibling = os.fork()
    if sibling == 0:
        signal.alarm(30)
        while True:
            signal.pause()
    pids.append(sibling)
"""


@contextlib.contextmanager
def program(tmp_path, transport, what, *, start_method="forkserver", fork=""):
    """Run a program with a loader. Yield it and the pids that it printed. None of its processes may use /dev/shm."""
    text = PROGRAM.replace("    FORK\n", fork.lstrip("\n"))
    arguments = transport, what, str(tmp_path), start_method
    process = launch(tmp_path, text, *arguments, warnings="ignore", stderr=None)
    with process:
        try:
            printed = [int(pid) for pid in process.stdout.readline().split()]
            assert [pid for pid in session(process.pid) if "/dev/shm/" in Path(f"/proc/{pid}/maps").read_text()] == []
            yield process, printed
        finally:
            process.stdout.close()
            process.kill()
            for pid in session(process.pid):  # empty if the test passes
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("transport", ["process", "pull"])
@pytest.mark.parametrize("what", ["idle", "spin", "writes", "hold_the_lock"])
def test_no_worker_outlives_a_parent_that_is_killed(tmp_path, transport, what):
    with program(tmp_path, transport, what) as (process, (worker,)):
        others = [pid for pid in session(process.pid) if pid != process.pid]
        assert worker in others
        if what == "writes" and transport == "pull":
            os.kill(process.pid, signal.SIGSTOP)  # the parent reads no more answers
        process.kill()
        process.wait()
        assert gone(worker)
        # The others are the fork server and the resource tracker.
        assert all(gone(other) for other in others)


@pytest.mark.parametrize("start_method", ["spawn", "fork"])
@pytest.mark.parametrize("what", ["idle", "hold_the_lock"])
def test_no_worker_of_another_start_method_outlives_it_either(tmp_path, start_method, what):
    with program(tmp_path, "process", what, start_method=start_method) as (process, (worker,)):
        others = session(process.pid)
        process.kill()
        process.wait()
        assert gone(worker)
        assert all(gone(other) for other in others)


@pytest.mark.parametrize(
    ("transport", "what"), [("process", "idle"), ("process", "spin"), ("process", "writes"), ("pull", "idle")]
)
def test_a_sibling_that_the_parent_forked_keeps_no_worker_alive(tmp_path, transport, what):
    with program(tmp_path, transport, what, fork=FORK) as (process, (worker, sibling)):
        try:
            process.kill()
            process.wait()
            assert gone(worker)
            assert not gone(sibling, 0)
        finally:
            os.kill(sibling, signal.SIGKILL)


@pytest.mark.parametrize("transport", ["process", "pull"])
def test_a_kill_of_the_whole_group_leaves_nothing(tmp_path, transport):
    """The signal also kills the tracker, which would unlink names in /dev/shm. So the program may create no such names."""
    with program(tmp_path, transport, "idle") as (process, _):
        others = session(process.pid)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert all(gone(other) for other in others)
