"""The executor of one worker process, from outside; and the options for worker processes."""

import asyncio
import dataclasses
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import BrokenExecutor, CancelledError, Future
from pathlib import Path

import pytest

from asyncprefetch import AsyncPrefetcher, WorkerDiedError
from asyncprefetch.executors import InlineExecutor, ProcessExecutor, ProcessWorkers, default_start_method
from tests.conftest import descriptors, shared_memory
from tests.inside import out_of_memory, worker_process
from tests.pipelines.counting import Count
from tests.processes import EACH_WAY, WAYS, gone, launch

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def test_inline_calls_run_at_once_in_the_calling_thread():
    executor = InlineExecutor()
    assert executor.submit(threading.get_ident).result(0) == threading.get_ident()
    future = executor.submit(int, "x")
    assert isinstance(future.exception(0), ValueError)


def test_a_fork_server_is_preferred_where_there_is_one():
    assert default_start_method() == "forkserver"


# ------------------------------------------------------------------------------------------------- calls and answers


@EACH_WAY
def test_a_process_answers_in_order_and_its_exit_code_is_known(way):
    executor = ProcessExecutor(**WAYS[way])
    assert executor.pid is None
    futures = [executor.submit(pow, 2, n) for n in range(5)]
    assert [future.result(30) for future in futures] == [1, 2, 4, 8, 16]
    assert executor.submit(os.getpid).result(30) == executor.pid != os.getpid()
    executor.shutdown(wait=True)
    assert executor.exited.result(0) == 0
    with pytest.raises(BrokenExecutor, match="was shut down"):
        executor.submit(os.getpid)


@EACH_WAY
def test_a_program_may_join_all_its_children_while_an_executor_ends_one(way):
    """multiprocessing does so when a program ends."""
    with ProcessExecutor(**WAYS[way]) as executor:
        executor.submit(os.getpid).result(30)
        children = multiprocessing.active_children()
    for child in children:
        child.join()


@EACH_WAY
def test_long_calls_and_long_answers_that_cross_do_not_wait_for_each_other(way):
    """No socket holds them. The worker sends the first answer while the loader sends the second call."""
    long = b"x" * 5_000_000
    with ProcessExecutor(**WAYS[way]) as executor:
        futures = [executor.submit(bytes.upper, long) for _ in range(3)]
        assert [future.result(30) == long.upper() for future in futures] == [True] * 3
        # And once more when nothing else is under way that would wake the thread.
        assert executor.submit(len, long).result(30) == len(long)


def test_a_shutdown_while_a_long_call_is_being_sent_does_the_call():
    with ProcessExecutor() as executor:
        executor.submit(os.getpid).result(30)
        future = executor.submit(len, b"x" * 5_000_000)
    assert future.result(0) == 5_000_000
    assert executor.exited.result(0) == 0


def test_a_process_that_is_shut_down_while_it_starts_does_what_was_asked_before():
    with ProcessExecutor() as executor:
        future = executor.submit(pow, 2, 5)
    assert future.result(0) == 32
    assert executor.exited.result(0) == 0


def test_a_call_that_was_submitted_can_not_be_cancelled():
    with ProcessExecutor() as executor:
        future = executor.submit(pow, 2, 5)
        assert not future.cancel()
        executor.shutdown(wait=False, cancel_futures=True)
        assert future.result(30) == 32


