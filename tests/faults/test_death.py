"""Workers die in every way and at every moment. The loader notices within a second, and the stream stays the same."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from asyncprefetch import AsyncPrefetcher, ProducerError, WorkerDiedError
from asyncprefetch.executors import ProcessExecutor
from tests import stream_items
from tests.conftest import EXECUTORS
from tests.consumer import rest, take, through_bytes, until, until_error
from tests.faults import mortals
from tests.faults.mortals import WAYS, Hangman, Slow, SlowState, World, unread, workers_with
from tests.inside import (
    Credit,
    Death,
    Failed,
    RemoteError,
    Retries,
    error_reports,
    out_of_memory,
    snapshot_is_pending,
)
from tests.pipelines.counting import Count, in_turns
from tests.pipelines.dying import Die, NotDeterministic
from tests.pipelines.gates import Gate, GateKeeper
from tests.processes import launch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux in full, elsewhere by the pull transport")


# A worker starts in tens of milliseconds. A busy machine takes longer.
SOON = 10.0


@pytest.fixture(params=["process", "pull"])
def transport(request):
    """Both transports to worker processes, which can die."""
    return EXECUTORS[request.param]


def workers(loader):
    return loader.statistics().workers


# ------------------------------------------------------------------------------------------------- every way and moment


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.both_loops
async def test_a_busy_worker_that_dies_is_started_again_and_the_others_keep_their_runs(
    tmp_path, transport, how, caplog
):
    keeper, hangman = GateKeeper(tmp_path, 3), Hangman(tmp_path, 2)
    pipeline = [Gate(8, str(tmp_path)), Count(8, 100)]
    async with AsyncPrefetcher(
        pipeline,
        num_workers=2,
        n_batches_to_prefetch=4,
        **workers_with(pull=transport is not None, initializer=mortals.mortal),
    ) as loader:
        got = await take(loader, 6)
        async with keeper.held_once(3):
            before = [worker.pid for worker in workers(loader)]
            await hangman.kill(0, how)
            await until(lambda: loader.statistics().restarts, SOON)
        got += [item async for item in loader]
        after = [worker.pid for worker in workers(loader)]
        assert [worker.restarts for worker in workers(loader)] == [1, 0]
    assert got == in_turns([list(range(8)), list(range(100, 108))])
    assert (before[0] != after[0], before[1] == after[1]) == (True, True)
    code, name = WAYS[how]
    cause = f"killed by {name}" if name else f"exited with code {code}"
    assert (
        f"worker 0 (pid {before[0]}) died: {cause}, while it made item 3 of shard 0; it is started again" in caplog.text
    )
    assert "(1 of 3 without progress)" in caplog.text


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.both_loops
async def test_an_idle_worker_that_dies_is_started_again_without_a_request(tmp_path, transport, how, caplog):
    hangman = Hangman(tmp_path, 1)
    async with AsyncPrefetcher(
        Count(9),
        n_batches_to_prefetch=2,
        **workers_with(pull=transport is not None, initializer=mortals.mortal),
    ) as loader:
        got = await take(loader, 1)
        await until(lambda: loader.statistics().buffered == 2, SOON)
        await hangman.kill(0, how)
        await until(lambda: loader.statistics().restarts, SOON)
        assert got + [item async for item in loader] == list(range(9))
    assert caplog.text.count("it is started again") == 1


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.both_loops
@pytest.mark.xdist_group("machine")
async def test_a_worker_that_dies_in_the_middle_of_a_frame_loses_and_doubles_nothing(
    tmp_path, how, monkeypatch, caplog
):
    monkeypatch.delattr(os, "memfd_create")  # without shared memory, the long texts cross the socket
    Hangman(tmp_path, 1)
    async with AsyncPrefetcher(
        stream_items.texts,
        n_batches_to_prefetch=3,
        **workers_with(pull=False, initializer=mortals.mortal),
    ) as loader:
        got = await take(loader, 1)
        # The loop reads nothing without an await. The socket holds less than a tenth of a text.
        while unread(loader) < 50_000:
            pass
        (tmp_path / "worker-0").write_text(how)
        began = time.monotonic()
        while not loader.statistics().restarts:
            await asyncio.sleep(0)
        assert time.monotonic() - began < 1
        got += await rest(loader)
    assert_texts(got)
    assert "it is started again" in caplog.text


@pytest.mark.asyncio(loop_factories=["asyncio"])
@pytest.mark.parametrize("how", WAYS)
async def test_a_worker_that_dies_in_the_middle_of_an_answer_loses_and_doubles_nothing(
    tmp_path, monkeypatch, how, caplog
):
    monkeypatch.setenv("MORTALS", str(tmp_path))
    monkeypatch.setenv("HOW", how)
    async with asyncio.timeout(SOON):
        loader = AsyncPrefetcher(
            stream_items.texts,
            n_batches_to_prefetch=3,
            **workers_with(pull=True, initializer=mortals.dies_in_an_answer),
        )
        assert_texts(await rest(loader))
    assert (tmp_path / "died").exists()
    assert loader.statistics().restarts == 1


def assert_texts(got):
    assert [(text[0], len(text), len(set(text))) for text in got] == [(str(n), 3_000_000, 1) for n in range(6)]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.both_loops
async def test_a_death_is_an_error_after_all_that_was_received(transport, how):
    code, name = WAYS[how]
    async with AsyncPrefetcher(Die.make(9, 4, how), max_restarts=0, workers=transport) as loader:
        await take(loader, 1)
        pid = workers(loader)[0].pid
        got, raised = await until_error(loader)
        assert isinstance(raised, WorkerDiedError)
        assert got == [1, 2, 3][: len(got)]  # the restored loader delivers what the dead worker had not sent
        assert (raised.worker, raised.pid, raised.exit_code, raised.signal) == (0, pid, code, name)
        assert raised.shard == 0
        assert f"died: {'killed by ' + name if name else f'exited with code {code}'}" in str(raised)
        with pytest.raises(WorkerDiedError):
            await anext(loader)
        state = await loader.get_state()
    assert state.delivered.total == 1 + len(got)


@pytest.mark.both_loops
@pytest.mark.xdist_group("machine")
async def test_after_a_kill_the_next_batch_raises_within_a_second_and_the_state_restores_the_whole_stream(
    tmp_path, transport
):
    keeper = GateKeeper(tmp_path, 6)
    async with AsyncPrefetcher(Gate(12, str(tmp_path)), max_restarts=0, workers=transport) as loader:
        assert await take(loader, 6) == [0, 1, 2, 3, 4, 5]
        await keeper.reached(6)
        os.kill(workers(loader)[0].pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(WorkerDiedError) as raised:
            await anext(loader)
        assert time.monotonic() - began < 1
        assert (raised.value.shard, raised.value.position) == (0, 6)
        state = await loader.get_state()
    (tmp_path / "gate-6").unlink()
    assert await rest(through_bytes(state).build()) == [6, 7, 8, 9, 10, 11]


# ------------------------------------------------------------------------------------- what a death may leave in its way


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
@pytest.mark.parametrize("pull", [False, True], ids=["process", "pull"])
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_death_is_seen_past_a_child_of_the_worker_that_lives_on(tmp_path, start_method, pull, caplog):
    """The child holds every pipe and socket of the worker."""
    mark = tmp_path / "fork_a_child-done"
    async with AsyncPrefetcher(
        World.make(6, "fork_a_child", tmp_path),
        n_batches_to_prefetch=2,
        **workers_with(pull, start_method=start_method),
    ) as loader:
        got = await take(loader, 3)
        child = int(mark.read_text())
        try:
            await until(lambda: loader.statistics().buffered == 2, SOON)
            os.kill(workers(loader)[0].pid, signal.SIGKILL)
            await until(lambda: loader.statistics().restarts, SOON)
            async with asyncio.timeout(SOON):
                assert got + [item async for item in loader] == list(range(6))
            os.kill(child, 0)  # raises if the child has ended
        finally:
            os.kill(child, signal.SIGKILL)


START_METHODS = pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])


@contextlib.contextmanager
def children(folder):
    """Kill the children of the workers at the end of the block. Fail if one of them ended before."""
    yield
    born = [int(path.name.removeprefix("child-")) for path in folder.glob("child-*")]
    for pid in born:
        os.kill(pid, signal.SIGKILL)  # raises if the child has ended
    assert born


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@START_METHODS
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_an_answer_that_was_cut_short_is_not_waited_for_though_a_child_holds_the_other_end(
    tmp_path, monkeypatch, start_method, caplog
):
    monkeypatch.setenv("MORTALS", str(tmp_path))
    monkeypatch.setenv("HOW", "SIGKILL")
    with children(tmp_path):
        async with asyncio.timeout(SOON):
            loader = AsyncPrefetcher(
                stream_items.texts,
                n_batches_to_prefetch=3,
                **workers_with(pull=True, initializer=mortals.bears_and_dies_in_an_answer, start_method=start_method),
            )
            assert_texts(await rest(loader))
    assert (tmp_path / "died").exists()
    assert loader.statistics().restarts == 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@START_METHODS
@pytest.mark.parametrize("pull", [False, True], ids=["process", "pull"])
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_long_call_to_a_dead_worker_is_an_error_soon_though_a_child_holds_the_other_end(
    tmp_path, monkeypatch, start_method, pull
):
    monkeypatch.setenv("MORTALS", str(tmp_path))
    heavy = mortals.Heavy(mortals.HeavyState(weight=b"x" * 4_000_000))
    with children(tmp_path):
        async with asyncio.timeout(SOON):
            loader = AsyncPrefetcher(
                heavy,
                **workers_with(pull, initializer=mortals.bears_and_dies, start_method=start_method),
            )
            with pytest.raises(WorkerDiedError, match="SIGKILL"):
                await rest(loader)


@pytest.mark.both_loops
async def test_a_death_before_a_long_call_was_read_is_an_error_soon(transport):
    """The worker dies while the loader sends the start, whose state is larger than a socket's buffer."""
    heavy = mortals.Heavy(mortals.HeavyState(weight=b"x" * 4_000_000))
    async with asyncio.timeout(SOON):
        how = workers_with(pull=transport is not None, initializer=mortals.die_at_once)
        loader = AsyncPrefetcher(heavy, **how)
        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            await rest(loader)


