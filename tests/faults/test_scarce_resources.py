"""If a resource of the system is scarce, the stream is right or an error says what to do. Nothing hangs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import multiprocessing
import os
import re
import resource
import socket
import subprocess
import threading
from concurrent.futures import BrokenExecutor
from multiprocessing.process import BaseProcess

import pytest

from asyncprefetch import AsyncPrefetcher, WorkerDiedError
from asyncprefetch.executors import ProcessExecutor
from tests import programs
from tests.conftest import descriptors, inline
from tests.inside import frames, limits
from tests.pipelines.counting import Count

TRANSPORTS = pytest.mark.parametrize("transport", ["stream", "pull"])

# The program prints the outcome, and then what is left, which must be nothing.
BODY = """
def executor(worker):
    initializer = {"initializer": INITIALIZER, "initargs": (worker,)} if INITIALIZER is not None else {}
    return ProcessExecutor(**initializer)

async def main():
    limit()
    before = len(descriptors())
    loader = AsyncPrefetcher(
        [Arrays(6, "made in place", SIZE, position=2) for _ in range(WORKERS)],
        n_batches_to_prefetch=WORKERS, num_workers=WORKERS, max_restarts=1,
        workers=ProcessWorkers(initializer=INITIALIZER) if FACTORY is None else executor,
    )
    held = []
    try:
        async with loader:
            async for batch in loader:
                held.append(batch)
        right = [n for kept in held for n in [int(kept[0])] if (kept == n).all()]
        print("right" if right == [n for n in range(2, 6) for _ in range(WORKERS)] else right)
    except AsyncPrefetchError as error:
        print(f"{type(error).__name__}: {error}")
        del error
    held = batch = None
    gc.collect()
    print("processes", len(multiprocessing.active_children()))
    # The fork server and the resource tracker use four, and the loop two more.
    print("descriptors", len(descriptors()) - before <= 6)
    print("memory", open("/proc/self/maps").read().count("memfd:asyncprefetch"))

if __name__ == "__main__":
    asyncio.run(main())
"""


def run(tmp_path, transport, *, limit="pass", size=100_000, workers=3, initializer="None", within=()):
    body = f"SIZE, WORKERS, INITIALIZER = {size}, {workers}, {initializer}\ndef limit(): {limit}\n" + BODY
    ended = programs.run(tmp_path, body, transport, within=within)
    assert ended.code == 0, ended.err
    outcome, *left = ended.out.splitlines()
    assert left == ["processes 0", "descriptors True", "memory 0"], ended.out
    assert ended.seconds < 20  # the program ends: no step waits for an event that can't happen
    return outcome


# --------------------------------------------------------------------------------------------------------- /dev/shm


MOUNT = "mount -t tmpfs -o size=1m tmpfs /dev/shm && "


@functools.cache
def own_dev_shm() -> tuple[str, ...]:
    """Return a command that runs another command with a /dev/shm of 1 MB. It is empty if the system does not allow that."""
    options = "-m" if os.geteuid() == 0 else "-rm"
    command = ("unshare", options, "sh", "-c")
    try:
        tried = subprocess.run([*command, MOUNT + "true"], capture_output=True, timeout=10, check=False)
    except OSError:
        return ()
    return command if tried.returncode == 0 else ()


@TRANSPORTS
def test_a_dev_shm_of_one_megabyte_is_enough_for_batches_of_any_size(tmp_path, transport):
    if not own_dev_shm():
        pytest.skip("no mount namespace can be had here")
    assert run(tmp_path, transport, size=1_000_000, within=(*own_dev_shm(), MOUNT + 'exec "$@"', "sh")) == "right"


@TRANSPORTS
def test_a_dev_shm_that_is_full_does_not_matter(tmp_path, transport):
    if not own_dev_shm():
        pytest.skip("no mount namespace can be had here")
    fill = MOUNT + 'cat /dev/zero > /dev/shm/fill 2> /dev/null; exec "$@"'
    assert run(tmp_path, transport, within=(*own_dev_shm(), fill, "sh")) == "right"


# ------------------------------------------------------------------------------------------------------ descriptors


NOFILE = "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"


@TRANSPORTS
def test_64_descriptors_are_enough_for_three_workers(tmp_path, transport):
    assert run(tmp_path, transport, limit=NOFILE) == "right"


@TRANSPORTS
def test_too_few_descriptors_are_an_error_that_names_the_limit(tmp_path, transport):
    outcome = run(tmp_path, transport, limit=NOFILE, workers=24, size=2_000)
    assert outcome.startswith("WorkerDiedError: worker")
    assert "Too many open files (raise the limit of open files (ulimit -n), or use fewer workers)" in outcome
    assert "hello" not in outcome  # the error does not blame the script


@pytest.mark.parametrize("how", [{}, {"env": {}}, {"start_method": "fork"}], ids=["forkserver", "env", "fork"])
async def test_a_start_that_fails_half_way_keeps_no_descriptor(monkeypatch, how):
    def refuse(*args, **kwargs):
        raise OSError(errno.EMFILE, "Too many open files")

    with ProcessExecutor() as other:  # this starts what all executors share
        other.submit(os.getpid).result(10)
    monkeypatch.setattr(BaseProcess, "start", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    before = descriptors().keys()
    ours, theirs = socket.socketpair()
    executor = ProcessExecutor(descriptors=[theirs], **how)  # the test keeps a reference, as a loader does
    with pytest.raises(BrokenExecutor, match=r"Too many open files \(raise the limit"):
        executor.submit(os.getpid).result(10)
    assert executor.exited.result(10) is None
    with pytest.raises(BrokenExecutor, match=r"Too many open files \(raise the limit"):
        executor.submit(os.getpid)  # a later call raises the same reason
    ours.close()
    assert descriptors().keys() - before == set()


@pytest.mark.parametrize("pull", [False, True], ids=["process", "pull"])
@pytest.mark.both_loops
async def test_a_thread_of_the_executor_that_can_not_be_started_is_an_error_and_leaves_nothing(monkeypatch, pull):
    start = threading.Thread.start

    def refusing(thread):
        if thread.name == "asyncprefetch-worker-watch":
            raise RuntimeError("can't start new thread")
        start(thread)

    before = descriptors().keys()
    monkeypatch.setattr(threading.Thread, "start", refusing)
    executor = ProcessExecutor()
    with pytest.raises(BrokenExecutor, match=r"can't start new thread \(raise the limits"):
        executor.submit(os.getpid)
    assert executor.exited.result(10) is None
    factory = (lambda worker: ProcessExecutor()) if pull else None
    async with asyncio.timeout(10), AsyncPrefetcher(Count(3), workers=factory) as loader:
        with pytest.raises(WorkerDiedError, match=r"can't start new thread \(raise the limits"):
            await anext(loader)
    del loader
    gc.collect()
    assert multiprocessing.active_children() == []
    assert descriptors().keys() - before == set()


@contextlib.contextmanager
def descriptors_left(free):
    """Leave just ``free`` descriptors to the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as taken:
        taken.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors()) + free + 1, hard))
        filling = []
        with contextlib.suppress(OSError):
            while True:
                filling.append(os.open(os.devnull, os.O_RDONLY))
        for descriptor in filling[:-free]:
            taken.callback(os.close, descriptor)
        for descriptor in filling[-free:]:
            os.close(descriptor)
        yield


