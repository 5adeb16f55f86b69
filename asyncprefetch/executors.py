"""Executors of one worker: a process, and the calling thread itself.

The loader takes any ``concurrent.futures.Executor`` that has one worker and keeps to the order of the calls. These two
are what it uses on its own and what its tests use.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future, InvalidStateError, ProcessPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from asyncprefetch._loop import worker_logs
from asyncprefetch._process import limits, out_of_memory
from asyncprefetch._process.context import WorkerContext
from asyncprefetch._process.limits import advice
from asyncprefetch._worker import logs, malloc

if sys.platform != "win32":
    import fcntl

P = ParamSpec("P")
T = TypeVar("T")

# Its manager's, and that which writes calls.
_POOL_THREADS = 2


def default_start_method() -> str:
    """``"forkserver"`` where there is one, else ``"spawn"``: neither copies the state of a process with threads."""
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


class InlineExecutor(Executor):
    """Runs each call at once, in the thread that submits it.

    For tests: a whole loader runs in one process, in one deterministic order. A training loop gains nothing from it.
    """

    starts_without_blocking = True

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call ``fn`` now; the future is done when this returns."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class ProcessExecutor(Executor):
    """One worker process behind the interface of ``concurrent.futures``; no call of it blocks.

    It is a ``ProcessPoolExecutor`` of one worker whose start, whose death and whose end are waited for in a thread of its
    own. The worker ignores SIGINT (whoever owns the loader ends it), has none of the parent's handlers of signals, ends
    itself when the parent dies, and sends its log records to the parent.

    Args:
        start_method: by default see :func:`default_start_method`.
        env: environment variables, beside the present ones.
        initializer: called in the process before anything else, with ``initargs``: both must be such that
            multiprocessing can send them, sockets included.
        initargs: its arguments.

    Attributes:
        exited: resolves when the process is gone and reaped, to its exit code (negative: the number of a signal), or to
            ``None`` if there never was a process.
        oom_kills: how often the kernel ended a process for want of memory while this one lived, in its control group;
            known when ``exited`` is.
    """

    starts_without_blocking = True

    def __init__(
        self,
        *,
        start_method: str | None = None,
        env: Mapping[str, str] | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        self.exited: Future[int | None] = Future()
        self.oom_kills = 0
        self._context = WorkerContext(start_method or default_start_method())
        self._env = {**os.environ, **(env or {})}
        self._initializer, self._initargs = initializer, initargs
        self._owner = os.getpid()
        # Reentrant: a forgotten loader may be collected, and its worker killed, at any allocation within a lock.
        self._lock = threading.RLock()
        self._waiting: deque[tuple[Future[Any], Callable[..., Any], Any, Any]] | None = deque()  # until the pool is up
        self._pool: ProcessPoolExecutor | None = None
        self._thread: threading.Thread | None = None
        self._ending: threading.Thread | None = None
        self._closed = self._killed = False
        self._why = "the worker process is gone, or the executor was shut down"  # it takes no calls
        self._pid: int | None = None
        _live.add(self)

    @property
    def pid(self) -> int | None:
        """The worker's process id, once it was started."""
        return self._pid

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call. The process is started by the first one, in a thread.

        Raises:
            BrokenExecutor: the process is gone or can't be started, or the executor was shut down.
        """
        with self._lock:
            if self._closed or _exiting:
                raise BrokenExecutor(self._why)
            if self._pool is not None and self._waiting is None:
                try:
                    return self._pool.submit(fn, *args, **kwargs)
                except BrokenExecutor:
                    raise
                except RuntimeError as error:  # the pool was shut down because it is broken
                    raise _broken(error) from None
            assert self._waiting is not None
            future: Future[T] = Future()
            self._waiting.append((future, fn, args, kwargs))
            if self._thread is None:
                try:
                    limits.check_threads(1 + _POOL_THREADS)
                    self._thread = threading.Thread(target=self._run, name="asyncprefetch-worker-watch", daemon=True)
                    self._thread.start()
                except Exception as error:  # no more threads or memory, or the interpreter ends
                    self._closed, self._thread = True, None
                    self._why = str(_broken(error))
                    self._finish(None)
                    raise BrokenExecutor(self._why) from None
            return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls and let the worker end when it is idle. With ``wait``, blocks until it is gone."""
        with self._lock:
            self._closed = True
            thread = self._thread
            self._end_pool(cancel_futures)
        if thread is None:
            self._finish(None)
        elif wait:
            thread.join()

    def _end_pool(self, cancel_futures: bool) -> None:
        if self._pool is not None and self._waiting is None and self._ending is None:
            # The pool can be waited for once only, and only by its own shutdown(): so that waits, in a thread.
            ending = threading.Thread(
                target=self._shut_down,
                args=(self._pool, cancel_futures),
                name="asyncprefetch-worker-end",
                daemon=True,
            )
            try:
                limits.check_threads()
                ending.start()
            except Exception:  # no more threads or memory, or the interpreter ends: then not in order, but at once
                self.kill()
            else:
                self._ending = ending

    def kill(self) -> None:
        """End the worker at once (SIGKILL); one that is still being started is ended when it is up. From any thread."""
        self._closed = self._killed = True
        process = self._context.process
        if process is not None and os.getpid() == self._owner:
            # ValueError: it was reaped and closed; AttributeError: it is being started, and _run sees to it.
            with contextlib.suppress(ValueError, AttributeError, OSError):
                process.kill()
        elif self._thread is None:
            self._finish(None)

    def _forward(self, future: Future[T], fn: Callable[..., T], args: Any, kwargs: Any) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            inner = self._submit(fn, *args, **kwargs)
        except BaseException as error:
            future.set_exception(_broken(error))
        else:
            inner.add_done_callback(lambda done: _copy(done, future))

    def _submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        assert self._pool is not None
        # A process that is forked while another is inherits the pipe that tells of the other's end, and keeps it open.
        with _starting if self._context.start_method == "fork" else contextlib.nullcontext():
            return self._pool.submit(fn, *args, **kwargs)

    def _run(self) -> None:
        # The whole life of the process, in one thread: start, wait for its end, reap.
        failure: BaseException | None = None
        oom_kills = out_of_memory.kills()
        try:
            with _starting:
                limits.check_descriptors()
                limits.check_threads(_POOL_THREADS)
                self._pool = ProcessPoolExecutor(  # type: ignore[call-overload]  # the context is one by what it does
                    1,
                    mp_context=self._context,
                    initializer=_bootstrap,
                    initargs=(self._env, worker_logs.level(), self._initializer, self._initargs),
                )
                self._submit(os.getpid).add_done_callback(lambda _: self._context.unlink_names())
            while True:
                with self._lock:
                    assert self._waiting is not None
                    if not self._waiting:
                        self._waiting = None
                        if self._closed:
                            self._end_pool(cancel_futures=False)
                        break
                    call = self._waiting.popleft()
                self._forward(*call)
            process = self._context.process
            if process is not None and process.pid is not None:
                self._pid = process.pid
                if self._killed:
                    process.kill()
                multiprocessing.connection.wait([process.sentinel])
        except Exception as error:
            failure = error
        finally:
            pool = self._refuse_calls(failure)
            if failure is not None:
                self.kill()  # before its pipes are taken from it
            self._context.hang_up()
            if self._ending is not None:
                self._ending.join()
                self._ending = None
            elif pool is not None:
                self._shut_down(pool, False)
            # Semaphores, pipes and the process's descriptors go when these are collected: do not leave that to chance.
            del pool
            self._context.unlink_names()
            process, self._context.process = self._context.process, None
            exit_code = None
            if process is not None and process.pid is not None:
                # Of one that was ended because it was of no use, the exit code tells nothing.
                exit_code = process.exitcode if failure is None else None
                process.close()
            if oom_kills is not None:
                # It may not be readable now, or be that of another group that this process was moved to.
                self.oom_kills = max(0, (out_of_memory.kills() or 0) - oom_kills)
            self._finish(exit_code)

    def _refuse_calls(self, failure: BaseException | None) -> ProcessPoolExecutor | None:
        """No call is taken any more, those that wait are answered by what went wrong, and the pool is only the caller's."""
        broken = _broken(failure or BrokenExecutor("the worker process could not be started"))
        # All at once: a call that comes now waits and is answered, or is refused and told why.
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
            waiting, self._waiting = self._waiting, None
            if failure is not None:
                self._why = str(broken)
        for future, *_ in waiting or ():
            if future.set_running_or_notify_cancel():
                future.set_exception(broken)
        return pool

    def _shut_down(self, pool: ProcessPoolExecutor, cancel_futures: bool) -> None:
        """Wait for the end of the pool and of its process."""
        with contextlib.suppress(RuntimeError):  # the pool's thread could not be started, so it can't be joined
            pool.shutdown(wait=True, cancel_futures=cancel_futures)
        process = self._context.process
        if process is not None and process.pid is not None and process.is_alive():
            # A pool without its thread ends nothing and reaps nobody.
            process.kill()
            process.join()
        self._context.end_writing()

    def _finish(self, exit_code: int | None) -> None:
        with contextlib.suppress(InvalidStateError):  # told already
            self.exited.set_result(exit_code)