class TwoArgumentsError(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class Unreadable:
    """Can be pickled; unpickling raises what it is told."""

    def __init__(self, error=ValueError):
        self.error = error

    def __reduce__(self):
        return refuse, (self.error,)


def refuse(error):
    raise error("refused")


def two_arguments():
    raise TwoArgumentsError("one", "two")


def test_an_exception_keeps_its_type_and_the_traceback_of_the_worker():
    with ProcessExecutor() as executor:
        error = executor.submit(int, "x").exception(30)
        assert isinstance(error, ValueError)
        assert str(error) == "invalid literal for int() with base 10: 'x'"
        error = executor.submit(refuse, KeyError).exception(30)
        assert isinstance(error, KeyError)
        assert "In the worker:" in error.__notes__[0]
        assert "in refuse" in error.__notes__[0]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ((two_arguments,), "TwoArgumentsError: one and two"),
        ((threading.Lock,), "cannot pickle '_thread.lock' object"),  # the value can't be sent
        ((Unreadable,), "refused"),  # nor read here
        ((Unreadable, SystemExit), "SystemExit: refused"),
        ((len, Unreadable()), "refused"),  # the argument can't be read there
        ((len, threading.Lock()), "cannot pickle '_thread.lock' object"),  # nor sent
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_not_be_pickled_or_unpickled_is_an_error_of_its_call_alone(call, text):
    with ProcessExecutor() as executor:
        before, failed, after = executor.submit(pow, 2, 3), executor.submit(*call), executor.submit(pow, 2, 4)
        error = failed.exception(30)
        assert isinstance(error, Exception)
        assert text in str(error)
        assert (before.result(30), after.result(30)) == (8, 16)


@pytest.mark.parametrize(
    "error",
    [
        StopIteration,
        StopAsyncIteration,
        asyncio.CancelledError,
        CancelledError,
        SystemExit,
        KeyboardInterrupt,
        GeneratorExit,
    ],
)
async def test_an_exception_that_would_steer_the_caller_arrives_as_another(error):
    with ProcessExecutor() as executor:
        async with asyncio.timeout(30):
            with pytest.raises(RuntimeError, match=f"{error.__name__}: refused"):
                await asyncio.get_running_loop().run_in_executor(executor, refuse, error)
        assert executor.submit(pow, 2, 3).result(30) == 8


# ------------------------------------------------------------------------------------------------------------- death


@EACH_WAY
def test_a_killed_process_breaks_its_calls_and_says_how_it_ended(way):
    executor = ProcessExecutor(**WAYS[way])
    pid = executor.submit(os.getpid).result(30)
    waiting = executor.submit(signal.pause)
    os.kill(pid, signal.SIGSEGV)
    with pytest.raises(BrokenExecutor):
        waiting.result(30)
    assert executor.exited.result(30) == -signal.SIGSEGV
    assert executor.pid == pid


@EACH_WAY
def test_an_exit_within_a_call_is_a_death_with_its_code(way):
    executor = ProcessExecutor(**WAYS[way])
    with pytest.raises(BrokenExecutor):
        executor.submit(os._exit, 7).result(30)
    assert executor.exited.result(30) == 7


def test_the_exit_code_of_a_fork_server_is_not_read_while_another_process_is_started():
    """It is told once, and multiprocessing asks for those of all processes whenever it starts one."""
    executor = ProcessExecutor(start_method="forkserver")
    executor.submit(os.getpid).result(30)
    with worker_process.starting:
        call = executor.submit(os._exit, 7)
        assert isinstance(call.exception(30), BrokenExecutor)  # a death does not wait for a start
        assert not executor.exited.done()
    assert executor.exited.result(30) == 7


def test_answers_that_came_before_the_death_count():
    executor = ProcessExecutor()
    dead = threading.Event()
    first = executor.submit(os.getpid)
    first.add_done_callback(lambda _: dead.wait(30))  # the executor's thread reads nothing more for now
    second, third = executor.submit(pow, 2, 3), executor.submit(os.kill, os.getpid(), 0)
    last = executor.submit(os._exit, 3)
    assert gone(first.result(30), 30)
    dead.set()
    assert (second.result(30), third.result(30)) == (8, None)
    assert isinstance(last.exception(30), BrokenExecutor)


def test_a_worker_that_has_closed_its_socket_is_ended():
    """As a program does that turns into a daemon."""
    executor = ProcessExecutor()
    with pytest.raises(BrokenExecutor):
        executor.submit(close_everything).result(30)
    executor.exited.result(30)


def close_everything():
    os.closerange(3, 1000)
    signal.pause()


def test_a_kill_within_a_submit_leaves_no_call_without_an_answer(monkeypatch):
    """A garbage collection or a signal handler may kill at any moment."""
    executor = ProcessExecutor()
    send = executor._send

    def kill_first(buffers):
        executor.kill()
        send(buffers)

    monkeypatch.setattr(executor, "_send", kill_first)
    with pytest.raises(BrokenExecutor):
        executor.submit(os.getpid)
    assert executor.exited.result(30) is None


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_neither_ends_nor_uses_the_worker_of_its_parent():
    with ProcessExecutor() as executor:
        pid = executor.submit(os.getpid).result(30)
        child = os.fork()
        if child == 0:
            try:
                executor.shutdown(wait=False)
                executor.submit(os.getpid)
            except BrokenExecutor as error:
                os._exit(0 if "make another one" in str(error) else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert executor.submit(os.getpid).result(30) == pid


def test_a_thread_goes_on_with_its_worker_after_the_main_thread_has_ended():
    code = """
import threading
from asyncprefetch.executors import ProcessExecutor

def train():
    threading.main_thread().join()
    print(executor.submit(pow, 2, 3).result(30))

if __name__ == "__main__":
    executor = ProcessExecutor()
    executor.submit(int).result()
    threading.Thread(target=train).start()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stdout) == (0, "8\n"), done.stderr


def test_a_process_can_be_killed_at_any_time():
    never_started = ProcessExecutor()
    never_started.kill()
    assert never_started.exited.result(0) is None
    with pytest.raises(BrokenExecutor):
        never_started.submit(os.getpid)
    starting = ProcessExecutor()
    call = starting.submit(os.getpid)
    starting.kill()
    starting.exited.result(30)
    assert isinstance(call.exception(30), BrokenExecutor) or call.result(30)
    busy = ProcessExecutor()
    busy.submit(os.getpid).result(30)
    busy.submit(signal.pause)
    busy.kill()
    assert busy.exited.result(30) == -signal.SIGKILL
    busy.kill()  # again, when it is gone


def test_a_kill_while_the_process_is_being_started_ends_it_after_the_start(monkeypatch):
    start, may_start, is_starting = worker_process.start, threading.Event(), threading.Event()

    def slow(*args):
        is_starting.set()
        assert may_start.wait(30)
        return start(*args)

    monkeypatch.setattr(worker_process, "start", slow)
    executor = ProcessExecutor()
    call = executor.submit(signal.pause)
    assert is_starting.wait(30)
    executor.kill()
    may_start.set()
    assert isinstance(call.exception(30), BrokenExecutor)
    assert executor.exited.result(30) == -signal.SIGKILL


def test_a_worker_can_be_killed_from_within_a_call():
    """A garbage collection may kill the worker of a forgotten loader at any allocation, within any of our locks."""
    executor = ProcessExecutor()
    executor.submit(os.getpid).result(30)
    with executor._lock, executor._process._guard:
        executor.kill()
    assert executor.exited.result(30) == -signal.SIGKILL


def test_a_copy_in_a_forked_process_kills_nothing():
    with ProcessExecutor() as executor:
        executor.submit(os.getpid).result(30)
        with executor._lock:  # as another thread of the parent may hold it at the fork
            child = os.fork()
            if child == 0:
                signal.alarm(10)
                threading.Thread(target=lambda: (executor.kill(), os._exit(0))).start()
                signal.pause()
        assert os.waitpid(child, 0)[1] == 0
        assert executor.submit(pow, 2, 3).result(30) == 8


def refuse_to_start(error, monkeypatch):
    def refuse(*args):
        raise error

    monkeypatch.setattr(worker_process, "start", refuse)


def test_what_can_not_be_started_breaks_the_calls(monkeypatch):
    refuse_to_start(OSError(11, "no more processes"), monkeypatch)
    executor = ProcessExecutor()
    with pytest.raises(BrokenExecutor, match=r"BlockingIOError: .* no more processes"):
        executor.submit(os.getpid).result(30)
    assert executor.exited.result(30) is None


@pytest.mark.parametrize("error", [ConnectionResetError(), EOFError("unexpected EOF")])
def test_a_fork_server_that_ends_during_the_start_is_a_hint_at_the_main_guard(monkeypatch, error):
    """Since Python 3.14 the fork server imports the main module, and ends if that starts a loader."""
    refuse_to_start(error, monkeypatch)
    executor = ProcessExecutor()
    with pytest.raises(BrokenExecutor, match=r"It died before .* start the loader under `if __name__ == '__main__':`"):
        executor.submit(os.getpid).result(30)
    assert executor.exited.result(30) is None


@pytest.mark.parametrize(("counts", "rose"), [((5, 7), 2), ((5, 5), 0), ((5, None), 0), ((5, 3), 0), ((None, 5), 0)])
def test_kills_for_want_of_memory_are_none_where_their_count_fell_or_can_not_be_read(monkeypatch, counts, rose):
    read = iter(counts)
    refuse_to_start(OSError(11, "no more processes"), monkeypatch)
    monkeypatch.setattr(out_of_memory, "kills", lambda: next(read))
    executor = ProcessExecutor()
    with pytest.raises(BrokenExecutor):
        executor.submit(os.getpid).result(30)
    executor.exited.result(30)
    assert executor.oom_kills == rose


def test_a_call_that_comes_just_as_the_start_fails_is_told_why(monkeypatch):
    executor = ProcessExecutor()
    told = []

    class RefusedError(OSError):
        def __str__(self):  # asked for while the failure is being worked up
            if not told:
                told.append("")
                try:
                    told.append(executor.submit(os.getpid))
                except BrokenExecutor as error:
                    told.append(error)
            return "no more processes"

    refuse_to_start(RefusedError(), monkeypatch)
    first = executor.submit(os.getpid)
    executor.exited.result(30)
    [_, second] = told
    if isinstance(second, Future):
        second = second.exception(0)
    assert "no more processes" in str(second)
    assert str(second) == str(first.exception(0))


@EACH_WAY
def test_an_initializer_that_raises_breaks_every_call_with_its_error(capfd, way):
    executor = ProcessExecutor(initializer=refuse, initargs=(KeyError,), **WAYS[way])
    first = executor.submit(os.getpid).exception(30)
    with pytest.raises(BrokenExecutor, match=r"^the initializer raised KeyError: 'refused'$"):
        executor.submit(os.getpid)
    assert (type(first), str(first)) == (BrokenExecutor, "the initializer raised KeyError: 'refused'")
    assert isinstance(first.__cause__, KeyError)
    assert "In the worker:" in first.__notes__[0]
    assert "in refuse" in first.__notes__[0]
    assert executor.exited.result(30) is None
    if way != "forkserver":  # the server has the standard error of its own start
        assert "KeyError: 'refused'" in capfd.readouterr().err


def refuse_with_a_hook_that_raises():
    sys.excepthook = refuse
    raise KeyError("refused")


def test_the_error_of_an_initializer_arrives_though_a_hook_for_errors_raises():
    executor = ProcessExecutor(initializer=refuse_with_a_hook_that_raises)
    assert str(executor.submit(os.getpid).exception(30)) == "the initializer raised KeyError: 'refused'"
    executor.shutdown(wait=True)


def test_an_initializer_without_memory_is_not_a_lack_of_memory_here():
    executor = ProcessExecutor(initializer=refuse, initargs=(MemoryError,))
    error = executor.submit(os.getpid).exception(30)
    executor.shutdown(wait=True)
    assert str(error).startswith("the initializer raised MemoryError: refused (raise the limit of memory")
    assert error.__cause__ is None


def test_an_initializer_that_exits_ends_the_process_with_its_code():
    executor = ProcessExecutor(initializer=sys.exit, initargs=(5,))
    assert isinstance(executor.submit(os.getpid).exception(30), BrokenExecutor)
    assert executor.exited.result(30) == 5


async def test_a_loader_reports_what_the_initializer_of_its_executor_raised():
    loader = AsyncPrefetcher(Count(3), workers=lambda worker: ProcessExecutor(initializer=refuse, initargs=(KeyError,)))
    async with asyncio.timeout(30), loader:
        with pytest.raises(WorkerDiedError, match="BrokenExecutor: the initializer raised KeyError: 'refused'"):
            await anext(loader)


class OfManyBytes:
    """Takes 64 MB when it is pickled, and next to nothing after that."""

    def __reduce__(self):
        return len, (b"x" * (64 << 20),)


def resident(unused):
    """MB of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def test_the_bytes_of_a_call_are_freed_before_it_runs():
    """A run is one call, and brings the states of all shards."""
    with ProcessExecutor() as executor:
        before = executor.submit(resident, 0).result(30)
        assert executor.submit(resident, OfManyBytes()).result(30) < before + 32


SIGCHLD_IGNORED = """
import os, signal, sys
from asyncprefetch.executors import ProcessExecutor
if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    how = {"env": {}} if sys.argv[1] == "env" else {"start_method": sys.argv[1]}
    for way in (os._exit, 3), (pow, 2, 3):
        executor = ProcessExecutor(**how)
        call = executor.submit(*way)
        call.exception(30)
        executor.shutdown(wait=True)
        print(executor.exited.result(0))
"""


@EACH_WAY
def test_where_the_program_ignores_sigchld_a_death_is_seen_and_its_exit_code_is_not_known(tmp_path, way):
    """The system reaps the children of such a program. The fork server reaps its own."""
    with launch(tmp_path, SIGCHLD_IGNORED, way, warnings="ignore") as process:
        out, err = process.communicate(timeout=30)
    assert (out.split(), err) == (["3", "0"] if way == "forkserver" else ["None", "None"], "")


# ------------------------------------------------------------------------------------------------- the worker's world


@EACH_WAY
@pytest.mark.both_loops
async def test_a_signal_to_a_worker_is_none_to_the_program_that_handles_it(way):
    handled = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, handled.append, "in the loop")
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    executor = ProcessExecutor(**WAYS[way])
    try:
        pid = await asyncio.wrap_future(executor.submit(os.getpid))
        names = await asyncio.wrap_future(executor.submit(_handled_signals))
        os.kill(pid, signal.SIGTERM)
        assert await asyncio.wait_for(asyncio.wrap_future(executor.exited), 30) == -signal.SIGTERM
        await asyncio.sleep(0)  # a turn of the loop, which would have read it from its wakeup descriptor
        assert handled == []
        assert names == []
        os.kill(os.getpid(), signal.SIGTERM)
        while not handled:
            await asyncio.sleep(0)  # the program's own handlers are as they were
    finally:
        executor.kill()
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGUSR1, before)


