"""The stream transport: prompt records, bounded memory, and a worker that dies in the middle of a record."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from pickle import PicklingError

import pytest

from asyncprefetch import AsyncPrefetcher, ProcessWorkers, WorkerDiedError
from tests import stream_items
from tests.consumer import rest, take, until
from tests.inside import delivery, loader_socket, records, shared_memory, stream_transport, worker_socket
from tests.pipelines.counting import Count
from tests.pipelines.gates import Gate, GateKeeper
from tests.processes import has_ended
from tests.stream_items import BLOCK, Alarmed, Blocks, Stubborn
from tests.transports.sides import alarm_in

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create")


@pytest.mark.both_loops
async def test_what_was_made_arrives_though_the_next_item_takes_long(tmp_path):
    keeper = GateKeeper(tmp_path, 5)
    async with AsyncPrefetcher(Gate(7, str(tmp_path)), n_batches_to_prefetch=64) as loader:
        await keeper.reached(5)  # the worker made five items in microseconds, and is making the sixth
        assert await take(loader, 5) == [0, 1, 2, 3, 4]
        await keeper.open(5)
        assert await rest(loader) == [5, 6]


@pytest.mark.parametrize("in_slot", [False, True])
@pytest.mark.parametrize("held", [0, 3])
@pytest.mark.both_loops
async def test_no_more_slots_have_memory_than_batches_are_ahead_held_and_made(in_slot, held):
    n, workers = 4, 2
    pipeline = [Blocks(60, in_slot), Blocks(60, in_slot)]
    # A due shard may have one more batch ahead. The loop variable has a batch while the loader takes the next one.
    bound = ((n + 1) + (held + 2) + workers) * (BLOCK + 4096)
    async with AsyncPrefetcher(pipeline, n_batches_to_prefetch=n, num_workers=workers) as loader:
        window = []
        most = 0
        async for batch in loader:
            window.append(batch)
            del window[: max(0, len(window) - held)]
            most = max(most, loader.statistics().mapped)
        assert 0 < most <= bound


@pytest.mark.both_loops
async def test_what_a_burst_needed_is_given_back():
    async with AsyncPrefetcher(Blocks(300), n_batches_to_prefetch=2) as loader:
        window = await take(loader, 12)
        assert loader.statistics().mapped >= 12 * BLOCK
        window.clear()
        for _ in range(20):
            await anext(loader)
        while loader.statistics().mapped > 5 * (BLOCK + 4096):
            await anext(loader)


def _has_shared_memory():
    return "memfd:asyncprefetch" in Path("/proc/self/maps").read_text()


@pytest.mark.both_loops
async def test_memory_that_a_lost_worker_used_goes_when_its_batches_go():
    async with AsyncPrefetcher(Blocks(40), n_batches_to_prefetch=4) as loader:
        held = await take(loader, 3)
        os.kill(loader.statistics().workers[0].pid, signal.SIGKILL)
        got = [batch["n"] async for batch in loader]
        assert got == list(range(3, 40))
        assert [batch["x"].tolist() == [n] * (BLOCK // 8) for n, batch in enumerate(held)] == [True] * 3
    del held
    gc.collect()
    assert not _has_shared_memory()


@pytest.mark.both_loops
async def test_what_a_worker_sent_before_its_death_is_delivered_though_the_loop_learns_of_the_death_first():
    async with AsyncPrefetcher(Blocks(60), n_batches_to_prefetch=8, max_restarts=0) as loader:
        got = [(await anext(loader))["n"]]
        pid = loader.statistics().workers[0].pid
        while loader.statistics().mapped < 9 * BLOCK:
            pass  # the loop reads nothing without an await
        os.kill(pid, signal.SIGKILL)
        while not has_ended(pid):
            pass
        with pytest.raises(WorkerDiedError):
            await _take_all(loader, got)
    assert len(got) >= 8
    assert got == list(range(len(got)))


async def _take_all(loader, got):
    async for batch in loader:
        got.append(batch["n"])


@pytest.mark.both_loops
async def test_credit_is_returned_though_the_consumer_takes_nothing_more(monkeypatch):
    monkeypatch.setattr(delivery, "_MAX_SECONDS_UNRETURNED", 3600)
    async with AsyncPrefetcher(Count(1000), n_batches_to_prefetch=16) as loader:
        await anext(loader)
        await until(lambda: loader.statistics().buffered >= 16, 10)


@pytest.mark.both_loops
async def test_too_few_descriptors_for_a_worker_are_an_error_and_leak_nothing(monkeypatch):
    def refuse(*args):
        raise OSError(errno.EMFILE, "Too many open files")

    loader = AsyncPrefetcher(Count(3))
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socketpair", refuse)
        with pytest.raises(WorkerDiedError, match=r"worker 0 could not be made: .*Too many open files"):
            await anext(loader)
    await loader.aclose()
    assert not _has_shared_memory()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "malloc: mmap threshold 32 MiB, trim threshold 256 MiB"),
        ({"malloc": "default"}, "malloc: thresholds left as they are"),
        ({"env": {"MALLOC_TRIM_THRESHOLD_": "65536"}}, "malloc: thresholds left as they are (MALLOC_TRIM_THRESHOLD_)"),
    ],
)
async def test_a_worker_raises_the_thresholds_of_malloc_unless_the_option_forbids_it(caplog, options, said):
    caplog.set_level("DEBUG", "asyncprefetch.worker")
    assert await rest(AsyncPrefetcher(Count(1), workers=ProcessWorkers(**options))) == [0]
    assert [r.message.split("] ")[1] for r in caplog.records if "malloc" in r.message] == [said]


@pytest.mark.both_loops
async def test_the_loop_runs_while_a_slow_consumer_catches_up():
    """A consumer that always finds a batch lets other tasks run every millisecond."""
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with AsyncPrefetcher(Count(20_000), n_batches_to_prefetch=64) as loader:
        await anext(loader)
        task = asyncio.create_task(count())
        loop = asyncio.get_running_loop()
        began = loop.time()
        async for _ in loader:
            pass
        milliseconds = (loop.time() - began) * 1000
        task.cancel()
    assert turns >= milliseconds / 20  # allow for a machine that stalls


@pytest.mark.both_loops
async def test_credit_of_the_next_run_is_kept_while_old_iterators_are_closed(tmp_path):
    for name in ("closing", "go-on"):
        os.mkfifo(tmp_path / name)
    loader = AsyncPrefetcher(
        Stubborn(8, str(tmp_path)), n_batches_to_prefetch=2, retry_on=(AttributeError, PicklingError)
    )
    async with loader:
        reading = asyncio.create_task(rest(loader))
        await asyncio.to_thread((tmp_path / "closing").read_bytes)
        # The worker is closing the old iterator, as a part of the start of the run that this credit belongs to.
        assert loader.statistics().requested == 2
        await asyncio.to_thread((tmp_path / "go-on").write_bytes, b"!")
        assert await reading == list(range(8))


@pytest.mark.both_loops
async def test_a_record_that_can_not_be_taken_in_costs_a_restart_and_no_batch(monkeypatch, caplog):
    monkeypatch.delattr(os, "memfd_create")
    expect = records.RecordReader._expect
    refused = []

    def short_of_memory(self, header, beginning):
        if header[0] > 2_000_000 and not refused:
            refused.append(header)
            raise MemoryError
        expect(self, header, beginning)

    monkeypatch.setattr(records.RecordReader, "_expect", short_of_memory)
    async with AsyncPrefetcher(stream_items.texts, n_batches_to_prefetch=2) as loader:
        assert [text[0] for text in await rest(loader)] == list("012345")
        assert loader.statistics().restarts == 1
    assert refused
    assert "MemoryError" in caplog.text


@pytest.mark.parametrize("where", ["worker", "loader"])
async def test_memory_that_can_not_be_given_back_ends_nothing(monkeypatch, where):
    initializer = stream_items.refuse_to_punch if where == "worker" else None
    if where == "loader":
        monkeypatch.setattr(shared_memory, "_remove", stream_items._refused)
    async with AsyncPrefetcher(
        Blocks(40), n_batches_to_prefetch=2, workers=ProcessWorkers(initializer=initializer)
    ) as loader:
        window = await take(loader, 8)
        window.clear()
        assert [batch["n"] for batch in await rest(loader)] == list(range(8, 40))
        assert loader.statistics().restarts == 0


async def test_a_core_dump_leaves_the_shared_memory_out():
    async with AsyncPrefetcher(Blocks(3)) as loader:
        held = await anext(loader)
        assert held["n"] == 0
        entry = _smaps().split("memfd:asyncprefetch", 1)[1]
        flags = next(line for line in entry.splitlines() if line.startswith("VmFlags:"))
        assert "dd" in flags.split()


def _smaps():
    return Path("/proc/self/smaps").read_text()


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)


def test_a_worker_that_dies_does_not_end_a_program_that_sigpipe_would_end():
    code = """