def _broken(error: BaseException) -> BaseException:
    if isinstance(error, BrokenExecutor):
        return error
    broken = BrokenExecutor(f"the worker process can't take calls: {type(error).__name__}: {error}{advice(error)}")
    # Without its frames: they would keep the pool alive, with all its descriptors, for as long as the error.
    broken.__cause__ = error.with_traceback(None)
    return broken


def _copy(done: Future[T], future: Future[T]) -> None:
    if done.cancelled():
        future.set_exception(BrokenExecutor("the executor was shut down"))
    elif (error := done.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(done.result())


# Reentrant, so that the forked process, whose only thread holds it, can take it.
_starting = threading.RLock()

_live: weakref.WeakSet[ProcessExecutor] = weakref.WeakSet()


_exiting = False


def _kill_live() -> None:
    global _exiting  # noqa: PLW0603 - the interpreter exits once
    _exiting = True
    for executor in list(_live):
        executor.kill()


# At exit concurrent.futures joins its pools, and a busy worker holds the interpreter for as long as it likes. atexit
# comes too late for that; this hook runs before, because it was registered after the import of the pools' module.
threading._register_atexit(_kill_live)  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------- inside the worker process


def _bootstrap(
    env: Mapping[str, str], log_level: int, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _drop_handlers()
    _die_with_parent()
    _be_killed_first()
    # Under forkserver the environment is the server's, frozen when it started.
    os.environ.clear()
    os.environ.update(env)
    logs.collect(log_level)
    malloc.raise_thresholds()
    if initializer is not None:
        initializer(*initargs)


def _drop_handlers() -> None:
    """Let signals do here what they do by default: a forked process has the parent's handlers."""
    # The parent's loop reads this one, and would take a signal to this process for one to its own.
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return
    watched: list[Any] = [parent.sentinel]
    # The pipe behind the sentinel stays open while any child that the parent forked lives; the pid does not.
    if hasattr(os, "pidfd_open"):
        try:
            watched.append(os.pidfd_open(parent.pid))
        except ProcessLookupError:
            os._exit(1)  # it is gone already
        except OSError:
            pass  # no more descriptors, or an old kernel
    threading.Thread(target=_exit_after, args=(watched,), name="asyncprefetch-parent-watch", daemon=True).start()
    if sys.platform == "linux":
        # The kernel ends even a worker whose C code holds the interpreter lock: no thread of ours would run then.
        with contextlib.suppress(OSError):
            fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(parent.sentinel, fcntl.F_SETSIG, signal.SIGKILL)
            flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
            fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)


def _exit_after(watched: list[Any]) -> None:
    multiprocessing.connection.wait(watched)
    os._exit(1)


def _be_killed_first() -> None:
    """Let the kernel take this process before the trainer when memory runs out: it can be started again."""
    # Where there is no such file, or it can't be written, the kernel chooses as ever. 1000 is the most there is.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
