"""An executor of one worker process.

There is one process, one socketpair and one thread. ``submit`` pickles the call and sends it from the calling thread, as
far as the socket has room. The thread starts the process, sends what is left, receives answers, waits for the end of the
process, and reaps it. It never blocks on the socket, so two long messages that cross do not wait for each other.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import pickle
import select
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future, InvalidStateError
from typing import Any, ParamSpec, TypeVar

from asyncprefetch._process import call_errors, limits, main_guard, out_of_memory, program_end, worker_process
from asyncprefetch._process.not_copied import NotCopied
from asyncprefetch._process.process_workers import default_start_method
from asyncprefetch._process.states import PROCESS, ProcessEvent, ProcessState
from asyncprefetch._process.worker_process import WorkerProcess
from asyncprefetch._wire.frames import Frame, FrameReader, Kind, pack
from asyncprefetch._wire.sockets import NO_SIGNAL
from asyncprefetch._wire.transitions import advance
from asyncprefetch._worker import logs
from asyncprefetch._worker.bootstrap import Begin
from asyncprefetch._worker.library_threads import LibraryThreads, checked_threads

P = ParamSpec("P")
T = TypeVar("T")

_GONE = "the worker process is gone, or the executor was shut down"


class ProcessExecutor(NotCopied, Executor):
    """An executor of one worker process. No method blocks, except ``shutdown`` with ``wait``.

    The first call starts the process. The process ignores SIGINT, drops the signal handlers of its parent, ends itself
    when its parent ends, and sends its log records to the parent. A call is sent when it is submitted, so it can't be
    cancelled. An exception of a call that can't be pickled arrives as a ``RuntimeError`` with its type, text and
    traceback; so does one that would mean something else in this process, ``StopIteration`` or ``SystemExit`` for
    instance.

    Args:
        start_method: a start method of multiprocessing; by default see :func:`default_start_method`.
        env: environment variables, added to those of this process. With them the worker is a new interpreter, as with
            ``spawn``, so they are in place before any module is imported.
        initializer: called in the process before anything else, with ``initargs``. Both must be picklable. If it raises,
            every call raises a ``BrokenExecutor`` with the type, text and traceback of the exception.
        initargs: the arguments of the initializer.
        malloc: see :class:`ProcessWorkers`.
        threads: how many threads the libraries in the process use, see :class:`ProcessWorkers`; ``None`` leaves them.
        descriptors: sockets or numbers of descriptors for the worker. The executor owns them from now on. The initializer
            gets their numbers in the worker as a list, after ``initargs``; the list is shorter if the worker has no room.

    Raises:
        ValueError: ``env`` was given with ``start_method="fork"``.

    Attributes:
        exited: resolves when the process has ended and was reaped: to its exit code (negative: the number of a signal),
            or to ``None`` if the code is not known or there was no process.
        oom_kills: how many processes of its control group the kernel ended for lack of memory while this process
            lived; known when ``exited`` is.
    """

    starts_without_blocking = True

    def __init__(
        self,
        *,
        start_method: str | None = None,
        env: Mapping[str, str] | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        malloc: str = "raised",
        threads: LibraryThreads | int | None = None,
        descriptors: Iterable[int | socket.socket] = (),
    ) -> None:
        self._handed: deque[int | socket.socket] = deque(descriptors)
        self.exited: Future[int | None] = Future()
        self.oom_kills: int = 0
        if sys.platform == "win32":
            raise NotImplementedError("ProcessExecutor needs a POSIX system; elsewhere use ProcessPoolExecutor(1)")
        if env is not None and start_method == "fork":
            raise ValueError("env needs a new interpreter, and start_method='fork' makes none: use 'spawn'")
        self._start_method = start_method or default_start_method()
        self._env = dict(env) if env is not None else None
        self._initializer = (initializer, initargs) if initializer is not None else None
        self._malloc = malloc
        self._threads = checked_threads(threads)
        self._creator = os.getpid()
        # Reentrant: a garbage collection may kill the worker of a forgotten loader at any allocation within the lock.
        self._lock = threading.RLock()
        self._state = ProcessState.NEW
        # Set by kill(), at any moment. A state could be overwritten by a method that kill() interrupts.
        self._killed = False
        self._why = _GONE  # no calls are taken
        self._pending: deque[Future[Any]] = deque()  # calls without an answer, in order
        self._unsent: deque[memoryview] = deque()
        self._socket: socket.socket | None = None
        self._process: WorkerProcess | None = None
        self._pid: int | None = None
        self._thread: threading.Thread | None = None
        program_end.kill_at_end(self)

    @property
    def pid(self) -> int | None:
        """The worker's process id; ``None`` before it is started."""
        return self._pid

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Send a call to the worker. The first call starts the process, in a thread.

        Raises:
            BrokenExecutor: the process is gone or can't be started, the executor was shut down, or it belongs to the
                parent of this process.
            SystemExit: a worker is importing the program's main module, which starts another worker.
        """
        if os.getpid() != self._creator:
            raise BrokenExecutor(
                "the executor belongs to the process that made it: make another one in a forked process"
            )
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        try:
            buffers = pack(Kind.CALL, pickle.dumps((fn, args, kwargs), 5))
        except Exception as error:
            future.set_exception(call_errors.as_data(error))
            return future
        with self._lock:
            if self._killed or program_end.has_come() or self._state not in _TAKES_CALLS:
                raise BrokenExecutor(self._why)
            if self._state is ProcessState.NEW:
                main_guard.check()
            self._pending.append(future)
            self._send(buffers)
            if self._state is ProcessState.NEW:
                self._step(ProcessEvent.SUBMIT)
                self._start_thread()
            elif self._state is ProcessState.GONE:
                # A kill came within this method, by a garbage collection or a signal handler. The call has no answer.
                self._pending.clear()
                self._unsent.clear()
                raise BrokenExecutor(self._why)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and let the worker end after those it has. With ``wait``, blocks until it is gone.

        Args:
            wait: whether to wait.
            cancel_futures: without effect, because a call is sent when it is submitted.
        """
        if os.getpid() != self._creator:
            return  # a copy in a forked process, which shares the socket: the worker would end
        with self._lock:
            never_started = self._state is ProcessState.NEW
            self._step(ProcessEvent.SHUT_DOWN)
            self._end_calls()
            thread = self._thread
        if never_started:
            self._finish(None)
        elif wait and thread is not None and thread is not threading.current_thread():
            thread.join()

    def kill(self) -> None:
        """End the worker at once (SIGKILL). From any thread. A worker that is being started is ended after its start."""
        if os.getpid() != self._creator:
            return  # a copy in a forked process, whose lock may be held forever
        self._killed = True
        with self._lock:
            process, never_started = self._process, self._state is ProcessState.NEW
            if never_started:
                self._step(ProcessEvent.END)
        if process is not None:
            process.kill()
        if never_started:
            self._finish(None)

    # ------------------------------------------------------------------------------------------ with the lock held

    def _step(self, event: ProcessEvent) -> None:
        self._state = advance(PROCESS, self._state, event)

    def _start_thread(self) -> None:
        try:
            limits.check_threads()
            thread = threading.Thread(target=self._run, name="asyncprefetch-worker-watch", daemon=True)
            thread.start()
        except Exception as error:  # no more threads or memory, or the interpreter ends
            self._step(ProcessEvent.END)
            self._why = str(call_errors.broken(error))
            self._pending.clear()
            self._unsent.clear()
            self._finish(None)
            raise BrokenExecutor(self._why) from None
        self._thread = thread

    def _send(self, buffers: list[bytes]) -> None:
        """Send as much as the socket takes. The worker asks for the rest, which wakes the thread: see ``frames``."""
        waiting = bool(self._unsent) or self._socket is None
        self._unsent.extend(map(memoryview, buffers))
        if not waiting:
            self._flush()

    def _flush(self) -> None:
        assert self._socket is not None
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent[0], NO_SIGNAL)
            except BlockingIOError:
                return
            except OSError:  # the worker has closed its end, which the thread sees; or the system has no memory for it
                self._unsent.clear()
                if self._process is not None:
                    self._process.kill()
                return
            rest = self._unsent[0][sent:]
            if rest:
                self._unsent[0] = rest
            else:
                self._unsent.popleft()
        self._end_calls()

    def _end_calls(self) -> None:
        """Let the worker see the end of its calls, if all were sent and no more are taken."""
        if self._state is ProcessState.CLOSING and self._socket is not None and not self._unsent:
            with contextlib.suppress(OSError):  # the worker has closed its end
                self._socket.shutdown(socket.SHUT_WR)

    # ------------------------------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        """The whole life of the process: start it, send and receive, wait for its end, reap it."""
        failure: Exception | None = None
        oom_kills = out_of_memory.kills()
        try:
            self._start()
            self._exchange()
        except Exception as error:
            failure = error
        process, self._process = self._process, None
        if process is not None and failure is not None:
            process.kill()
        self._refuse_calls(failure)
        exit_code = None
        if process is not None:
            worker_process.wait_for(process.sentinel)
            exit_code = process.reap()
        if oom_kills is not None:
            # It may not be readable now, or be that of another group that this process was moved to.
            self.oom_kills = max(0, (out_of_memory.kills() or 0) - oom_kills)
        # The exit code of a worker that was killed for our failure says nothing about it.
        self._finish(exit_code if failure is None else None)

    def _start(self) -> None:
        with worker_process.starting, contextlib.ExitStack() as stack:
            if self._killed:
                raise BrokenExecutor(_GONE)
            limits.check_descriptors()
            ours, theirs = socket.socketpair()
            stack.callback(theirs.close)
            on_error = stack.enter_context(contextlib.ExitStack())
            on_error.callback(ours.close)
            ours.setblocking(False)
            theirs.setblocking(True)  # a default timeout is not for it
            numbers = [end if isinstance(end, int) else end.fileno() for end in self._handed]
            socket.send_fds(ours, [b"m"], numbers)
            env = {**os.environ, **(self._env or {})}
            initializer = pickle.dumps(self._initializer, 5) if self._initializer is not None else None
            try:
                process, preparation = worker_process.start(
                    self._start_method, env if self._env is not None else None, theirs
                )
            except (ConnectionError, EOFError) as error:
                raise call_errors.died_at_start(error) from None
            self._process, self._pid = process, process.pid
            begin = Begin(
                env=env if preparation is None else None,
                log_level=logs.level(),
                malloc=self._malloc,
                threads=self._threads,
                preparation=preparation,
                initializer=initializer,
            )
            buffers = pack(Kind.BEGIN, pickle.dumps(begin, 5))
            with self._lock:
                on_error.pop_all()
                self._socket = ours
                self._unsent.extendleft(map(memoryview, reversed(buffers)))
                self._step(ProcessEvent.STARTED)
                self._flush()
        self._close_handed()
        if self._killed:
            process.kill()

    def _exchange(self) -> None:
        """Send and receive until the process ends."""
        process, sock, reader = self._process, self._socket, FrameReader()
        assert process is not None
        assert sock is not None
        poll = select.poll()
        poll.register(process.sentinel, select.POLLIN)
        number = sock.fileno()
        poll.register(number, select.POLLIN)
        watched = True
        while True:
            if watched:
                poll.modify(number, select.POLLIN | (select.POLLOUT if self._unsent else 0))
            ready = dict(poll.poll())
            if process.sentinel in ready:
                break
            if ready[number] & select.POLLOUT:
                with self._lock:
                    self._flush()
            if ready[number] & ~select.POLLOUT and not self._receive(sock, reader):
                # The worker has closed its end: it is ending, or can't answer any more.
                watched = False
                poll.unregister(number)
                process.kill()
        # All that it sent before counts. A child of the worker may hold the socket open.
        while watched and self._receive(sock, reader):
            pass

    def _receive(self, sock: socket.socket, reader: FrameReader) -> bool:
        """Receive once. Gives whether there may be more."""
        try:
            frames = reader.receive(sock)
        except OSError as error:
            if error.errno == errno.EAGAIN or isinstance(error, ConnectionError):
                return False
            raise
        if frames is None:
            return False
        for frame in frames:
            if frame.kind == Kind.UNUSABLE:
                raise call_errors.unusable(pickle.loads(frame.body))
            if frame.kind != Kind.MORE:
                self._answered(frame)
        return True

    def _answered(self, frame: Frame) -> None:
        future = self._pending.popleft()
        try:
            value = pickle.loads(frame.body)
        except MemoryError:
            self._pending.appendleft(future)
            raise
        except BaseException as error:  # the user's class may raise anything while it is unpickled
            future.set_exception(call_errors.as_data(error))
            return
        if frame.kind == Kind.RESULT:
            future.set_result(value)
        else:
            future.set_exception(call_errors.original(value))

    def _refuse_calls(self, failure: Exception | None) -> None:
        """Take no more calls, and fail those without an answer."""
        broken = call_errors.broken(failure or BrokenExecutor("the worker process ended"))
        # In one step: a call that comes now is failed here, or is refused with the reason.
        with self._lock:
            self._step(ProcessEvent.END)
            if failure is not None:
                self._why = str(broken)
            pending = list(self._pending)
            self._pending.clear()
            self._unsent.clear()
            sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()
        for future in pending:
            # One for each call: a traceback holds the frames of the code that waited for it.
            own = copy.copy(broken)
            own.__cause__ = broken.__cause__
            future.set_exception(own)

    def _finish(self, exit_code: int | None) -> None:
        self._close_handed()
        with contextlib.suppress(InvalidStateError):  # it is known already
            self.exited.set_result(exit_code)

    def _close_handed(self) -> None:
        while self._handed:
            with contextlib.suppress(IndexError):  # another thread closes them too
                end = self._handed.popleft()
                if isinstance(end, int):
                    os.close(end)
                else:
                    end.close()


_TAKES_CALLS = {ProcessState.NEW, ProcessState.STARTING, ProcessState.RUNNING}
