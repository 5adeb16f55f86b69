"""Random faults for a given time, checked against the reference stream: ``python -m tests.faults.soak --minutes 10``.

A round reads a pipeline from its beginning to its end through many loaders. Each loader is built from a state of the
previous one. The round kills and stops workers, cancels calls, and changes and keeps batches. The seed determines these
actions, but not their timing.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import ctypes
import faulthandler
import gc
import logging
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from asyncprefetch import AsyncPrefetcher, AsyncPrefetcherState
from asyncprefetch.executors import ProcessExecutor
from asyncprefetch.testing import assert_items_equal
from tests.faults.soaked import Soaked, reference
from tests.pipelines.counting import in_turns

TRANSPORTS = ("stream", "pull")

# Seconds. A round that takes longer is taken to hang.
_TIMEOUT = 30.0


_M_ARENA_MAX = -8


class SoakError(AssertionError):
    """The stream differs from the reference stream. The message says how to repeat the round."""


class Round:
    """One pipeline, from its beginning to its end.

    Args:
        seed: the seed of all random choices.
        folder: the folder for checkpoints.
        transport: one of ``TRANSPORTS``, or ``None`` for another one at each restore.
        in_order: the loader's option, or ``None`` to let the seed choose.
    """

    def __init__(self, seed: int, folder: Path, transport: str | None = None, in_order: bool | None = None) -> None:
        self.seed = seed
        self.done: collections.Counter[str] = collections.Counter()
        self._random = random.Random(seed)
        self._folder = folder
        self._transport = transport
        self._in_order = self._random.random() < 0.5
        if in_order is not None:
            self._in_order = in_order
        stops = [self._random.randint(0, 60) for _ in range(self._random.randint(1, 4))]
        self._pipeline = [Soaked(seed + shard, stop) for shard, stop in enumerate(stops)]
        self._reference = [reference(seed + shard, stop) for shard, stop in enumerate(stops)]
        turns = in_turns([[(shard, n) for n in range(stop)] for shard, stop in enumerate(stops)])
        self._turns = [shard for shard, _ in turns]
        self._delivered = [0] * len(stops)
        self._kept: list[tuple[Any, np.ndarray]] = []
        self._old: AsyncPrefetcherState | None = None
        self._legs = self._random.randint(1, 10)
        self._log: collections.deque[str] = collections.deque(maxlen=30)
        self._stopped: set[int] = set()  # pidfds of stopped processes that the round must continue
        self._loader: AsyncPrefetcher[Any] | None = None

    async def run(self) -> None:
        """Read the whole stream. Raise ``SoakError`` at the first difference."""
        looking = asyncio.get_running_loop().call_later(0.95 * _TIMEOUT, self._look)
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._run()
        except (Exception, asyncio.CancelledError) as error:
            figures = self._loader.statistics() if self._loader is not None else None
            raise SoakError(
                f"seed {self.seed} (transport {self._transport}, in_order {self._in_order}): {type(error).__name__}: "
                f"{error}\nlast of all: {', '.join(self._log)}\ndelivered {self._delivered}\n{figures}"
            ) from error
        finally:
            looking.cancel()
            for descriptor in list(self._stopped):
                self._go_on(descriptor)

    def _look(self) -> None:
        """Print where every task and thread waits, before the round is cancelled because it hangs."""
        print(f"seed {self.seed} hangs, after {', '.join(self._log)}", file=sys.stderr)
        if self._loader is not None:
            print(self._loader.statistics(), file=sys.stderr)
        for task in asyncio.all_tasks():
            task.print_stack(file=sys.stderr)
        sys.stderr.flush()
        faulthandler.dump_traceback()

    async def _run(self) -> None:
        loader = AsyncPrefetcher(self._pipeline, in_order=self._in_order, **self._resources())
        while True:
            self._loader = loader
            async with loader:
                state = await self._leg(loader)
            self._check_kept()
            if state is None:
                break
            loader = (await self._through(state)).build(**self._resources())
        left = [len(items) - n for items, n in zip(self._reference, self._delivered, strict=True)]
        assert not any(left), f"the end came with {left} items to come"

    def _resources(self) -> dict[str, Any]:
        transport = self._transport or self._random.choice(TRANSPORTS)
        resources: dict[str, Any] = {
            "num_workers": self._random.randint(1, len(self._pipeline)),
            "n_batches_to_prefetch": self._random.choice([1, 2, 3, 8, 20]),
            "max_restarts": 1000,
        }
        if transport == "pull":
            resources["workers"] = _process
        self._log.append(f"{transport} {resources['num_workers']} x {resources['n_batches_to_prefetch']}")
        return resources

    async def _leg(self, loader: AsyncPrefetcher[Any]) -> AsyncPrefetcherState | None:
        """Read a part of the stream. Return the state to continue from, or ``None`` at the end."""
        self._legs -= 1
        acts = self._random.randint(0, 15) if self._legs > 0 else 10**9
        for _ in range(acts):
            act = self._random.choices(_ACTS, _WEIGHTS)[0]
            self._log.append(act)
            self.done[act] += 1
            try:
                await getattr(self, f"_{act}")(loader)
            except StopAsyncIteration:
                if self._legs <= 0 or self._random.random() < 0.5:
                    return None
                break  # the state is at the end of the stream
        if self._old is not None and self._random.random() < 0.2:
            self._log.append("an older state")
            state = self._old
        else:
            state = await loader.get_state()
            self._check_state(state)
        by_shard = state.delivered.by_shard
        self._delivered = [by_shard[shard] for shard in range(len(self._pipeline))]
        return state

    # ---------------------------------------------------------------------------------------------------------- checks

    def _accept(self, loader: AsyncPrefetcher[Any], item: Any) -> None:
        """Check that the item is the next one. Then change it, keep it or drop it, as a consumer may."""
        now = loader.statistics().delivered_by_shard
        came = [shard for shard, n in enumerate(self._delivered) if now[shard] != n]
        assert len(came) == 1, f"one delivery, and of the shards {came} there are more: {now}"
        (shard,) = came
        if self._in_order:
            assert shard == self._turns[sum(self._delivered)], f"shard {shard} is not due"
        n = self._delivered[shard]
        self._delivered[shard] += 1
        assert now[shard] == n + 1
        assert_items_equal(item, self._reference[shard][n]())
        self._treat(item)

    def _treat(self, item: Any) -> None:
        array = item["x"] if isinstance(item, dict) and "x" in item else item
        if not isinstance(array, np.ndarray):
            return
        if self._random.random() < 0.3:
            array[: self._random.randint(0, array.size)] = 77
        if self._random.random() < 0.2:
            view = array[array.size // 3 :: self._random.choice([1, 2, -1])]
            self._kept.append((view, view.copy()))
            if len(self._kept) > 25:
                self._kept.pop(self._random.randrange(25))

    def _check_kept(self) -> None:
        for view, copy in self._kept:
            assert (view == copy).all(), "a batch that is kept has changed"

    def _check_state(self, state: AsyncPrefetcherState) -> None:
        by_shard = state.delivered.by_shard
        assert [by_shard[shard] for shard in range(len(self._pipeline))] == self._delivered

    # ------------------------------------------------------------------------------------------------------------ acts

    async def _take(self, loader: AsyncPrefetcher[Any]) -> None:
        for _ in range(self._random.randint(1, 12)):
            self._accept(loader, await anext(loader))

    async def _take_slowly(self, loader: AsyncPrefetcher[Any]) -> None:
        for _ in range(self._random.randint(1, 4)):
            self._accept(loader, await anext(loader))
            if self._random.random() < 0.3:
                time.sleep(self._random.uniform(0, 0.01))
            else:
                await asyncio.sleep(self._random.uniform(0, 0.01))

    async def _cancel_next(self, loader: AsyncPrefetcher[Any]) -> None:
        for _ in range(self._random.randint(1, 6)):
            await self._cancelled(self._next(loader))

    async def _time_out(self, loader: AsyncPrefetcher[Any]) -> None:
        for _ in range(self._random.randint(1, 6)):
            try:
                self._accept(loader, await asyncio.wait_for(anext(loader), self._random.uniform(0, 0.01)))
            except TimeoutError:
                continue

    async def _cancel_get_state(self, loader: AsyncPrefetcher[Any]) -> None:
        await self._cancelled(loader.get_state())

    async def _get_state(self, loader: AsyncPrefetcher[Any]) -> None:
        self._old = await loader.get_state()
        self._check_state(self._old)

    async def _get_state_with_grace(self, loader: AsyncPrefetcher[Any]) -> None:
        self._old = await loader.get_state(grace=self._random.choice([0, 0.001, 0.01]))
        self._check_state(self._old)

    async def _get_state_while_waiting(self, loader: AsyncPrefetcher[Any]) -> None:
        waiting = asyncio.create_task(self._next(loader))
        await self._a_while()
        try:
            state = await loader.get_state()
        finally:
            await waiting
        by_shard = state.delivered.by_shard
        # The loader may deliver the batch before or after the state. Both are right; the state determines the rest.
        assert 0 <= sum(self._delivered) - sum(by_shard.values()) <= 1
        self._old = state

    async def _kill(self, loader: AsyncPrefetcher[Any]) -> None:
        for pid in self._pids(loader)[:1]:
            self._signal(pid, signal.SIGKILL)

    async def _kill_all(self, loader: AsyncPrefetcher[Any]) -> None:
        for pid in self._pids(loader):
            self._signal(pid, signal.SIGKILL)

    async def _stop(self, loader: AsyncPrefetcher[Any]) -> None:
        for pid in self._pids(loader)[:1]:
            self._signal(pid, signal.SIGSTOP)

    async def _kill_while_asked(self, loader: AsyncPrefetcher[Any]) -> None:
        asked = asyncio.create_task(loader.get_state())
        await self._a_while()
        await self._kill(loader)
        self._old = await asked
        self._check_state(self._old)

    async def _drop(self, loader: AsyncPrefetcher[Any]) -> None:
        self._check_kept()
        thread = threading.Thread(target=self._kept.clear)
        thread.start()
        thread.join()

    # ---------------------------------------------------------------------------------------------------------- helpers

    async def _next(self, loader: AsyncPrefetcher[Any]) -> None:
        # There is no await between taking an item and accepting it, so a cancelled call has taken nothing.
        self._accept(loader, await anext(loader))

    async def _cancelled(self, call: Any) -> None:
        task = asyncio.ensure_future(call)
        await self._a_while()
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def _a_while(self) -> None:
        if self._random.random() < 0.7:
            for _ in range(self._random.randint(0, 12)):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(self._random.uniform(0, 0.02))

    def _pids(self, loader: AsyncPrefetcher[Any]) -> list[int]:
        """Return the pids of the workers that run or ran a moment ago, in random order."""
        alive = {"running", "stopping", "idle"}
        pids = [w.pid for w in loader.statistics().workers if w.pid is not None and w.state in alive]
        self._random.shuffle(pids)
        return pids

    def _signal(self, pid: int, number: signal.Signals) -> None:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:  # it was killed and reaped before
            return
        if number is signal.SIGSTOP:
            self._stopped.add(descriptor)
            asyncio.get_running_loop().call_later(self._random.uniform(0, 0.1), self._go_on, descriptor)
        _send(descriptor, number, close=number is signal.SIGKILL)

    def _go_on(self, descriptor: int) -> None:
        if descriptor in self._stopped:
            self._stopped.discard(descriptor)
            _send(descriptor, signal.SIGCONT, close=True)

    async def _through(self, state: AsyncPrefetcherState) -> AsyncPrefetcherState:
        way = self._random.choice(["nothing", "JSON", "bytes", "file"])
        self._log.append(f"through {way}")
        self.done[f"restore through {way}"] += 1
        match way:
            case "JSON":
                return AsyncPrefetcherState.from_json(state.to_json())
            case "bytes":
                return AsyncPrefetcherState.from_bytes(state.to_bytes())
            case "file":
                await state.save(self._folder / "state")
                return await AsyncPrefetcherState.load(self._folder / "state")
        return state


_ACTS = {
    "take": 10,
    "take_slowly": 3,
    "cancel_next": 4,
    "time_out": 2,
    "cancel_get_state": 2,
    "get_state": 2,
    "get_state_with_grace": 2,
    "get_state_while_waiting": 2,
    "kill": 2,
    "kill_all": 1,
    "kill_while_asked": 1,
    "stop": 1,
    "drop": 1,
}
_ACTS, _WEIGHTS = list(_ACTS), list(_ACTS.values())


def _process(worker: int) -> Executor:
    return ProcessExecutor()


def _send(descriptor: int, number: signal.Signals, *, close: bool) -> None:
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:  # the process has ended already
        pass
    finally:
        if close:
            os.close(descriptor)


# -------------------------------------------------------------------------------------------------------------- leaks


def figures() -> dict[str, int]:
    """Return the figures that must be the same after every round."""
    gc.collect()
    server = _fork_server()
    maps = Path("/proc/self/maps").read_text()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "descriptors of the fork server": len(os.listdir(f"/proc/{server}/fd")) if server else 0,
        "processes": len(multiprocessing.active_children()),
        "children of the fork server": len(_children(server)) if server else 0,
        "mappings of shared memory": maps.count("memfd:asyncprefetch") + maps.count("/dev/shm/"),
        "threads": sum(t.name.startswith("asyncprefetch") for t in threading.enumerate()),
    }


def _fork_server() -> int | None:
    """Return the pid of this process's fork server, if one runs."""
    for pid in _children(os.getpid()):
        with contextlib.suppress(OSError):
            if b"multiprocessing.forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return None


