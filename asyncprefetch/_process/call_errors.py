"""The exceptions of a process executor's calls, as the caller gets them."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor, CancelledError

from asyncprefetch._process import limits
from asyncprefetch._process.limits import advice, memory_advice
from asyncprefetch._wire import remote_errors


def broken(error: BaseException) -> BaseException:
    """The error of all calls of a worker that is gone, for this reason."""
    # Without its frames: they would keep sockets and buffers alive as long as the error.
    error = error.with_traceback(None)
    if isinstance(error, BrokenExecutor):
        return error
    broken = BrokenExecutor(f"the worker process can't take calls: {type(error).__name__}: {error}{advice(error)}")
    broken.__cause__ = error
    return broken


def died_at_start(error: BaseException) -> BrokenExecutor:
    """The error of a start that broke off with the fork server's connection."""
    return BrokenExecutor(
        f"the fork server ended while it started the worker ({type(error).__name__}). {limits.NO_HELLO}"
    )


def unusable(error: remote_errors.RemoteError) -> BrokenExecutor:
    """The error of a worker whose set-up raised: its initializer, or the import of the main module."""
    out_of_memory = "MemoryError" in error.bases
    text = f"{error.phase} raised {error.type_name}: {error.text}"
    broken = BrokenExecutor(text + memory_advice() if out_of_memory else text)
    broken.add_note(f"In the worker:\n{error.traceback}")
    # A MemoryError as the cause would mean that the memory of this process ran out.
    original = None if out_of_memory else remote_errors.original_of(error)
    broken.__cause__ = as_data(original) if original is not None else None
    return broken


def original(error: remote_errors.RemoteError) -> BaseException:
    """The exception of a call: the original, if it can be made here and may be raised here."""
    original = remote_errors.original_of(error)
    if original is None:
        original = RuntimeError(f"{error.type_name}: {error.text}")
    original = as_data(original)
    original.add_note(f"In the worker:\n{error.traceback}")
    return original


def as_data(error: BaseException) -> BaseException:
    """``error``, or a ``RuntimeError`` where it would steer this process if it were raised."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration | CancelledError):
        return error
    steering = RuntimeError(f"{type(error).__name__}: {remote_errors.text_of(error)}")
    steering.__cause__ = error
    return steering