def _handled_signals():
    return [number for number in signal.valid_signals() if callable(signal.getsignal(number))]


@EACH_WAY
def test_a_change_of_the_environment_reaches_the_next_worker(monkeypatch, way):
    """That of a fork server is the one of its start."""
    with ProcessExecutor(**WAYS[way]) as executor:
        executor.submit(os.getpid).result(30)
    monkeypatch.setenv("ASYNCPREFETCH_TEST", "set")
    monkeypatch.delenv("HOME", raising=False)
    with ProcessExecutor(**WAYS[way]) as executor:
        assert executor.submit(os.getenv, "ASYNCPREFETCH_TEST").result(30) == "set"
        assert executor.submit(os.getenv, "HOME").result(30) is None


def test_a_given_environment_is_in_place_before_any_module_is_imported():
    hashes = []
    for _ in range(2):
        with ProcessExecutor(env={"PYTHONHASHSEED": "1", "ASYNCPREFETCH_TEST": "given"}) as executor:
            hashes.append(executor.submit(hash, "asyncprefetch").result(30))
            assert executor.submit(os.getenv, "ASYNCPREFETCH_TEST").result(30) == "given"
    assert hashes[0] == hashes[1]
    assert "ASYNCPREFETCH_TEST" not in os.environ


def receive(name, numbers):
    end = socket.socket(fileno=numbers[0])
    end.sendall(f"{name}: {len(numbers)}".encode() + os.read(numbers[1], 10))