@pytest.mark.both_loops
async def test_however_few_descriptors_there_are_a_refused_start_leaves_none_open_and_harms_no_other_worker():
    """The fork server would end if it lacked a descriptor during a start, and could no longer report its workers' ends."""
    other = ProcessExecutor(start_method="forkserver")
    try:
        pid = other.submit(os.getpid).result(10)
        for free in range(1, 20):
            before = descriptors().keys()
            with descriptors_left(free):
                executor = ProcessExecutor(start_method="forkserver")
                with pytest.raises(BrokenExecutor, match=r"Too many open files \(raise the limit"):
                    executor.submit(os.getpid).result(10)
                assert executor.exited.result(10) is None
            assert descriptors().keys() - before == set(), free
            assert other.submit(os.getpid).result(10) == pid
            assert not other.exited.done()
    finally:
        other.shutdown()


# ----------------------------------------------------------------------------------------------------------- memory


NO_THREAD = (
    r"WorkerDiedError: worker \d died: .*can't start new thread(: less than \d+ MiB of memory are left)? "
    r"\(raise the limits of processes and memory [^)]*\)[^)]*\)"  # the advice comes once
    r"(\. It was started again \d times without progress \(max_restarts\))?$"
)
NO_MEMORY = (
    r"(WorkerDiedError: .* died: (no memory here for what it sent"
    r"|(BrokenExecutor: the worker process can't take calls: )?MemoryError: ?)"
    r"|ProducerError: .* \((next|unpickle)\): .*MemoryError.*)"
    r" \(raise the limit of memory .*"
)


@TRANSPORTS
@pytest.mark.parametrize(
    ("megabytes", "size", "reasons"),
    [
        (8, 2_000_000, NO_THREAD),
        (120, 2_000_000, f"{NO_THREAD}|{NO_MEMORY}"),
        (600, 10_000_000, f"{NO_THREAD}|{NO_MEMORY}"),
    ],
    ids=["8 MB", "120 MB", "600 MB"],
)
@pytest.mark.xdist_group("machine")
def test_too_little_memory_is_an_error_that_says_so(tmp_path, transport, megabytes, size, reasons):
    """The consumer holds 640 MB of batches. A thread, a batch here or an item in a worker may lack memory first."""
    outcome = run(tmp_path, transport, limit=f"leave_memory({megabytes})", workers=2, size=size)
    assert re.match(reasons, outcome), outcome


