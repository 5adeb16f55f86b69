"""The main function of a worker process: it sets the process up, then receives, runs and answers calls.

The process begins in one of two ways. :func:`run` is the target of a ``multiprocessing.Process``. :func:`main` is the
program of a new interpreter, for which it does what multiprocessing does elsewhere: it imports the program's main module.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from multiprocessing import spawn
from pathlib import Path
from typing import Any, NamedTuple

from asyncprefetch._wire import remote_errors
from asyncprefetch._wire.frames import Frame, FrameReader, Kind, pack
from asyncprefetch._wire.sockets import NO_SIGNAL
from asyncprefetch._worker import library_threads, logs, malloc
from asyncprefetch._worker.library_threads import LibraryThreads

if sys.platform != "win32":
    import fcntl

# The most descriptors that a worker is handed.
MAX_DESCRIPTORS = 8

# Whether this process is a new interpreter that is importing the program's main module. A main module without a guard
# would start workers, which would import it, and so on.
importing_main = False


class Begin(NamedTuple):
    """How a worker sets itself up.

    Attributes:
        env: the whole environment; ``None`` leaves it as it is.
        log_level: records of this level or above go to the parent.
        malloc: see :func:`asyncprefetch._worker.malloc.raise_thresholds`.
        threads: how many threads the libraries use; ``None`` leaves them.
        preparation: what ``multiprocessing.spawn`` needs to import the main module; ``None`` where that was done.
        initializer: a function and its arguments, pickled: they are loaded when the environment is in place.
    """

    env: Mapping[str, str] | None
    log_level: int
    malloc: str
    threads: LibraryThreads | None
    preparation: dict[str, Any] | None
    initializer: bytes | None


def main(sock: int, parent_sentinel: int, parent_pid: int) -> None:
    """Be the worker, in a new interpreter.

    Args:
        sock: the descriptor of the socket to the executor.
        parent_sentinel: the descriptor of a pipe that only the parent can write to.
        parent_pid: the parent.
    """
    _be_worker(socket.socket(fileno=sock), parent_sentinel, parent_pid)


def run(sock: socket.socket) -> None:
    """Be the worker, in a process that multiprocessing has started."""
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        raise RuntimeError("not in a process that multiprocessing has started")
    _be_worker(sock, parent.sentinel, parent.pid)


def _be_worker(sock: socket.socket, parent_sentinel: int, parent_pid: int) -> None:
    # A terminal sends it to all processes of a program. The parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _drop_handlers()
    _die_with_parent(parent_sentinel, parent_pid)
    _be_killed_first()
    sock.setblocking(True)
    try:
        _, descriptors, _, _ = socket.recv_fds(sock, 1, MAX_DESCRIPTORS, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
        _work(sock, descriptors)
    finally:
        # The descriptor stays open until the process has ended: the executor kills a worker that can't answer any more.
        sock.detach()


def _work(sock: socket.socket, descriptors: list[int]) -> None:
    reader = FrameReader()
    while (received := _receive(sock, reader)) is not None:
        frames = deque(received)
        received.clear()
        while frames:
            if frames[0].kind == Kind.BEGIN:
                _set_up(sock, pickle.loads(frames.popleft().body), descriptors)
            else:
                _send(sock, _answer(frames))


def _set_up(sock: socket.socket, begin: Begin, descriptors: list[int]) -> None:
    if begin.env is not None:
        # The environment of a fork server is that of the moment at which it was started.
        os.environ.clear()
        os.environ.update(begin.env)
    logs.collect(begin.log_level)
    malloc.raise_thresholds(begin.malloc)
    threads = library_threads.set_variables(begin.threads)
    if begin.preparation is not None:
        _or_end(sock, "importing the program's main module", _import_main, begin.preparation)
    if threads is not None:
        library_threads.set_loaded(threads, forked=begin.preparation is None)
    if begin.initializer is not None:
        _or_end(sock, "the initializer", _initialize, begin.initializer, descriptors)


def _import_main(preparation: dict[str, Any]) -> None:
    global importing_main  # noqa: PLW0603 - a process has one main module
    importing_main = True
    spawn.prepare(preparation)
    importing_main = False


def _initialize(initializer: bytes, descriptors: list[int]) -> None:
    function, arguments = pickle.loads(initializer)
    function(*arguments, *([descriptors] if descriptors else []))


def _or_end(sock: socket.socket, phase: str, function: Callable[..., None], *arguments: object) -> None:
    """Call a function that runs the user's code. If it raises, report the exception and end the process."""
    try:
        function(*arguments)
    except SystemExit:
        raise
    except BaseException as error:
        try:
            # Before it is sent: the executor kills a worker that it can't use.
            sys.excepthook(type(error), error, error.__traceback__)
        finally:  # the user's hook may raise
            _send(sock, pack(Kind.UNUSABLE, pickle.dumps(remote_errors.describe(error, phase), 5)))
        raise SystemExit(1) from None


def _receive(sock: socket.socket, reader: FrameReader) -> list[Frame] | None:
    if reader.within_frame:
        _send(sock, pack(Kind.MORE))
    try:
        return reader.receive(sock)
    except ConnectionError:  # the parent is gone, and did not read all answers
        return None


def _send(sock: socket.socket, buffers: list[bytes]) -> None:
    # Without a parent the answer is lost, and the next read sees the end of the stream.
    with contextlib.suppress(ConnectionError):
        for buffer in buffers:
            sock.sendall(buffer, NO_SIGNAL)


def _answer(frames: deque[Frame]) -> list[bytes]:
    """Take the first frame, and do its call. The frame is freed before the call, which may be a whole run."""
    try:
        function, arguments, keywords = pickle.loads(frames.popleft().body)
        return pack(Kind.RESULT, pickle.dumps(function(*arguments, **keywords), 5))
    except BaseException as error:
        return pack(Kind.ERROR, pickle.dumps(remote_errors.describe(error, "call"), 5))


def _drop_handlers() -> None:
    """Let signals do here what they do by default: a forked process has the parent's handlers."""
    # The parent's loop reads this descriptor, and would take a signal to this process for one to its own.
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)


def _die_with_parent(sentinel: int, pid: int) -> None:
    watched: list[Any] = [sentinel]
    # The pipe stays open as long as any child that the parent forked lives. The pid does not.
    if hasattr(os, "pidfd_open"):
        try:
            watched.append(os.pidfd_open(pid))
        except ProcessLookupError:
            os._exit(1)  # the parent is gone already
        except OSError:
            pass  # no more descriptors, or an old kernel
    threading.Thread(target=_exit_after, args=(watched,), name="asyncprefetch-parent-watch", daemon=True).start()
    if sys.platform == "linux":
        # The kernel ends even a worker whose C code holds the interpreter lock: no thread of ours would run then.
        with contextlib.suppress(OSError):
            fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)
            flags = fcntl.fcntl(sentinel, fcntl.F_GETFL)
            fcntl.fcntl(sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)


def _exit_after(watched: list[Any]) -> None:
    multiprocessing.connection.wait(watched)
    os._exit(1)


def _be_killed_first() -> None:
    """Let the kernel end this process before the parent when memory runs out: a worker can be started again."""
    # 1000 is the highest score. Where the file can't be written, the kernel chooses as it does for any process.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