import asyncio, os, signal, time
from asyncprefetch import AsyncPrefetcher
from tests.stream_items import Blocks
from tests.processes import has_ended

async def main():
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    async with AsyncPrefetcher(Blocks(60)) as loader:
        got = []
        async for batch in loader:
            got.append(batch["n"])
            if len(got) == 9:
                os.kill(loader.statistics().workers[0].pid, signal.SIGKILL)
                while not has_ended(loader.statistics().workers[0].pid):
                    pass  # the loop has not noticed the death, and sends credit to the dead worker
    print(got == list(range(60)))

if __name__ == "__main__":
    asyncio.run(main())
"""
    done = run(code)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


# The last error is from a signal handler that prints to a closed pipe.
@pytest.mark.parametrize("error", ["KeyboardInterrupt", "TimeoutError", "BrokenPipeError(errno.EPIPE, 'Broken pipe')"])
def test_a_record_in_pieces_ends_the_worker(error):
    code = f"""
import errno
from tests.inside import WorkerSocket

class Interrupted:
    def setblocking(self, flag): pass
    def fileno(self): return 0
    def sendall(self, data, flags): raise {error}  # the user's signal handler raises during the call

WorkerSocket(Interrupted()).send(b"record")
"""
    assert run(code).returncode == -signal.SIGKILL


def test_a_worker_whose_loader_has_ended_may_send_and_receives_the_end():
    ours, workers = socket.socketpair()
    end = worker_socket.WorkerSocket(workers)
    ours.close()
    with workers:
        end.send(b"record")
        assert end.receive(wait=True) is None


@pytest.mark.parametrize("call", ["recv_into", "send"])
@pytest.mark.both_loops
async def test_an_alarm_while_the_socket_is_in_use_costs_a_restart_and_no_batch(monkeypatch, caplog, call):
    sockets = []

    def make_end(sock, *args):
        sockets.append(sock)
        return loader_socket.LoaderSocket(sock, *args)

    monkeypatch.setattr(stream_transport, "LoaderSocket", make_end)
    async with AsyncPrefetcher(Count(60), n_batches_to_prefetch=8) as loader:
        assert await anext(loader) == 0
        alarm_in(sockets[0], call)
        assert [item async for item in loader] == list(range(1, 60))
        assert loader.statistics().restarts == 1
    assert len(sockets) == 2
    assert "TimeoutError" in caplog.text


@pytest.mark.both_loops
async def test_an_alarm_that_the_iterator_catches_within_empty_loses_no_order(tmp_path):
    for name in ("made", "asked"):
        os.mkfifo(tmp_path / name)
    async with AsyncPrefetcher(Alarmed(9, str(tmp_path)), n_batches_to_prefetch=2) as loader:
        held = await take(loader, 3)  # now no slot is free, so the worker reads orders
        await asyncio.to_thread((tmp_path / "made").read_bytes)
        saving = asyncio.create_task(loader.get_state())
        await asyncio.sleep(0)  # the task sends the order
        assert loader.statistics().workers[0].state == "stopping"
        await asyncio.to_thread((tmp_path / "asked").write_bytes, b"!")
        async with asyncio.timeout(20):
            state = await saving
        assert [batch["n"] for batch in held + await rest(loader)] == list(range(9))
        assert loader.statistics().restarts == 1
    assert [batch["n"] for batch in await rest(state.build())] == list(range(3, 9))


def test_the_package_can_be_imported_where_there_is_no_shared_memory():
    code = "import mmap, os, socket, select\n"
    code += "for name in ('PROT_READ', 'PROT_WRITE', 'MADV_DONTDUMP'): delattr(mmap, name)\n"
    code += (
        "del os.memfd_create, socket.recv_fds, socket.send_fds, socket.MSG_NOSIGNAL, select.poll\nimport asyncprefetch"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
