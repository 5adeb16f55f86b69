"""A stalled worker raises an error after ``stall_timeout``. Neither the loop nor closing waits for it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from concurrent.futures import Executor, Future

import pytest

from asyncprefetch import AsyncPrefetcher, ProcessWorkers, ProducerStalledError
from asyncprefetch.executors import ProcessExecutor
from tests import programs
from tests.conftest import EXECUTORS, inline
from tests.consumer import rest, take, through_bytes, until, until_error
from tests.faults import mortals
from tests.faults.mortals import Slow, SlowState, World
from tests.inside import handle_of, limits, transport_of
from tests.pipelines.counting import Count, in_turns
from tests.pipelines.gates import Gate, GateKeeper

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux in full, elsewhere by the pull transport")


@pytest.fixture(params=["process", "pull"])
def transport(request):
    """Both transports to worker processes, which can be stopped."""
    return EXECUTORS[request.param]


def stop(loader):
    os.kill(loader.statistics().workers[0].pid, signal.SIGSTOP)


@pytest.mark.both_loops
async def test_a_stuck_iterator_is_an_error_after_stall_timeout_and_the_state_is_exact(tmp_path, transport):
    keeper = GateKeeper(tmp_path, 3)
    async with AsyncPrefetcher(Gate(5, str(tmp_path)), stall_timeout=1.0, workers=transport) as loader:
        reached = asyncio.create_task(keeper.reached(3))
        got, raised = await until_error(loader)
        assert reached.done()  # the loop ran while the iterator was stuck
        assert got == [0, 1, 2]
        assert isinstance(raised, ProducerStalledError)
        assert (raised.shard, raised.position, raised.seconds) == (0, 3, 1.0)
        assert "while it made item 3 of shard 0" in str(raised)
        state = await loader.get_state()
    for pipe in list(tmp_path.iterdir()):
        pipe.unlink()
    assert keeper.folder.exists()
    assert await rest(state.build()) == [3, 4]


@pytest.mark.both_loops
@pytest.mark.xdist_group("machine")
async def test_a_stopped_process_is_a_stall_and_the_state_is_exact(transport):
    async with AsyncPrefetcher(Count(50), stall_timeout=1.0, n_batches_to_prefetch=2, workers=transport) as loader:
        await anext(loader)
        stop(loader)
        began = time.monotonic()
        got, raised = await until_error(loader)
        assert time.monotonic() - began < 5
        assert isinstance(raised, ProducerStalledError)
        assert raised.shard == 0
        assert got == list(range(1, 1 + len(got)))
        state = await loader.get_state()
    assert await rest(through_bytes(state).build()) == list(range(1 + len(got), 50))


@pytest.mark.both_loops
async def test_a_stop_that_is_not_answered_is_a_stall_and_the_state_is_exact(transport):
    async with AsyncPrefetcher(Count(9), stall_timeout=1.0, n_batches_to_prefetch=2, workers=transport) as loader:
        await anext(loader)
        await until(lambda: loader.statistics().buffered == 2, 10)  # the loader now waits for no answer
        stop(loader)
        async with asyncio.timeout(5):
            state = await loader.get_state()
        got, raised = await until_error(loader)
        assert got == [1, 2]
        assert isinstance(raised, ProducerStalledError)
        assert "its states were asked of it" in str(raised)
    assert await rest(through_bytes(state).build()) == list(range(1, 9))


@pytest.mark.both_loops
async def test_backpressure_is_no_stall(transport):
    async with AsyncPrefetcher(Count(9), stall_timeout=5, n_batches_to_prefetch=2, workers=transport) as loader:
        got = await take(loader, 1)
        await until(lambda: loader.statistics().buffered == 2, 10)
        stop(loader)  # the worker could not answer, but the loader waits for no answer
        watchdog = handle_of(loader)._stall_watch
        watchdog._timer.cancel()
        watchdog._heard_at -= 3600
        watchdog._expired()  # the watchdog checks an hour later
        assert watchdog._timer is None  # it does not check again until the loader asks for something
        os.kill(loader.statistics().workers[0].pid, signal.SIGCONT)
        assert got + [item async for item in loader] == list(range(9))


@pytest.mark.asyncio(loop_factories=["asyncio"])  # the test can set this loop's clock
async def test_neither_backpressure_nor_a_consumer_that_blocks_the_loop_is_a_stall(monkeypatch):
    """The clock starts when the loader asks for something, and the loader reads what has arrived before it checks."""
    loop = asyncio.get_running_loop()
    clock, ahead = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: clock() + ahead)
    async with AsyncPrefetcher(Count(9), stall_timeout=5, n_batches_to_prefetch=2, workers=inline) as loader:
        for n in range(9):
            assert await anext(loader) == n
            ahead += 50.0  # a long training step while a batch arrives


async def state_with_a_long_replay(folder):
    """Return a pipeline's first 24 items, and a state whose replay draws all of them again, slowly."""
    for pipe in ("gate", "reached"):
        os.mkfifo(folder / pipe)
    pipeline = Slow(SlowState(stop=26, folder=str(folder)))
    async with AsyncPrefetcher(
        pipeline, n_batches_to_prefetch=30, workers=ProcessWorkers(initializer=mortals.sends_no_states)
    ) as loader:
        got = await take(loader, 24)
        await asyncio.to_thread((folder / "reached").read_bytes)
        state = await loader.get_state(grace=0)
    (folder / "gate").unlink()
    (folder / "slow").touch()
    assert len(state.shards[0].skip) == 24
    # The replay takes 0.05 s for each item.
    return got, state


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_long_replay_is_no_stall(tmp_path, transport):
    got, state = await state_with_a_long_replay(tmp_path)
    # With a small buffer the replay takes more calls than there is credit.
    loader = state.build(stall_timeout=0.8, n_batches_to_prefetch=1, workers=transport)
    assert got + await rest(loader) == list(range(26))


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_state_that_is_asked_for_in_the_middle_of_a_long_replay_does_not_wait_for_all_of_it(
    tmp_path, transport
):
    got, state = await state_with_a_long_replay(tmp_path)
    os.mkfifo(tmp_path / "begun")
    async with state.build(workers=transport) as loader:
        waiting = asyncio.create_task(anext(loader))
        await asyncio.to_thread((tmp_path / "begun").read_bytes)
        again = await loader.get_state()
        assert not waiting.done()
        assert again.shards == state.shards
        assert again.delivered == state.delivered
        assert got + [await waiting] + [item async for item in loader] == list(range(26))
    (tmp_path / "slow").unlink()
    assert got + await rest(through_bytes(again).build(workers=transport)) == list(range(26))


