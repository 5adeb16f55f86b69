"""After several writes to one file, the file has the content of the last call, wherever the other writes are delayed."""

import asyncio
import itertools
import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from asyncprefetch import AsyncPrefetcherState, CheckpointError
from tests.faults.containers import document_of, make_container
from tests.inside import Turn, container, file_limiter, files, in_file_thread, save_order, write_file

SOON = 20  # seconds, far more than any step needs
OLD = AsyncPrefetcherState.from_bytes(make_container(document_of(item=1)))
NEW = AsyncPrefetcherState.from_bytes(make_container(document_of(item=2)))


class Gate:
    """Holds the first call of a function outside of the main thread. All later calls pass."""

    def __init__(self, monkeypatch, module, name):
        self.reached, self._opened = threading.Event(), threading.Event()
        calls, original = itertools.count(), getattr(module, name)

        def gated(*args, **kwargs):
            if threading.current_thread() is not threading.main_thread() and next(calls) == 0:
                self.reached.set()
                assert self._opened.wait(SOON)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, gated)

    def open(self):
        self._opened.set()


@pytest.fixture(autouse=True)
def _nothing_is_kept():
    yield
    assert save_order._book.turns == set()
    assert save_order._book.files == {}


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def gate(monkeypatch, pool):
    """A function that makes gates. All gates are opened at the end, so that a failed test leaves no thread."""
    made = []

    def make(module, name):
        made.append(Gate(monkeypatch, module, name))
        return made[-1]

    yield make
    for one in made:
        one.open()


@pytest.fixture
def saves_ended(monkeypatch):
    """A semaphore that counts the saves whose threads have finished."""
    ended = threading.Semaphore(0)
    save = AsyncPrefetcherState._save

    def watched(*args):
        try:
            save(*args)
        finally:
            ended.release()

    monkeypatch.setattr(AsyncPrefetcherState, "_save", watched)
    return ended


def only(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# -------------------------------------------------------------------------------------------------------- cancelled saves


STEPS = {  # the steps of a save in its thread
    "begin": (AsyncPrefetcherState, "_save"),
    "pack": (container, "pack_parts"),
    "resolve": (os.path, "realpath"),
    "sync": (os, "fsync"),
}


async def cancelled_at(held, save):
    task = asyncio.create_task(save)
    assert await asyncio.to_thread(held.reached.wait, SOON)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("step", STEPS)
async def test_a_save_that_was_cancelled_does_not_replace_what_a_later_one_wrote(tmp_path, gate, saves_ended, step):
    held = gate(*STEPS[step])
    await cancelled_at(held, OLD.save(tmp_path / "state"))
    await NEW.save(tmp_path / "state")
    held.open()
    for _ in range(2):
        assert await asyncio.to_thread(saves_ended.acquire, timeout=SOON)
    assert only(tmp_path) == {"state": NEW.to_bytes()}


@pytest.mark.parametrize("step", [step for step in STEPS if step != "begin"])
async def test_a_save_that_is_cancelled_still_completes_where_no_later_one_came(tmp_path, gate, saves_ended, step):
    held = gate(*STEPS[step])
    await cancelled_at(held, NEW.save(tmp_path / "state"))
    held.open()
    assert await asyncio.to_thread(saves_ended.acquire, timeout=SOON)
    assert only(tmp_path) == {"state": NEW.to_bytes()}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.both_loops
async def test_of_two_saves_that_are_both_waited_for_the_one_that_was_called_last_stays(tmp_path, gate, step):
    held = gate(*STEPS[step])
    older = asyncio.create_task(OLD.save(tmp_path / "state"))
    assert await asyncio.to_thread(held.reached.wait, SOON)
    await NEW.save(tmp_path / "state")
    held.open()
    await older
    assert only(tmp_path) == {"state": NEW.to_bytes()}


@pytest.mark.both_loops
async def test_a_save_that_is_cancelled_before_its_thread_begins_writes_and_keeps_nothing(tmp_path):
    await in_file_thread(int)  # the first call of a loop makes the limiter
    limiter = file_limiter()
    limiter.total_tokens = 1
    async with limiter:
        task = asyncio.create_task(NEW.save(tmp_path / "state"))
        while limiter.statistics().tasks_waiting == 0:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert only(tmp_path) == {}


def test_a_thread_that_begins_just_as_its_save_was_cancelled_writes_nothing(tmp_path):
    with Turn() as turn:
        pass
    with pytest.raises(CheckpointError, match="cancelled before it began"):
        NEW._save(tmp_path / "state", turn)
    assert only(tmp_path) == {}


async def test_a_forgotten_save_may_be_collected_while_another_turn_is_taken(tmp_path):
    save = NEW.save(tmp_path / "state")
    save.send(None)  # the save takes its turn
    with save_order._book.lock:
        save.close()
    assert only(tmp_path) == {}


# --------------------------------------------------------------------------------------------------------- which file it is


@pytest.mark.parametrize("spelled", ["file", "folder/../file", "linked/file"])
def test_one_file_has_many_paths(tmp_path, monkeypatch, pool, gate, spelled):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path)
    held = gate(os, "fsync")
    older = pool.submit(write_file, spelled, b"older")
    assert held.reached.wait(SOON)
    write_file(tmp_path / "file", b"newer")
    held.open()
    older.result(SOON)
    assert only(tmp_path) == {"file": b"newer"}