@EACH_WAY
def test_descriptors_are_handed_to_the_initializer_and_closed_here(way):
    before = descriptors().keys()
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe()
    os.write(writing, b" read")
    executor = ProcessExecutor(initializer=receive, initargs=("worker",), descriptors=[theirs, reading], **WAYS[way])
    executor.submit(os.getpid).result(30)
    assert ours.recv(100) == b"worker: 2 read"
    assert theirs.fileno() == -1
    assert reading not in descriptors()
    executor.shutdown()
    ours.close()
    os.close(writing)
    assert len(descriptors().keys() - before) <= 2  # those of the fork server


@pytest.mark.parametrize("how", ["kill", "shut down", "not started"])
def test_descriptors_that_no_worker_gets_are_closed(monkeypatch, how):
    ours, theirs = socket.socketpair()
    executor = ProcessExecutor(descriptors=[theirs])
    if how == "kill":
        executor.kill()
    elif how == "shut down":
        executor.shutdown()
    else:
        refuse_to_start(OSError(11, "no more processes"), monkeypatch)
        executor.submit(os.getpid)
    executor.exited.result(30)
    assert theirs.fileno() == -1
    ours.close()


@EACH_WAY
def test_a_worker_costs_one_thread_and_few_descriptors(way):
    with ProcessExecutor(**WAYS[way]) as other:  # the fork server is started once
        other.submit(os.getpid).result(30)
    before = threading.active_count(), len(descriptors())
    with ProcessExecutor(**WAYS[way]) as executor:
        executor.submit(os.getpid).result(30)
        # A socket, and two of multiprocessing's; or a pipe and a pidfd. A fork has all of them.
        more = threading.active_count() - before[0], len(descriptors()) - before[1]
        assert more == (1, 4 if way == "fork" else 3)
        # Its main thread, and the one that waits for the end of the parent. numpy may have started others.
        assert executor.submit(threading.active_count).result(30) == 2