STARVED = """
from concurrent.futures import BrokenExecutor
from tests.inside import in_daemon_thread, in_thread

def submit():
    try:
        ProcessExecutor().submit(os.getpid)
    except BrokenExecutor as error:
        assert "can't start new thread" in str(error)

def await_thread():
    asyncio.run(in_thread(os.getpid))

def await_daemon_thread():
    async def main():
        try:
            await in_daemon_thread(os.getpid, "starved")
        except RuntimeError as error:
            assert "can't start new thread" in str(error)
    asyncio.run(main())

# The limits range from too little memory for a thread's stack to more than enough for its first steps. The second range
# begins higher by one stack, because the child can use the stacks of its parent's threads.
stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
for more in [base + step for base in (0, stack) for step in range(0, 400_000, 1 << 13)]:
    if not (child := os.fork()):
        signal.alarm(5)
        leave_memory(more / (1 << 20))
        globals()[sys.argv[2]]()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, more
print("all came back")
"""


@pytest.mark.parametrize("call", ["submit", "await_thread", "await_daemon_thread"])
def test_nothing_waits_for_a_thread_that_was_created_but_can_not_begin(tmp_path, call):
    ended = programs.run(tmp_path, STARVED, "stream", call)
    assert ended.out == "all came back\n", ended.err


def test_an_end_needs_no_thread(monkeypatch):
    executor = ProcessExecutor()
    executor.submit(os.getpid).result(10)

    def refuse(*args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(limits, "check_threads", refuse)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    executor.shutdown(wait=False)
    assert executor.exited.result(10) == 0


def test_an_answer_for_which_there_is_no_memory_ends_the_worker_and_says_so(monkeypatch):
    def refuse(*args):
        raise MemoryError

    executor = ProcessExecutor()
    executor.submit(os.getpid).result(10)
    monkeypatch.setattr(frames, "bytearray", refuse, raising=False)
    call = executor.submit(bytes, 5_000_000)
    with pytest.raises(BrokenExecutor, match=r"MemoryError: +\(raise the limit of memory"):
        call.result(10)
    assert executor.exited.result(10) is None  # the executor ended the process, so its exit code says nothing


class TooLarge:
    def __reduce__(self):
        return too_large, ()


def too_large():
    raise MemoryError


def test_an_answer_that_can_not_be_unpickled_for_lack_of_memory_ends_the_worker_and_says_so():
    executor = ProcessExecutor()
    with pytest.raises(BrokenExecutor, match=r"MemoryError: +\(raise the limit of memory"):
        executor.submit(TooLarge).result(10)
    assert executor.exited.result(10) is None


ROOMY = """
from tests.inside import in_thread

async def main():
    threading.stack_size(1 << 18)
    await anyio.to_thread.run_sync(int)  # this leaves an idle thread
    leave_memory(60)
    print("name", await in_thread(lambda: threading.current_thread().name))
    print("stack", threading.stack_size())

asyncio.run(main())
"""


def test_with_60_mb_of_address_space_a_thread_is_made_or_used_and_the_size_of_stacks_is_as_it_was(tmp_path):
    ended = programs.run(tmp_path, ROOMY, "stream")
    assert ended.out == "name AnyIO worker thread\nstack 262144\n", ended.err


@TRANSPORTS
def test_with_100_mb_of_data_the_stream_is_right(tmp_path, transport):
    """The limit counts only data, not address space that is only reserved."""
    assert run(tmp_path, transport, limit="leave_memory(100, resource.RLIMIT_DATA)") == "right"


@TRANSPORTS
def test_with_two_gigabytes_of_address_space_the_stream_is_right(tmp_path, transport):
    assert run(tmp_path, transport, limit="leave_memory(2000)", size=100_000) == "right"


@TRANSPORTS
def test_a_worker_with_too_little_memory_fails_with_the_item_that_needs_more(tmp_path, transport):
    outcome = run(tmp_path, transport, initializer="leave_little_memory", size=30_000_000, workers=1)
    assert outcome.startswith("ProducerError: shard 0, position 0 (next)"), outcome
    assert "MemoryError" in outcome
    assert "raise the limit of memory" in outcome


@pytest.mark.both_loops
async def test_where_there_can_be_no_more_threads_large_batches_and_states_are_made_on_the_loop(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    async with AsyncPrefetcher(Count(5, items="huge"), workers=inline) as loader:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            got = [(await anext(loader))["n"] for _ in range(2)]
            state = await loader.get_state()
        got += [batch["n"] async for batch in loader]
    assert got == [0, 1, 2, 3, 4]
    assert state.delivered.total == 2