@pytest.mark.both_loops
async def test_a_worker_that_does_not_start_is_an_error_after_start_timeout():
    class Nowhere(Executor):
        starts_without_blocking = True

        def submit(self, fn, /, *args, **kwargs):
            return Future()

    with pytest.raises(ProducerStalledError, match=r"worker 0 did not say hello within start_timeout=0.05 s"):
        await rest(AsyncPrefetcher(Count(3), start_timeout=0.05, workers=lambda worker: Nowhere()))
    # With more workers than cores it takes longer, and still comes.
    many = 3 * limits.usable_cores()
    loader = AsyncPrefetcher([Count(3)] * many, num_workers=many, start_timeout=0.05, workers=lambda worker: Nowhere())
    with pytest.raises(ProducerStalledError, match=r"worker 0 did not say hello within start_timeout=0.05 s"):
        await rest(loader)
    await loader.aclose()


# ------------------------------------------------------------------------------------------------- closing, and states


@pytest.mark.asyncio(loop_factories=["asyncio"])
@pytest.mark.parametrize("what", ["stopped", "spin", "hold_the_lock", "stopped and idle"])
@pytest.mark.xdist_group("machine")
async def test_aclose_ends_a_stuck_worker_within_five_seconds(tmp_path, transport, what):
    pipeline = Count(10**6) if what.startswith("stopped") else World.make(9, what, tmp_path)
    loader = AsyncPrefetcher(pipeline, n_batches_to_prefetch=2, workers=transport)
    await take(loader, 2)
    if what == "stopped and idle":
        await until(lambda: loader.statistics().buffered == 2, 10)
    if what.startswith("stopped"):
        stop(loader)
    else:
        await until((tmp_path / f"{what}-done").exists, 10)
    pid = loader.statistics().workers[0].pid
    began = time.monotonic()
    await loader.aclose()
    assert time.monotonic() - began < 5
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.both_loops
@pytest.mark.xdist_group("machine")
async def test_a_worker_that_can_not_even_be_killed_is_left_to_itself(transport, monkeypatch, caplog):
    loader = AsyncPrefetcher(Count(10**6), n_batches_to_prefetch=2, workers=transport)
    await take(loader, 2)
    stop(loader)
    pid = loader.statistics().workers[0].pid
    exited = transport_of(loader)._executor.exited
    with monkeypatch.context() as patched:
        patched.setattr(ProcessExecutor, "kill", lambda executor: None)
        began = time.monotonic()
        await loader.aclose()
        assert time.monotonic() - began < 5
    assert f"worker process {pid} was killed and has not ended; it is left to itself" in caplog.text
    os.kill(pid, signal.SIGKILL)
    assert exited.result(10) == -signal.SIGKILL


