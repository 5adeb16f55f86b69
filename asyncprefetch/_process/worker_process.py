"""A started worker process: its sentinel, its death and its exit code, whatever the start method.

``fork`` and ``forkserver`` go through multiprocessing. ``spawn``, and every worker with an environment of its own, is a
new interpreter that ``subprocess`` starts: only so is the environment in place before any module is imported.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping
from multiprocessing import spawn
from multiprocessing.process import BaseProcess
from typing import Any

from asyncprefetch._process import main_guard
from asyncprefetch._worker import bootstrap

# Starts happen one at a time: a forked process inherits every descriptor that is open at that moment, those of a start
# in progress among them. Reentrant, so that the forked process, whose only thread holds it, can take it.
starting = threading.RLock()


class WorkerProcess:
    """A worker process that has been started.

    Args:
        process: the process.
        is_child: whether it is a child of this process. The fork server is the parent of the workers that it forks.
        sentinel: a descriptor that becomes readable when the process ends, for a child without a pidfd.
        owned: descriptors to close when the process has ended.

    Attributes:
        pid: the process id.
        sentinel: a descriptor that becomes readable when the process ends, even if other processes hold its descriptors.
    """

    def __init__(
        self, process: BaseProcess | subprocess.Popen[bytes], sentinel: int, *, is_child: bool, owned: list[int]
    ) -> None:
        assert process.pid is not None
        self.pid: int = process.pid
        self._process: BaseProcess | subprocess.Popen[bytes] | None = process
        self._is_child = is_child
        self._owned = owned
        # Reentrant: a garbage collection may kill a worker within any method.
        self._guard = threading.RLock()
        self._reaped = False
        # A pipe is inherited by the processes that the worker forks, and stays open as long as they live. The pipe of the
        # fork server is held by the server alone.
        self._pidfd = _pidfd(self.pid) if is_child else None
        self.sentinel = sentinel if self._pidfd is None else self._pidfd

    def kill(self) -> None:
        """End the process at once. From any thread, at any time."""
        with self._guard, contextlib.suppress(OSError):
            if self._reaped:
                return
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            elif not is_readable(self.sentinel):  # else it is gone, and the id may be another process's
                os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> int | None:
        """The exit code of a process whose sentinel is readable; ``None`` if it is not known. Closes all descriptors."""
        process = self._process
        assert process is not None, "it was reaped before"
        code = self._peek() if self._is_child else None
        if isinstance(process, BaseProcess):
            # The fork server sends the exit code once. multiprocessing also asks for it at each start of a process.
            with starting if not self._is_child else contextlib.nullcontext():
                # Without a timeout: that would wait for the pipe, which a child of the worker may hold.
                process.join()
            code = process.exitcode if code is None else code
        elif code is None and hasattr(os, "waitid"):
            process.wait()  # the system gave the code to another caller
        else:
            code = process.wait()
        with self._guard:
            self._reaped = True
            # Forgotten, it closes its descriptors. Not close(): another thread may be about to join all children, as
            # multiprocessing itself does when the program ends.
            self._process = None
            if self._pidfd is not None:
                self._owned.append(self._pidfd)
                self._pidfd = None
            while self._owned:
                os.close(self._owned.pop())
        return code

    def _peek(self) -> int | None:
        """The exit code, which stays to be asked for."""
        if not hasattr(os, "waitid"):
            return None
        try:
            if self._pidfd is not None and hasattr(os, "P_PIDFD"):
                ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT)
            else:
                ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        except OSError:  # the program ignores SIGCHLD, or another part of it has waited for the process
            return None
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def start(start_method: str, env: Mapping[str, str] | None, sock: socket.socket) -> tuple[WorkerProcess, Any]:
    """Start a worker. Blocks until the process exists. The caller holds ``starting``.

    Args:
        start_method: a start method of multiprocessing.
        env: the whole environment, for a new interpreter; ``None`` without an environment of its own.
        sock: the worker's end of the socket.

    Returns:
        The process, and the preparation data that it needs to import the main module, if it needs any.

    Raises:
        OSError, RuntimeError: the process can't be started.
        ConnectionError, EOFError: the fork server ended during the start.
    """
    if bootstrap.importing_main:
        raise RuntimeError(f"the program's main module starts a worker while a worker imports it: {main_guard.GUARD}")
    daemonic = multiprocessing.current_process().daemon  # then multiprocessing refuses to start children
    if env is None and start_method != "spawn" and not daemonic:
        context: Any = multiprocessing.get_context(start_method)
        # Not daemonic: a worker may start processes too.
        process = context.Process(target=bootstrap.run, args=(sock,), name="asyncprefetch-worker", daemon=False)
        process.start()
        return WorkerProcess(process, process.sentinel, is_child=start_method != "forkserver", owned=[]), None
    return _start_interpreter(env, sock)


def _start_interpreter(env: Mapping[str, str] | None, sock: socket.socket) -> tuple[WorkerProcess, Any]:
    preparation: dict[str, Any] = spawn.get_preparation_data("asyncprefetch-worker")
    # The key of multiprocessing refuses to be pickled outside of a start of its own.
    preparation["authkey"] = bytes(preparation["authkey"])
    with contextlib.ExitStack() as for_child, contextlib.ExitStack() as on_error:

        def pipe() -> tuple[int, int]:
            ends = os.pipe()
            on_error.callback(os.close, ends[0])
            on_error.callback(os.close, ends[1])
            return ends

        theirs, ours = pipe()  # by its end the worker sees that this process is gone
        path = [entry for entry in preparation["sys_path"] if isinstance(entry, str)]
        program = (
            f"import sys; sys.path[:] = {path!r}; from asyncprefetch._worker.bootstrap import main; "
            f"main({sock.fileno()}, {theirs}, {os.getpid()})"
        )
        # What precedes the program in multiprocessing's own command: the interpreter and its options.
        command = spawn.get_command_line()
        command = [*command[: command.index("-c")], "-c", program]
        pass_fds, closed, owned, sentinel = [sock.fileno(), theirs], [theirs], [ours], -1
        if not _has_pidfd():
            sentinel, alive = pipe()
            pass_fds.append(alive)
            closed.append(alive)
            owned.append(sentinel)
        child = subprocess.Popen(command, env=env, pass_fds=pass_fds, stdin=subprocess.DEVNULL)
        on_error.callback(child.wait)
        on_error.callback(child.kill)
        process = WorkerProcess(child, sentinel, is_child=True, owned=owned)
        if process.sentinel < 0:
            raise OSError("the process can't be watched: no more descriptors")
        on_error.pop_all()
        for descriptor in closed:
            for_child.callback(os.close, descriptor)
    return process, preparation


def is_readable(descriptor: int) -> bool:
    """Whether something can be read, or the end was reached."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def wait_for(descriptor: int) -> None:
    """Wait until something can be read, or the end was reached."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll()


def _pidfd(pid: int) -> int | None:
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # no more descriptors, an old kernel, or a process that is gone already
        return None


def _has_pidfd() -> bool:
    descriptor = _pidfd(os.getpid())
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None
