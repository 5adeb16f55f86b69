"""The multiprocessing context of a pool of one worker: it knows the process, and sees to what the pool leaves open.

A pool keeps its process to itself, can't be told by which descriptor to learn of its end, waits at its pipes for as long
as anybody holds their other ends, and has its semaphores under names that outlive a program which is killed with all its
helpers.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import multiprocessing.queues
import multiprocessing.util
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

# What multiprocessing says of a process whose exit code is lost.
_LOST = 255


class WorkerProcess:
    """A process of multiprocessing whose ``sentinel`` tells of its own end, whoever holds the pipe that usually does.

    Under spawn and fork that pipe is inherited by whatever the worker forks (a helper of the user's, say), and tells
    nothing before that is gone too. The fork server's is held by the server alone.
    """

    def __init__(self, process: Any, *, own_child: bool, on_start: Any) -> None:
        self._process = process
        self._own_child = own_child
        self._on_start = on_start
        self._descriptor: int | None = None
        self._reaping = threading.RLock()
        self._lost = False

    def start(self) -> None:
        """Start it."""
        self._process.start()
        if self._own_child and hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):  # no more descriptors, or an old kernel
                self._descriptor = os.pidfd_open(self._process.pid)
        if self._descriptor is not None or not self._own_child:
            popen = self._process._popen
            popen.poll = functools.partial(self._poll, popen, popen.poll)
        self._on_start()

    def _poll(self, popen: Any, poll: Callable[[int], int | None], flag: int = getattr(os, "WNOHANG", 1)) -> int | None:
        """The exit code; ``None`` while the process runs.

        It can be asked for once only, and multiprocessing does so in whichever thread happens to start or to list
        processes: of two that ask at once, the one that comes too late would make a wrong one of it.
        """
        if not flag and popen.returncode is None:
            with contextlib.suppress(ValueError):  # closed meanwhile
                multiprocessing.connection.wait([self.sentinel])
        with self._reaping:
            if popen.returncode is None:  # else it may be closed, and has no sentinel
                gone = multiprocessing.connection.wait([self.sentinel], 0)
                if poll(os.WNOHANG) is None and gone:
                    # Somebody else has reaped it (a program that ignores SIGCHLD leaves that to the kernel): without a
                    # code it would seem to run for ever.
                    popen.returncode, self._lost = _LOST, True
            code: int | None = popen.returncode
            return code

    @property
    def exitcode(self) -> int | None:
        """The exit code; ``None`` also where the system gave it to somebody else."""
        code: int | None = self._process.exitcode
        return None if self._lost else code

    @property
    def sentinel(self) -> int:
        """A descriptor that is ready when the process is gone."""
        return self._descriptor if self._descriptor is not None else self._process.sentinel

    def close(self) -> None:
        """Give back what belongs to the process, which is gone."""
        with self._reaping:
            self._process.close()
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)


class WorkerContext:
    """What a ``ProcessPoolExecutor`` of one worker takes for its context.

    Attributes:
        process: the pool's process, once the pool has made it.
    """

    def __init__(self, start_method: str) -> None:
        self.start_method = start_method
        self.process: WorkerProcess | None = None
        self._context = multiprocessing.get_context(start_method)
        self._locks: list[Any] = []
        self._results: Any = None
        self._calls: Any = None
        self._lines: list[socket.socket] = []

    def Process(self, *args: Any, **kwargs: Any) -> WorkerProcess:  # noqa: N802 - the context's name
        """The pool's process."""
        self._calls, self._results, *_ = kwargs["args"]
        if sys.platform == "linux":
            for queue in (self._calls, self._results):
                self._lines.append(_over_sockets(queue))
            self._calls._reset()  # both know methods of their ends
            self._results._poll = self._results._reader.poll
        process = self._context.Process(*args, **kwargs)  # type: ignore[attr-defined]
        own_child = self.start_method != "forkserver"
        self.process = WorkerProcess(process, own_child=own_child, on_start=self._started)
        return self.process

    def SimpleQueue(self) -> Any:  # noqa: N802
        """The pool's pipe for results, whose locks are of this context too."""
        return multiprocessing.queues.SimpleQueue(ctx=self)

    def Lock(self) -> Any:  # noqa: N802
        """A lock that :meth:`unlink_names` knows."""
        self._locks.append(self._context.Lock())
        return self._locks[-1]

    def BoundedSemaphore(self, value: int = 1) -> Any:  # noqa: N802
        """A semaphore that :meth:`unlink_names` knows."""
        self._locks.append(self._context.BoundedSemaphore(value))
        return self._locks[-1]

    def _started(self) -> None:
        # Only the worker writes results, and only it reads calls. Where nothing can be hung up, a second writer would keep
        # a result that was cut short by its death from coming to an end, and the pool would wait for the rest for ever;
        # so with a second reader, and a call that has no room.
        self._results._writer.close()
        self._calls._reader.close()
        # The thread that writes calls. The pool would start it with the first call, in a thread of its own, which ends
        # if there can be no more threads: then nothing is answered, and nobody tells.
        with self._calls._notempty:
            self._calls._start_thread()
        self._results = None

    def hang_up(self) -> None:
        """End what the pool reads and writes, for its process is gone; what that has sent before can still be read.

        What a worker forks has copies of the other ends, and may outlive it.
        """
        self._results = None  # if it never started, this is still here, and with it the pool's pipe
        lines, self._lines = self._lines, []
        for line in lines:
            with contextlib.closing(line), contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def end_writing(self) -> None:
        """End the thread that writes calls, which the pool's own does, if it has one. For when that is gone."""
        self.hang_up()
        calls, self._calls = self._calls, None
        if calls is not None:
            calls.close()
            calls.join_thread()

    def unlink_names(self) -> None:
        """Take the names of the semaphores away, which nobody needs any more: the worker has opened them.

        They lie in /dev/shm, and a SIGKILL to the whole process group takes the tracker too, which would unlink them.
        """
        names = {lock._semlock.name for lock in self._locks}
        self._locks.clear()
        # What runs when a lock is collected, and is done once: multiprocessing gives no other way to it.
        for finalizer in list(getattr(multiprocessing.util, "_finalizer_registry", {}).values()):
            if names.intersection(arg for arg in finalizer._args or () if isinstance(arg, str)):
                with contextlib.suppress(OSError):
                    finalizer()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _over_sockets(queue: Any) -> socket.socket:
    """Put a queue that was not used yet on a pair of sockets: that can be shut down, whoever holds copies of its ends.

    Gives a socket by which to do so.
    """
    for end in (queue._reader, queue._writer):
        end.close()
    queue._reader, queue._writer = multiprocessing.Pipe()
    line = socket.socket(fileno=os.dup(queue._reader.fileno()))
    line.setblocking(True)  # which it is not where there is a default timeout, and with it the queue's own end
    return line