@pytest.mark.both_loops
async def test_the_end_of_the_process_is_a_death_though_the_pool_never_answers_its_calls():
    class Forgetful(ProcessExecutor):
        def submit(self, fn, /, *args, **kwargs):
            future = super().submit(fn, *args, **kwargs)
            draws = args and any(isinstance(message, Credit) for message in args[0].messages)
            return Future() if draws else future

    async with AsyncPrefetcher(Count(9), max_restarts=0, workers=lambda worker: Forgetful()) as loader:
        asked = asyncio.create_task(anext(loader))
        await until(lambda: workers(loader) and workers(loader)[0].pid, SOON)
        os.kill(workers(loader)[0].pid, signal.SIGKILL)
        async with asyncio.timeout(SOON):
            with pytest.raises(WorkerDiedError, match="killed by SIGKILL, while it made item 0 of shard 0"):
                await asked


SIGCHLD_IGNORED = """
import asyncio, multiprocessing, os, signal, sys
from asyncprefetch import *
from tests.faults.mortals import workers_with
from tests.pipelines.dying import Die
from tests.consumer import rest, take

async def main(start_method, pull, folder):
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    how = workers_with(bool(pull), start_method=start_method)
    async with AsyncPrefetcher(Die.make(9, 3, "SIGKILL", os.path.join(folder, "died")), **how) as loader:
        print(*await take(loader, 4))
        state = await loader.get_state()
    print("restarts", loader.statistics().restarts)
    print(*await rest(state.build(**how)))
    print("listed", len(multiprocessing.active_children()))

if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
"""