@pytest.mark.parametrize("other", ["folder/file", "link"])
def test_a_file_of_that_name_elsewhere_and_a_link_to_it_are_other_files(tmp_path, pool, gate, other):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    held = gate(os, "fsync")
    older = pool.submit(write_file, tmp_path / other, b"older")
    assert held.reached.wait(SOON)
    write_file(tmp_path / "file", b"newer")
    held.open()
    older.result(SOON)
    assert (tmp_path / other).read_bytes() == b"older"
    assert (tmp_path / "file").read_bytes() == b"newer"


def test_what_is_kept_of_files_goes_though_a_write_to_another_one_hangs(tmp_path, pool, gate):
    held = gate(os, "fsync")
    hanging = pool.submit(write_file, tmp_path / "hanging", b"data")
    assert held.reached.wait(SOON)
    for number in range(50):
        write_file(tmp_path / str(number), b"data")
    assert len(save_order._book.files) == 1
    held.open()
    hanging.result(SOON)


# ----------------------------------------------------------------------------------------------------------------- the disk


def test_a_later_write_that_failed_stops_no_earlier_one(tmp_path, monkeypatch, pool, gate):
    def fail(*args):
        raise OSError(28, "No space left on device")

    held = gate(os, "fsync")
    older = pool.submit(write_file, tmp_path / "file", b"older")
    assert held.reached.wait(SOON)
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, fail)
            with pytest.raises(CheckpointError, match="No space left"):
                write_file(tmp_path / "file", b"newer")
    held.open()
    older.result(SOON)
    assert only(tmp_path) == {"file": b"older"}


def test_a_write_that_was_overtaken_returns_when_the_name_of_the_newer_file_is_on_the_disk(
    tmp_path, monkeypatch, pool, gate
):
    """The newer write may not have synced the directory yet, and then a power cut could lose both."""
    older_at_sync = gate(os, "fsync")
    older = pool.submit(write_file, tmp_path / "file", b"older")
    assert older_at_sync.reached.wait(SOON)
    newer_at_directory = gate(files, "_sync_directory")
    newer = pool.submit(write_file, tmp_path / "file", b"newer")
    assert newer_at_directory.reached.wait(SOON)
    synced, fsync = [], os.fsync

    def watched(descriptor):
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    older_at_sync.open()
    older.result(SOON)
    assert synced == [True]
    newer_at_directory.open()
    newer.result(SOON)
    assert only(tmp_path) == {"file": b"newer"}


def test_a_newer_write_waits_for_the_rename_of_an_older_one(tmp_path, monkeypatch, pool):
    """No write may happen between an older write's check of the file and its rename."""
    newer_came = threading.Event()  # the newer write waits for the lock, or has renamed

    class Lock:
        def __init__(self):
            self._lock = threading.Lock()

        def __enter__(self):
            if not self._lock.acquire(blocking=False):
                newer_came.set()
                assert self._lock.acquire(timeout=SOON)

        def __exit__(self, *exc_info):
            self._lock.release()

    class File(save_order._File):
        def __init__(self):
            super().__init__()
            self.lock = Lock()

    newer, replace = [], os.replace

    def replaced(source, target):
        if newer:
            replace(source, target)
            newer_came.set()
            return
        newer.append(pool.submit(write_file, tmp_path / "file", b"newer"))
        assert newer_came.wait(SOON)
        replace(source, target)

    monkeypatch.setattr(save_order, "_File", File)
    monkeypatch.setattr(os, "replace", replaced)
    write_file(tmp_path / "file", b"older")
    newer[0].result(SOON)
    assert only(tmp_path) == {"file": b"newer"}


FORK = """
import os, signal, sys, threading
from tests.inside import write_file

reached, opened, replace = threading.Event(), threading.Event(), os.replace

def held(source, target):
    os.replace = replace
    reached.set()
    opened.wait(20)
    replace(source, target)

os.replace = held
thread = threading.Thread(target=write_file, args=(sys.argv[1], b"parent"))
thread.start()
assert reached.wait(20)
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    write_file(sys.argv[1], b"child")
    os._exit(0)
print(os.waitpid(pid, 0)[1], open(sys.argv[1], "rb").read())
opened.set()
thread.join()
"""


def test_a_process_that_is_forked_during_a_rename_can_write_that_file(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, str(tmp_path / "file")],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stdout.strip() == "0 b'child'", done.stderr
