"""How many threads the libraries of a worker use: BLAS, OpenMP and torch."""

from __future__ import annotations

import os
import sys
import types
import warnings

import pytest

from asyncprefetch import AsyncPrefetcher, ProcessWorkers
from asyncprefetch.executors import ProcessExecutor
from tests import programs
from tests.conftest import inline
from tests.consumer import rest
from tests.inside import LibraryThreads, library_threads, limits
from tests.pipelines.library_threads import shards, threads_here
from tests.processes import EACH_WAY, WAYS

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="shows which libraries are loaded on Linux"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

# More than any library would choose here.
MANY = (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in library_threads.VARIABLES:
        monkeypatch.setenv(name, "")  # so that what a test sets is undone after it
        monkeypatch.delenv(name)


async def threads_of_workers(number=2, **options):
    loader = AsyncPrefetcher(shards(number), num_workers=number, workers=ProcessWorkers(**options))
    return await rest(loader)


@EACH_WAY
@pytest.mark.both_loops
async def test_workers_share_the_cores(way):
    number = max(2, limits.usable_cores())
    one = {"variable": "1", "blas": [1] * len(threads_here()["blas"])}
    assert await threads_of_workers(number, **WAYS[way]) == [one] * number


@EACH_WAY
async def test_a_number_is_set_as_it_is(way, monkeypatch):
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    one = {"variable": "1", "blas": [1] * len(threads_here()["blas"])}
    assert await threads_of_workers(1, threads=1, **WAYS[way]) == [one]


@EACH_WAY
@pytest.mark.parametrize("options", [{"threads": "default"}, {}])
async def test_the_option_or_a_variable_of_the_user_leaves_the_libraries_alone(way, options, monkeypatch):
    if not options:
        monkeypatch.setenv("VECLIB_MAXIMUM_THREADS", "1")
    assert await threads_of_workers(2, **options, **WAYS[way]) == [threads_here()] * 2


@pytest.mark.both_loops
async def test_executors_that_share_the_process_set_nothing():
    before = threads_here()
    assert await rest(AsyncPrefetcher(shards(2), num_workers=2, workers=inline)) == [before] * 2
    assert threads_here() == before


@EACH_WAY
def test_an_executor_sets_a_number_only_if_it_has_one(way):
    here = threads_here()
    with ProcessExecutor(**WAYS[way]) as left, ProcessExecutor(threads=1, **WAYS[way]) as limited:
        assert left.submit(threads_here).result(30) == here
        assert limited.submit(threads_here).result(30) == {"variable": "1", "blas": [1] * len(here["blas"])}


MAIN_MODULE = """
import threadpoolctl
from tests.pipelines.library_threads import shards

limits = threadpoolctl.threadpool_limits(int(sys.argv[1]))

async def main():
    method, number, threads = sys.argv[2:]
    workers = ProcessWorkers(start_method=method, threads=int(threads) if threads.isdigit() else threads)
    async with AsyncPrefetcher(shards(int(number)), num_workers=int(number), workers=workers) as loader:
        print({count async for item in loader for count in item["blas"]})

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
@pytest.mark.parametrize(("threads", "seen"), [("shared", MANY), ("2", 2)])
def test_a_number_that_the_main_module_has_set_stays_unless_the_option_is_one(tmp_path, method, threads, seen):
    ended = programs.run(tmp_path, MAIN_MODULE, str(MANY), method, "2", threads, header=programs.IMPORTS)
    assert ended.out == f"{{{seen}}}\n", ended.err


# ------------------------------------------------------------------------------------- torch, and other machines' cores


class Torch:
    """Stands for the module."""

    def __init__(self, number):
        self.number = number

    def get_num_threads(self):
        return self.number

    def set_num_threads(self, number):
        self.number = number


@pytest.fixture
def torch_on(monkeypatch):
    """A torch that has so many threads, on a machine with so many cores, and no other library."""

    def make(number, cores=16):
        torch = Torch(number)
        monkeypatch.setitem(sys.modules, "torch", torch)
        monkeypatch.setitem(sys.modules, "threadpoolctl", None)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        return torch

    return make


@pytest.mark.parametrize(
    ("before", "threads", "after"),
    [
        (16, LibraryThreads(4, forced=False), 4),
        (8, LibraryThreads(4, forced=False), 4),  # one for each core of two hardware threads
        (7, LibraryThreads(4, forced=False), 7),  # set by the user
        (17, LibraryThreads(4, forced=False), 17),  # set by the user
        (8, LibraryThreads(16, forced=False), 8),
        (7, LibraryThreads(4, forced=True), 4),
        (8, LibraryThreads(16, forced=True), 16),
    ],
)
def test_torch_in_a_forked_process_gets_its_part_unless_the_user_has_set_another(torch_on, before, threads, after):
    torch = torch_on(before)
    assert library_threads.set_variables(threads)
    library_threads.set_loaded(threads, forked=True)
    assert torch.number == after


def test_in_a_new_interpreter_torch_has_read_the_variables_and_another_number_is_the_users(torch_on):
    torch = torch_on(16)
    library_threads.set_loaded(LibraryThreads(4, forced=False), forked=False)
    assert torch.number == 16


def test_a_torch_that_is_still_being_imported_is_left_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", object())
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    library_threads.set_loaded(LibraryThreads(1, forced=True), forked=True)


def test_variables_that_the_main_module_has_set_are_replaced_only_by_a_number_of_the_option(monkeypatch):
    for threads, after in [(LibraryThreads(4, forced=False), "9"), (LibraryThreads(4, forced=True), "4")]:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        library_threads.set_variables(threads._replace(forced=True))
        monkeypatch.setenv("OMP_NUM_THREADS", "9")
        library_threads.set_loaded(threads, forked=False)
        assert os.environ["OMP_NUM_THREADS"] == after


class Controller:
    """Stands for the one of ``threadpoolctl``."""

    lib_controllers = ()

    def __init__(self):
        warnings.warn("two runtimes of OpenMP", RuntimeWarning, stacklevel=2)


class FailingController:
    def __init__(self):
        raise OSError("it can't look into a library")


@pytest.mark.parametrize(
    ("controller", "said"),
    [
        (Controller, []),
        (FailingController, ["threads of libraries: threadpoolctl failed, so the loaded libraries keep theirs"]),
    ],
)
def test_a_library_that_threadpoolctl_does_not_like_does_not_end_the_worker(
    torch_on, monkeypatch, caplog, controller, said
):
    torch = torch_on(16)
    monkeypatch.setitem(sys.modules, "threadpoolctl", types.SimpleNamespace(ThreadpoolController=controller))
    library_threads.set_loaded(LibraryThreads(4, forced=False), forked=True)
    assert torch.number == 4
    assert [record.message for record in caplog.records] == said


@pytest.mark.parametrize("threads", ["shared", 0, True, 1.5])
def test_an_executor_refuses_what_is_no_number_of_threads(threads):
    with pytest.raises(ValueError, match="threads must be None or an int of at least 1"):
        ProcessExecutor(threads=threads)


def test_a_library_whose_number_is_not_known_keeps_it(monkeypatch):
    library = types.SimpleNamespace(get_num_threads=lambda: None, set_num_threads=None)
    monkeypatch.setitem(sys.modules, "torch", library)
    library_threads.set_loaded(LibraryThreads(1, forced=False), forked=True)