@START_METHODS
@pytest.mark.parametrize("pull", [False, True], ids=["process", "pull"])
def test_a_process_that_the_system_reaps_ends_and_dies_like_any_other(tmp_path, start_method, pull):
    """The kernel reaps the children of a program that ignores SIGCHLD; only the exit code is unknown then."""
    with launch(tmp_path, SIGCHLD_IGNORED, start_method, "pull" * pull, str(tmp_path), warnings="ignore") as process:
        out, err = process.communicate(timeout=2 * SOON)
    *printed, listed = out.splitlines()
    assert printed == ["0 1 2 3", "restarts 1", "4 5 6 7 8"], err
    # multiprocessing lists a forked process until it knows the exit code, which may be never.
    assert start_method == "fork" or listed == "listed 0"
    assert process.returncode == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
@pytest.mark.parametrize("pull", [False, True], ids=["process", "pull"])
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_default_timeout_of_sockets_is_not_for_ours(tmp_path, start_method, pull):
    (tmp_path / "slow").touch()
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.05)
    try:
        pipeline = [Count(20, 100), Slow(SlowState(stop=3, folder=str(tmp_path)))]
        loader = AsyncPrefetcher(pipeline, num_workers=2, **workers_with(pull, start_method=start_method))
        async with loader:
            got = [item async for item in loader]
        assert loader.statistics().restarts == 0
        assert sorted(got) == [0, 1, 2, *range(100, 120)]
    finally:
        socket.setdefaulttimeout(before)


# --------------------------------------------------------------------------------------------------- deaths and restarts