def _children(pid: int) -> list[int]:
    """Return the children of all threads of a process."""
    found = []
    with contextlib.suppress(OSError):  # some kernels lack these files
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


_libc = ctypes.CDLL(None)


def resident() -> int:
    """Return the resident bytes of this process after malloc has returned its free memory."""
    _libc.malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def settled(expected: dict[str, int]) -> dict[str, int]:
    """Wait up to one second until the figures are as expected, and return them."""
    until = time.monotonic() + 1
    while (now := figures()) != expected and time.monotonic() < until:
        time.sleep(0.01)  # a thread may execute its last line, and the fork server may reap a process
    return now


def run_round(seed: int, folder: Path, **choices: Any) -> Round:
    """Run one round on a new loop."""
    loop = [asyncio.new_event_loop, uvloop.new_event_loop][seed % 2]
    soaking = Round(seed, folder, **choices)
    with asyncio.Runner(loop_factory=loop, debug=seed % 5 == 0) as runner:
        runner.run(soaking.run())
    return soaking


def main() -> None:
    """Run rounds for the number of minutes on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first round; the next one has the next multiple of ten"
    )
    arguments = parser.parse_args()
    logging.getLogger("asyncprefetch").setLevel(logging.ERROR)  # each restart would log a line
    multiprocessing.set_forkserver_preload(["asyncprefetch.executors", "tests.faults.soaked"])
    _libc.mallopt(_M_ARENA_MAX, 1)  # malloc_trim returns little from the arenas of threads
    until = time.monotonic() + 60 * arguments.minutes
    done: collections.Counter[str] = collections.Counter()
    rounds, first, memory = 0, None, []
    with tempfile.TemporaryDirectory() as name:
        while time.monotonic() < until:
            seed = arguments.seed + 10 * rounds
            faulthandler.dump_traceback_later(2 * _TIMEOUT, exit=True)  # the loop itself may hang
            done += run_round(seed, Path(name)).done
            rounds += 1
            memory.append(resident())
            if first is None:
                first = figures()
            elif (now := settled(first)) != first:
                raise SoakError(f"seed {seed}: left over: {now}, at first: {first}")
            if rounds % 10 == 0:
                print(f"round {rounds}: {memory[-1] >> 20} MiB", flush=True)
    faulthandler.cancel_dump_traceback_later()
    half = sorted(memory[: len(memory) // 2]), sorted(memory[len(memory) // 2 :])
    middle = [values[len(values) // 2] >> 20 for values in half if values]
    print(f"{rounds} rounds, no difference; resident in the first and the second half: {middle} MiB; {first}")
    print(dict(done))
    if len(middle) == 2 and middle[1] > middle[0] + 16:
        raise SoakError(f"memory grew from {middle[0]} to {middle[1]} MiB")


if __name__ == "__main__":
    main()
