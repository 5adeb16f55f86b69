"""Iterators and initializers for workers that die on demand, or stop answering. Workers import this module."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asyncprefetch import IteratorState, Position, ProcessWorkers, StatefulIterator, register
from asyncprefetch.executors import ProcessExecutor
from asyncprefetch.iterators import from_iterable
from tests.inside import in_daemon_thread, shard, transport_of

# The exit code and the signal for each way to die.
WAYS = {"SIGKILL": (-9, "SIGKILL"), "SIGSEGV": (-11, "SIGSEGV"), "0": (0, None), "3": (3, None)}


def die(how: str) -> None:
    if how == "SIGSEGV":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.string_at(0)  # a real segmentation fault
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait()  # until the signal arrives
    os._exit(int(how))


def mortal(worker: int) -> None:
    """As an initializer: a thread ends the worker when the test calls ``Hangman.kill``, even if the worker is busy."""
    threading.Thread(target=_wait_for_death, args=(worker,), daemon=True).start()


def _wait_for_death(worker: int) -> None:
    die(Path(os.environ["MORTALS"], f"worker-{worker}").read_text())


def bear() -> int:
    """Fork a child that holds all inherited descriptors and outlives this process. Return its pid."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        while True:
            signal.pause()
    return pid


def bear_a_child(worker: int) -> None:
    """As an initializer: each worker forks a child. The name of a file contains the child's pid."""
    Path(os.environ["MORTALS"], f"child-{bear()}").touch()


def bears_and_dies_in_an_answer(worker: int) -> None:
    """As an initializer: ``bear_a_child`` and ``dies_in_an_answer``."""
    bear_a_child(worker)
    dies_in_an_answer(worker)


def bears_and_dies(worker: int) -> None:
    """As an initializer: the worker forks a child and dies at once."""
    bear_a_child(worker)
    die("SIGKILL")


def dies_in_an_answer(worker: int) -> None:
    """As an initializer: the first worker that sends a long answer dies after it has sent half of it."""

    def send(self: socket.socket, data: Any, *flags: int) -> None:
        done = Path(os.environ["MORTALS"], "died")
        if len(data) > 100_000 and not done.exists():
            done.touch()
            # Half of the answer is more than the socket holds, so the reader has begun to read.
            send_all(self, data[: len(data) // 2], *flags)
            die(os.environ["HOW"])
        return send_all(self, data, *flags)

    send_all = socket.socket.sendall
    socket.socket.sendall = send  # type: ignore[method-assign]


class Hangman:
    """The test's side of ``mortal``: a named pipe for each worker."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        # Workers inherit the variable. The option ``env`` would start new interpreters, slowly.
        os.environ["MORTALS"] = str(folder)
        for worker in range(workers):
            os.mkfifo(folder / f"worker-{worker}")

    async def kill(self, worker: int, how: str) -> None:
        await in_daemon_thread(lambda: (self.folder / f"worker-{worker}").write_text(how), "hangman")


def workers_with(pull: bool, initializer: Any = None, **how: Any) -> dict[str, Any]:
    """Return the loader's options for worker processes with these options, on either transport."""
    if pull:
        return {
            "workers": lambda worker: ProcessExecutor(
                initializer=initializer, initargs=(worker,) if initializer is not None else (), **how
            )
        }
    return {"workers": ProcessWorkers(initializer=initializer, **how)}


def unread(loader: Any, worker: int = 0) -> int:
    """Return how many bytes from a worker wait in the socket of the stream transport."""
    sock = transport_of(loader, worker)._end._socket
    return struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, b"\0\0\0\0"))[0]


class WorldState(IteratorState, kind="tests.mortals.world"):
    stop: int
    what: str
    folder: str = ""
    position: Position[int] = 0

    def build(self) -> World:
        return World(self)


class World(StatefulIterator[Any]):
    """Counts. Before item 2 it calls its method ``what``, unless an earlier call left a mark in ``folder``."""

    def __init__(self, state: WorldState) -> None:
        self.state, self.position = state, state.position

    @classmethod
    def make(cls, stop: int, what: str, folder: object = "") -> World:
        return cls(WorldState(stop=stop, what=what, folder=str(folder)))

    def get_state(self) -> WorldState:
        return self.state.model_copy(update={"position": self.position})

    def create_iter(self) -> Iterator[int]:
        while self.position < self.state.stop:
            mark = Path(self.state.folder, f"{self.state.what}-done")
            if self.position == 2 and not mark.exists():
                getattr(self, self.state.what)(mark)
            self.position += 1
            yield self.position - 1

    def fork_a_child(self, mark: Path) -> None:
        mark.with_suffix(".tmp").write_text(str(bear()))
        mark.with_suffix(".tmp").rename(mark)

    def want_memory(self, mark: Path) -> None:
        """Allocate more than the process's limit, which raises an error in the iterator."""
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
        bytearray(2 << 30)

    def eat_memory(self, mark: Path) -> None:
        """Allocate more memory than the machine or the group has, so that the kernel kills a process."""
        mark.touch()
        eaten = []
        while True:
            eaten.append(b"x" * (1 << 20))

    def hold_the_lock(self, mark: Path) -> None:
        """Run C code that never releases the GIL."""
        mark.touch()
        sum(range(10**14))

    def spin(self, mark: Path) -> None:
        mark.touch()
        while True:
            pass


class SlowState(IteratorState, kind="tests.mortals.slow"):
    stop: int
    folder: str
    position: Position[int] = 0

    def build(self) -> Slow:
        return Slow(self)


class Slow(StatefulIterator[int]):
    """Counts. Files in ``folder`` slow it down and make it wait.

    ``slow`` makes each item take 0.05 s. ``gate``, a named pipe, holds the iterator before item 24. ``begun``, a named
    pipe, receives one byte when the counting begins.
    """

    def __init__(self, state: SlowState) -> None:
        self.state, self.position = state, state.position

    def get_state(self) -> SlowState:
        return self.state.model_copy(update={"position": self.position})

    def create_iter(self) -> Iterator[int]:
        slow, begun = Path(self.state.folder, "slow"), Path(self.state.folder, "begun")
        while self.position < self.state.stop:
            if begun.exists():
                begun.write_bytes(b"!")
                begun.unlink()
            if slow.exists():
                time.sleep(0.05)
            gate = Path(self.state.folder, "gate")
            if self.position == 24 and gate.exists():
                Path(self.state.folder, "reached").write_bytes(b"!")
                gate.read_bytes()
            self.position += 1
            yield self.position - 1


class HeavyState(IteratorState, kind="tests.mortals.heavy"):
    """A state that does not fit into a pipe."""

    weight: bytes
    position: Position[int] = 0

    def build(self) -> Heavy:
        return Heavy(self)


class Heavy(StatefulIterator[int]):
    def __init__(self, state: HeavyState) -> None:
        self.state = state

    def get_state(self) -> HeavyState:
        return self.state

    def create_iter(self) -> Iterator[int]:
        yield 1


def sends_no_states(worker: int) -> None:
    """As an initializer: the worker sends states only on request, never because time has passed."""
    shard._MIN_STATE_INTERVAL = 3600


def die_at_once(worker: int) -> None:
    """As an initializer: the worker dies at once."""
    die("SIGKILL")


@register("tests.mortals.oom_score")
def oom_score() -> Iterator[int]:
    yield int(Path("/proc/self/oom_score_adj").read_text())


@register("tests.mortals.long_texts")
def long_texts() -> Iterator[str]:
    for n in range(10**6):
        yield f"{n % 10}" * 3_000_000


score = from_iterable(oom_score)
texts = from_iterable(long_texts)