@pytest.mark.both_loops
async def test_a_batch_that_kills_its_worker_each_time_ends_in_an_error(transport, caplog):
    async with AsyncPrefetcher(Die.make(9, 2, "SIGKILL"), max_restarts=2, workers=transport) as loader:
        got, raised = await until_error(loader)
        assert got == [0, 1]
        assert isinstance(raised, WorkerDiedError)
        assert (raised.shard, raised.position, raised.signal) == (0, 2, "SIGKILL")
        assert "started again 2 times without progress" in str(raised)
        assert loader.statistics().restarts == caplog.text.count("it is started again")
        assert loader.statistics().restarts >= 2


async def test_progress_of_another_shard_does_not_excuse_an_item_that_kills(transport, caplog):
    pipeline = [Die.make(9, 2, "SIGKILL"), Count(10**6, 100)]
    async with AsyncPrefetcher(
        pipeline, num_workers=1, in_order=False, n_batches_to_prefetch=3, max_restarts=2, workers=transport
    ) as loader:
        got, raised = await until_error(loader)
        assert (raised.shard, raised.position) == (0, 2)
        assert [n for n in got if n < 100] == [0, 1]
        assert [n for n in got if n >= 100] == list(range(100, 100 + len(got) - 2))


@pytest.mark.both_loops
async def test_a_replay_that_differs_is_an_error(transport, caplog):
    # An answer has one item, and no state comes in between. So the items before the death have arrived, and the worker
    # replays all of them.
    loader = AsyncPrefetcher(
        NotDeterministic(3),
        n_batches_to_prefetch=1,
        **workers_with(transport is not None, initializer=mortals.sends_no_states),
    )
    async with loader:
        got, raised = await until_error(loader)
    assert len(got) == 3
    assert (raised.phase, raised.shard) == ("replay", 0)
    assert "replaying shard 0 from its last state, another item came at position 0" in str(raised)
    assert "call asyncprefetch.testing.assert_resumes_exactly in a test of the iterator" in str(raised)


async def test_retries_back_off_exponentially_and_each_is_a_warning(caplog):
    """test_failures.py tests the effect of retries on the stream."""
    loop = asyncio.get_running_loop()
    retries = Retries(frozenset({"OSError"}), lambda shard: None)
    error = RemoteError("next", "OSError", ("OSError",), "away", "", None)
    delays = []
    while retries.begin(Failed(1, 0, 3, error)):
        delays.append(retries._timers[0].when() - loop.time())
        retries.cancel()
        assert len(delays) < 10
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6], abs=0.05)
    assert re.findall(r"position 3: OSError: away; retry (\d) of 5 in (.+) s", caplog.text) == [
        *(("1", "0.1"), ("2", "0.2"), ("3", "0.4"), ("4", "0.8"), ("5", "1.6"))
    ]


# ---------------------------------------------------------------------------------------------------- deaths and states


@pytest.mark.parametrize("max_restarts", [0, 3])
@pytest.mark.parametrize("first", ["the state is asked for", "the worker is killed", "the death is known"])
@pytest.mark.parametrize("grace", [None, 0.05, 30.0])
async def test_get_state_during_a_death_is_exact(tmp_path, transport, max_restarts, first, grace):
    keeper = GateKeeper(tmp_path, 3)
    pipeline = [Gate(7, str(tmp_path)), Count(7, 100)]
    async with AsyncPrefetcher(pipeline, num_workers=2, max_restarts=max_restarts, workers=transport) as loader:
        got = await take(loader, 4)
        async with keeper.held_once(3):
            if first == "the state is asked for":
                asked = asyncio.create_task(loader.get_state(grace=grace))
                await until(lambda: snapshot_is_pending(loader) or asked.done(), SOON)
            os.kill(workers(loader)[0].pid, signal.SIGKILL)
            if first == "the worker is killed":
                asked = asyncio.create_task(loader.get_state(grace=grace))
            elif first == "the death is known":
                await until(lambda: workers(loader)[0].restarts or workers(loader)[0].state == "failed", SOON)
                asked = asyncio.create_task(loader.get_state(grace=grace))
            async with asyncio.timeout(SOON):
                state = await asked
    assert got + await rest(through_bytes(state).build()) == in_turns([list(range(7)), list(range(100, 107))])


# ------------------------------------------------------------------------------------------------------ out of memory


async def test_memory_that_a_worker_may_not_have_is_an_error_of_the_iterator(transport):
    async with AsyncPrefetcher(World.make(6, "want_memory", "/nowhere"), workers=transport) as loader:
        got, raised = await until_error(loader)
    assert got == [0, 1]
    assert isinstance(raised, ProducerError)
    assert (raised.type_name, raised.shard, raised.position) == ("MemoryError", 0, 2)


