import asyncio
import os
import signal
import threading
from concurrent.futures import BrokenExecutor, Future

import pytest

from asyncprefetch.executors import InlineExecutor, ProcessExecutor, default_start_method
from tests.inside import out_of_memory


def test_inline_calls_run_at_once_in_the_calling_thread():
    executor = InlineExecutor()
    assert executor.submit(threading.get_ident).result(0) == threading.get_ident()
    future = executor.submit(int, "x")
    assert isinstance(future.exception(0), ValueError)


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_process_answers_in_order_and_its_exit_code_is_known(start_method):
    executor = ProcessExecutor(start_method=start_method)
    assert executor.pid is None
    futures = [executor.submit(pow, 2, n) for n in range(5)]
    assert [future.result(30) for future in futures] == [1, 2, 4, 8, 16]
    assert executor.submit(os.getpid).result(30) == executor.pid != os.getpid()
    executor.shutdown(wait=True)
    assert executor.exited.result(0) == 0
    with pytest.raises(BrokenExecutor):
        executor.submit(os.getpid)


def test_a_killed_process_breaks_its_calls_and_says_how_it_ended():
    executor = ProcessExecutor()
    pid = executor.submit(os.getpid).result(30)
    waiting = executor.submit(signal.pause)
    os.kill(pid, signal.SIGSEGV)
    with pytest.raises(BrokenExecutor):
        waiting.result(30)
    assert executor.exited.result(30) == -signal.SIGSEGV
    assert executor.pid == pid


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
@pytest.mark.both_loops
async def test_a_signal_to_a_worker_is_none_to_the_program_that_handles_it(start_method):
    handled = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, handled.append, "in the loop")
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    executor = ProcessExecutor(start_method=start_method)
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


def test_a_process_can_be_killed_at_any_time():
    never_started = ProcessExecutor()
    never_started.kill()
    assert never_started.exited.result(0) is None
    starting = ProcessExecutor()
    call = starting.submit(os.getpid)
    starting.kill()
    starting.exited.result(30)
    assert call.cancelled() or isinstance(call.exception(30), BrokenExecutor) or call.result(30)
    busy = ProcessExecutor()
    busy.submit(os.getpid).result(30)
    busy.submit(signal.pause)
    busy.kill()
    assert busy.exited.result(30) == -signal.SIGKILL


def refuse_to_start(executor, error, monkeypatch):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(executor._context, "Process", refuse)


def test_what_can_not_be_started_breaks_the_calls(monkeypatch):
    executor = ProcessExecutor()
    refuse_to_start(executor, OSError(11, "no more processes"), monkeypatch)
    with pytest.raises(BrokenExecutor, match=r"BlockingIOError: .* no more processes"):
        executor.submit(os.getpid).result(30)
    assert executor.exited.result(30) is None


@pytest.mark.parametrize(("counts", "rose"), [((5, 7), 2), ((5, 5), 0), ((5, None), 0), ((5, 3), 0), ((None, 5), 0)])
def test_kills_for_want_of_memory_are_none_where_their_count_fell_or_can_not_be_read(monkeypatch, counts, rose):
    executor, read = ProcessExecutor(), iter(counts)
    refuse_to_start(executor, OSError(11, "no more processes"), monkeypatch)
    monkeypatch.setattr(out_of_memory, "kills", lambda: next(read))
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

    refuse_to_start(executor, RefusedError(), monkeypatch)
    first = executor.submit(os.getpid)
    executor.exited.result(30)
    [_, second] = told
    if isinstance(second, Future):
        second = second.exception(0)
    assert "no more processes" in str(second)
    assert str(second) == str(first.exception(0))


def test_a_fork_server_is_preferred_where_there_is_one():
    assert default_start_method() == "forkserver"


def test_a_process_that_is_shut_down_while_it_starts_does_what_was_asked_before():
    with ProcessExecutor() as executor:
        future = executor.submit(pow, 2, 5)
    assert future.result(0) == 32
    assert executor.exited.result(0) == 0


def test_a_worker_can_be_killed_from_within_a_call():
    """A collection of garbage may kill a forgotten loader's worker at any allocation, within any of our locks."""
    executor = ProcessExecutor()
    executor.submit(os.getpid).result(30)
    with executor._lock:
        executor.kill()
    assert executor.exited.result(30) == -signal.SIGKILL