@EACH_WAY
def test_nothing_of_a_worker_is_in_dev_shm(way):
    """A name there outlives a program that is killed with all its helpers."""
    before = shared_memory()
    with ProcessExecutor(**WAYS[way]) as executor:
        assert executor.submit(shared_memory).result(30) <= before
        assert shared_memory() <= before


def test_a_worker_of_a_daemonic_process_is_started_all_the_same():
    """multiprocessing refuses children to those."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=a_daemon, args=(theirs,), daemon=True)
    process.start()
    assert mine.poll(30)
    assert mine.recv() == 8
    process.join()


def a_daemon(pipe):
    with ProcessExecutor() as executor:
        pipe.send(executor.submit(pow, 2, 3).result(30))


# ------------------------------------------------------------------------------------------------------ whole programs


def run(tmp_path, text, *arguments, **how):
    with launch(tmp_path, textwrap.dedent(text), *arguments, **how) as process:
        out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.mark.parametrize("way", ["forkserver", "spawn", "env"])
def test_a_worker_imports_neither_asyncio_nor_what_runs_on_the_loop(tmp_path, way):
    code, out, err = run(
        tmp_path,
        """
        import sys
        if __name__ == "__main__":
            from asyncprefetch.executors import ProcessExecutor
            with ProcessExecutor(**eval(sys.argv[1])) as executor:
                modules = executor.submit(eval, "list(__import__('sys').modules)").result(30)
            print("asyncprefetch._worker.bootstrap" in modules)
            others = "asyncio", "anyio", "asyncprefetch._loop", "asyncprefetch._process"
            print([name for name in modules if name.startswith(others)])
        """,
        repr(WAYS[way]),
    )
    assert (code, out, err) == (0, "True\n[]\n", "")


@pytest.mark.parametrize("way", ["forkserver", "spawn", "env"])
def test_a_worker_imports_no_asyncio_because_the_main_module_imports_the_loader(tmp_path, way):
    code, out, err = run(
        tmp_path,
        """
        import sys
        from asyncprefetch import AsyncPrefetcher, ProcessWorkers, StatefulIterator

        class Modules(StatefulIterator[list[str]], kind="tests.modules"):
            def create_iter(self):
                yield list(sys.modules)

        async def main():
            workers = {**eval(sys.argv[1])}
            async with AsyncPrefetcher(Modules(), workers=ProcessWorkers(**workers)) as loader:
                modules = await anext(loader)
            print("asyncprefetch.prefetcher" in modules)
            print([name for name in modules if name.startswith(("asyncio", "anyio", "asyncprefetch._loop.core"))])

        if __name__ == "__main__":
            import asyncio
            asyncio.run(main())
        """,
        repr(WAYS[way]),
    )
    assert (code, out, err) == (0, "True\n[]\n", "")


def test_a_program_loads_the_loops_side_when_it_imports_the_loader(tmp_path):
    code, out, err = run(
        tmp_path,
        """
        import sys
        from asyncprefetch import AsyncPrefetcher, IteratorState
        print({"anyio", "asyncprefetch._loop.core"} <= set(sys.modules), IteratorState.__pydantic_complete__)
        """,
    )
    assert (code, out, err) == (0, "True True\n", "")


PROGRAM = """
    import os, sys
    from asyncprefetch.executors import ProcessExecutor

    AT_IMPORT = os.environ.get("ASYNCPREFETCH_TEST")

    class Value:
        pass

    def where(value):
        assert type(value) is Value
        return os.getcwd(), sys.argv[1:], AT_IMPORT, where.__module__

    if __name__ == "__main__":
        os.chdir("/")
        with ProcessExecutor(**eval(sys.argv[1])) as executor:
            print(*executor.submit(where, Value()).result(30)[2:])
            assert executor.submit(where, Value()).result(30)[:2] == ("/", sys.argv[1:])
