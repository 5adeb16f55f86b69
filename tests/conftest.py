"""Strict defaults for every test: asyncio's debug mode, and a check that the test leaves nothing.

Asynchronous tests run on asyncio's loop. A test with the mark ``both_loops`` runs on uvloop too. These tests are a sample;
``test_structure.py`` checks that the sample is complete. ``--every-loop`` runs all asynchronous tests on both loops.

A run of a whole folder uses one process for each processor, at most four. A test may therefore check only its own
process and its children, never the whole machine. A test that measures seconds, keeps several processors busy or uses
much of the machine's memory has the mark ``xdist_group("machine")``: one process runs these tests one after another.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from asyncprefetch.executors import InlineExecutor, ProcessExecutor
from tests.pipelines import PRELOAD

# Programs with many loaders do the same: workers start several times faster.
multiprocessing.set_forkserver_preload(PRELOAD)

settings.register_profile(
    "suite",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("suite")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

EXECUTORS: dict[str, Callable[[int], Executor] | None] = {
    "inline": lambda worker: InlineExecutor(),
    "thread": lambda worker: ThreadPoolExecutor(1),
    "process": None,
    "pull": lambda worker: ProcessExecutor(),
    # A pool of the user.
    "pool": lambda worker: ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")),
}


MAX_TEST_PROCESSES = 4


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-loop", action="store_true", help="run every asynchronous test on asyncio and on uvloop")


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    both = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    marker = item.get_closest_marker("asyncio")
    if config.getoption("every_loop") or item.get_closest_marker("both_loops"):
        return both
    if marker is not None and "loop_factories" in marker.kwargs:
        return both  # the test itself names its loops; pytest would skip a loop that is missing here
    return {"asyncio": both["asyncio"]}


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Return the number of processes that share a run.

    It is zero (no other process) for files, for chosen tests, for ``-k`` and for ``-s``: starting processes would take
    longer than it saves, and they print nothing. The plugin itself starts no process for ``--pdb``. ``-n`` and the
    variable ``PYTEST_XDIST_AUTO_NUM_WORKERS`` override the number.
    """
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # the plugin applies its own rule
    option = config.option
    whole = any((config.invocation_params.dir / argument).is_dir() for argument in config.args)
    if not whole or option.keyword or option.collectonly or option.capture == "no":
        return 0
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Two for each processor: a test waits for more than half of its time, mostly for processes to start and to end.
    return min(2 * usable, MAX_TEST_PROCESSES) if usable > 1 else 0


@pytest.fixture(params=["inline", "process", "pull"])
def executor_factory(request: pytest.FixtureRequest) -> Callable[[int], Executor] | None:
    """Each way to run a producer: in this process, or in a worker process on the stream or the pull transport."""
    return EXECUTORS[request.param]


class Time:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def inline(worker: int) -> Executor:
    return InlineExecutor()


def descriptors() -> dict[int, str]:
    """Return the open descriptors of this process, and what each one refers to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def shared_memory() -> set[str]:
    """Return the files in /dev/shm that this process has mapped. Other programs use /dev/shm, too."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[-1] for line in lines if "/dev/shm/" in line}


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """Fail if a process, a descriptor, shared memory, a thread of the library or a task outlives the test."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    before_tasks = asyncio.all_tasks()
    before_memory = shared_memory()
    before_descriptors = descriptors()
    yield
    assert asyncio.all_tasks() - before_tasks - {asyncio.current_task()} == set()
    assert multiprocessing.active_children() == []
    for thread in threading.enumerate():
        if thread.name.startswith("asyncprefetch"):
            thread.join(1)  # it may still execute its last line
            assert not thread.is_alive(), thread.name
    assert shared_memory() - before_memory == set()
    # The fork server and its tracker live as long as the program, and so do the loop's own sockets.
    left = {fd: what for fd, what in descriptors().items() if fd not in before_descriptors}
    assert len(left) <= 4, left