async def test_the_kernel_kills_workers_first(transport):
    assert await rest(AsyncPrefetcher(mortals.score, workers=transport)) == [1000]


def a_small_group():
    """Create a control group with little memory. Return its folder, or ``None`` if the system allows no such group."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            folder, limit = Path("/sys/fs/cgroup/memory", path.lstrip("/")), "memory.limit_in_bytes"
        elif not controllers:
            folder, limit = Path("/sys/fs/cgroup", path.lstrip("/")), "memory.max"
        else:
            continue
        group = folder / f"asyncprefetch-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            try:
                (group / limit).write_text(str(600 << 20))
            except OSError:
                group.rmdir()
            else:
                with contextlib.suppress(OSError):
                    (group / "memory.swap.max").write_text("0")
                return group
    return None


OUT_OF_MEMORY = """
import asyncio, logging, os, sys
from asyncprefetch.executors import ProcessExecutor
from pathlib import Path
Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
from asyncprefetch import *
from tests.faults.mortals import World
logging.basicConfig()
async def main():
    held = b"x" * (300 << 20)  # more than the worker will have; the kernel must still kill the worker and not the trainer
    factory = (lambda worker: ProcessExecutor()) if sys.argv[3] == "pull" else None
    loader = AsyncPrefetcher(World.make(5, "eat_memory", sys.argv[2]), workers=factory)
    async with loader:
        print([n async for n in loader])
    print(len(held), loader.statistics().restarts)
if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("way", ["stream", "pull"])
@pytest.mark.xdist_group("machine")
def test_a_worker_that_eats_all_memory_is_killed_and_not_the_trainer_and_the_log_says_so(tmp_path, way):
    group = a_small_group()
    if group is None:
        pytest.skip("no control group with a memory limit can be made here")
    try:
        with launch(tmp_path, OUT_OF_MEMORY, str(group), str(tmp_path), way) as process:
            try:
                out, err = process.communicate(timeout=30)
            finally:
                process.kill()
        assert out.splitlines() == ["[0, 1, 2, 3, 4]", f"{300 << 20} 1"], err
        assert "killed by SIGKILL (out of memory: the oom_kill count of its cgroup rose by 1)" in err
    finally:
        for _ in range(100):  # the group can be removed when its last process has ended
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.05)


GROUPS = {
    "version 2": ("0::/training/job\n", "training/job/memory.events", "low 0\nhigh 3\noom 5\noom_kill 4\n"),
    "version 2, seen from inside": ("0::/../elsewhere\n", "memory.events", "oom_kill 4\noom_group_kill 0\n"),
    "version 2 beside 1": ("3:cpu:/\n0::/\n", "unified/memory.events", "oom_kill 4\n"),
    "version 1": ("9:cpu:/\n4:memory:/job\n0::/\n", "memory/job/memory.oom_control", "under_oom 0\noom_kill 4\n"),
    "version 1, seen from inside": ("4:hugetlb,memory:/docker/1\n", "memory/memory.oom_control", "oom_kill 4\n"),
}


@pytest.mark.parametrize("layout", GROUPS)
def test_the_count_of_a_control_group_is_found(tmp_path, layout):
    groups, file, text = GROUPS[layout]
    (tmp_path / "groups").write_text(groups)
    target = tmp_path / "mounted" / file
    target.parent.mkdir(parents=True)
    target.write_text(text)
    assert out_of_memory.kills(tmp_path / "groups", tmp_path / "mounted") == 4


@pytest.mark.parametrize(
    ("groups", "text"), [("", "oom_kill 4"), ("odd\n", ""), ("0::/\n", "oom 1\n"), ("0::/\n", "oom_kill many\n")]
)
def test_no_count_is_no_error(tmp_path, groups, text):
    (tmp_path / "groups").write_text(groups)
    (tmp_path / "memory.events").write_text(text)
    assert out_of_memory.kills(tmp_path / "groups", tmp_path) is None
    assert out_of_memory.kills(tmp_path / "missing", tmp_path) is None


@pytest.mark.parametrize(
    ("code", "count", "said"), [(-9, 2, True), (-9, 0, False), (-11, 2, False), (0, 2, False), (None, 2, False)]
)
def test_only_a_kill_is_explained_by_the_count(code, count, said):
    error = error_reports.death_error(0, Death("gone", 7, code, count), (0, 3), was_up=True, restarts=0)
    assert ("the oom_kill count of its cgroup rose by 2" in str(error)) == said