"""


@pytest.mark.parametrize("form", ["script", "module"])
@pytest.mark.parametrize("way", ["forkserver", "spawn", "env"])
def test_functions_and_classes_of_the_main_module_are_found(tmp_path, way, form):
    (tmp_path / "some_program.py").write_text(textwrap.dedent(PROGRAM))
    arguments = ["-m", "some_program"] if form == "module" else ["some_program.py"]
    how = {"env": {"ASYNCPREFETCH_TEST": "given"}} if way == "env" else WAYS[way]
    done = subprocess.run(
        [sys.executable, *arguments, repr(how)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stderr, done.stdout) == ("", f"{'given' if way == 'env' else None} __mp_main__\n")


@pytest.mark.parametrize("way", ["forkserver", "spawn", "env"])
def test_a_program_without_a_main_guard_starts_one_worker_and_ends(tmp_path, way):
    code, out, err = run(
        tmp_path,
        """
        import os, sys
        from asyncprefetch.executors import ProcessExecutor
        print("imported", flush=True)
        executor = ProcessExecutor(**eval(sys.argv[1]))
        print(type(executor.submit(os.getpid).exception(30)).__name__)
        """,
        repr(WAYS[way]),
    )
    assert code == 0, err
    # The worker ends when it would start a worker of its own. Only one line says so.
    assert sorted(out.split()) == ["BrokenExecutor", "imported", "imported"]
    assert err == (
        "asyncprefetch: a worker imports this script, which starts a worker again: start the loader under "
        "`if __name__ == '__main__':`\n"
    )


def test_a_thread_of_a_main_module_without_a_guard_starts_no_worker_either(tmp_path):
    code, out, err = run(
        tmp_path,
        """
        import os, sys, threading
        from asyncprefetch.executors import ProcessExecutor
        def work():
            executor = ProcessExecutor(env={})
            print(repr(executor.submit(os.getpid).exception(30)))
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        """,
    )
    assert (code, err) == (0, "")
    assert "the program's main module starts a worker while a worker imports it" in out


@pytest.mark.parametrize("way", ["spawn", "env"])
def test_a_main_module_that_can_not_be_imported_again_breaks_the_calls_with_its_error(tmp_path, way):
    code, out, err = run(
        tmp_path,
        """
        import sys
        from asyncprefetch.executors import ProcessExecutor
        if __name__ != "__main__":
            raise KeyError("again")
        print(ProcessExecutor(**eval(sys.argv[1])).submit(int).exception(30))
        """,
        repr(WAYS[way]),
    )
    assert (code, out) == (0, "importing the program's main module raised KeyError: 'again'\n")
    assert "KeyError: 'again'" in err


@EACH_WAY
def test_a_program_that_ends_while_a_worker_is_busy_or_being_started_ends_soon(tmp_path, way):
    code, out, err = run(
        tmp_path,
        """
        import os, signal, sys
        from asyncprefetch.executors import ProcessExecutor
        if __name__ == "__main__":
            busy, starting = (ProcessExecutor(**eval(sys.argv[1])) for _ in range(2))
            print(busy.submit(os.getpid).result(30))
            busy.submit(signal.pause)
            starting.submit(signal.pause)
        """,
        repr(WAYS[way]),
        warnings="ignore",
    )
    assert (code, err) == (0, "")
    assert gone(int(out))


def test_a_start_that_does_not_end_does_not_keep_a_program_from_its_exit(tmp_path):
    code, out, err = run(
        tmp_path,
        """
        import os, threading
        from asyncprefetch.executors import ProcessExecutor
        from tests.inside import worker_process
        if __name__ == "__main__":
            is_starting = threading.Event()
            worker_process.start = lambda *_: (is_starting.set(), threading.Event().wait())
            executor = ProcessExecutor()
            executor.submit(os.getpid)
            is_starting.wait()
            print("end")
        """,
    )
    assert (code, out, err) == (0, "end\n", "")


# ------------------------------------------------------------------------------------------------------ ProcessWorkers


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"start_method": "magic"}, ValueError, "start_method must be one of .* not 'magic'"),
        ({"initializer": 3}, TypeError, "initializer must be a function that takes the worker's number, not 3"),
        ({"env": {"A": 1}}, TypeError, "env must map strings to strings"),
        ({"env": ["A"]}, TypeError, "env must map strings to strings"),
        ({"env": {}, "start_method": "fork"}, ValueError, "env needs a new interpreter"),
        ({"protect": 1}, TypeError, "protect must be True or False, not 1"),
        ({"threads": "few"}, ValueError, "threads must be 'shared', 'default' or an int, not 'few'"),
        ({"threads": 0}, ValueError, "threads must be at least 1, not 0"),
        ({"threads": True}, TypeError, "threads must be 'shared', 'default' or an int, not True"),
        ({"malloc": "jemalloc"}, ValueError, "malloc must be 'raised' or 'default', not 'jemalloc'"),
    ],
)
def test_options_for_workers_are_checked(options, error, text):
    with pytest.raises(error, match=text):
        ProcessWorkers(**options)


def test_options_for_workers_are_a_value():
    env = {"A": "1"}
    workers = ProcessWorkers(env=env)
    env["A"] = "2"
    assert workers.env == {"A": "1"}
    assert workers == ProcessWorkers(env={"A": "1"})
    assert pickle.loads(pickle.dumps(workers)) == workers
    with pytest.raises(dataclasses.FrozenInstanceError):
        workers.env = None


def test_an_environment_for_a_forked_process_is_refused():
    with pytest.raises(ValueError, match="env needs a new interpreter"):
        ProcessExecutor(start_method="fork", env={})