STARTING = """
folder = sys.argv[2]
os.environ["PYTHONPATH"] += os.pathsep + folder
multiprocessing.set_forkserver_preload(["slow_to_import"])

async def main():
    loader = AsyncPrefetcher(Count(9), workers=FACTORY)
    waiting = asyncio.create_task(anext(loader))
    await asyncio.to_thread(lambda: open(folder + "/reached", "rb").read())
    closing = asyncio.create_task(loader.aclose())
    await asyncio.wait([closing], timeout=3.5)
    print("closed", closing.done())
    await asyncio.to_thread(lambda: open(folder + "/gate", "wb").close())
    await closing
    print(type((await asyncio.gather(waiting, return_exceptions=True))[0]).__name__)
    watching = [thread for thread in threading.enumerate() if "worker-watch" in thread.name]
    for thread in watching:
        thread.join(10)  # the thread has reported the end, and may still run
    print(multiprocessing.active_children(), [thread.name for thread in watching if thread.is_alive()])

asyncio.run(main())
"""


@pytest.mark.parametrize("transport", ["stream", "pull"])
def test_closing_ends_a_start_in_progress(tmp_path, transport):
    """The fork server is busy with a slow import, so the start takes long."""
    for pipe in ("reached", "gate"):
        os.mkfifo(tmp_path / pipe)
    (tmp_path / "slow_to_import.py").write_text(
        f"open({str(tmp_path / 'reached')!r}, 'wb').close()\nopen({str(tmp_path / 'gate')!r}, 'rb').read()\n"
    )
    ended = programs.run(tmp_path, STARTING, transport, str(tmp_path))
    assert ended.out == "closed False\nPrefetcherClosedError\n[] []\n", ended.err
    assert "left to itself" not in ended.err


@pytest.mark.parametrize("what", ["stopped", "stuck"])
@pytest.mark.both_loops
@pytest.mark.xdist_group("machine")
async def test_get_state_with_grace_answers_in_time_with_state_and_skip(tmp_path, transport, what):
    keeper = GateKeeper(tmp_path, 5)
    pipeline = [Gate(8, str(tmp_path)), Count(8, 100)]
    async with AsyncPrefetcher(pipeline, num_workers=2, n_batches_to_prefetch=20, workers=transport) as loader:
        got = await take(loader, 4)
        await keeper.reached(5)
        if what == "stopped":
            stop(loader)
        began = time.monotonic()
        state = await loader.get_state(grace=1.0)
        assert 0.9 < time.monotonic() - began < 3
        assert [shard.skip != () for shard in state.shards] == [True, False]
        if what == "stopped":
            os.kill(loader.statistics().workers[0].pid, signal.SIGCONT)
        await keeper.open(5)
        model = in_turns([list(range(8)), list(range(100, 108))])
        assert got + [item async for item in loader] == model  # the loader itself continues undisturbed
    assert got + await rest(through_bytes(state).build()) == model
