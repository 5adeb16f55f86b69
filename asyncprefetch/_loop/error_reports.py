"""The exceptions that the user gets for a remote error, a death or a silence, and their texts."""

from __future__ import annotations

import signal

from asyncprefetch._process.limits import NO_HELLO, advice, memory_advice
from asyncprefetch._wire.messages import Death, Failed
from asyncprefetch._wire.remote_errors import RemoteError, class_name, original_of, text_of
from asyncprefetch.errors import ProducerError, ProducerStalledError, WorkerDiedError

Drawing = tuple[int, int] | None
"""Shard and position of the item that a worker was making."""


def shard_error(failed: Failed, retries: int) -> ProducerError:
    """The error for an item that could not be made, after so many retries."""
    where = f"shard {failed.shard}, position {failed.position}"
    if retries:
        where += f", after {retries} retries"
    return _producer_error(failed.error, failed.shard, failed.position, where)


def initializer_error(error: RemoteError, worker: int) -> ProducerError:
    """The error for a worker whose initializer raised."""
    return _producer_error(error, None, None, f"worker {worker}, which calls it with its number")


def _producer_error(error: RemoteError, shard: int | None, position: int | None, where: str) -> ProducerError:
    original = original_of(error)
    failure = ProducerError(
        f"{where} ({error.phase}): {error.type_name}: {error.text}"
        + (memory_advice() if "MemoryError" in error.bases else ""),
        shard=shard,
        position=position,
        phase=error.phase,
        type_name=error.type_name,
        text=error.text,
        remote_traceback=error.traceback,
        original=original,
    )
    failure.add_note(f"In the worker:\n{error.traceback}")
    failure.__cause__ = original
    return failure


def unreadable_error(error: BaseException, shard: int, position: int) -> ProducerError:
    """The error for an item that arrived but can't be unpickled here."""
    name, text = class_name(type(error)), text_of(error)
    failure = ProducerError(
        f"shard {shard}, position {position} (unpickle): {name}: {text}{advice(error)}",
        shard=shard,
        position=position,
        phase="unpickle",
        type_name=name,
        text=text,
        original=BaseException.with_traceback(error, None),
    )
    failure.__cause__ = failure.original
    return failure


def death_text(worker: int, death: Death, drawing: Drawing) -> str:
    """Which worker died, why, and which item it was making."""
    text = f"worker {worker}"
    if death.breaks_contract:
        return f"{text} can't be used: {death.reason}"
    if death.pid is not None:
        text += f" (pid {death.pid})"
    text += f" died: {_exit_text(death.exit_code) or death.reason}"
    if death.oom_kills and death.exit_code == -signal.SIGKILL:
        text += f" (out of memory: the oom_kill count of its cgroup rose by {death.oom_kills})"
    if death.protected and death.exit_code == -signal.SIGSEGV:
        text += (
            " (protect=True: perhaps it used an array after its yield. The worker has written the line to its standard "
            "error)"
        )
    return text + _drawing_text(drawing)


def death_error(worker: int, death: Death, drawing: Drawing, *, was_up: bool, restarts: int) -> WorkerDiedError:
    """The error for a worker that is not launched again.

    Args:
        worker: its number.
        death: what is known of its end.
        drawing: the item that it was making.
        was_up: whether it ever said hello.
        restarts: how often it was launched again without progress.
    """
    text = death_text(worker, death, drawing)
    if not was_up and death.exit_code is not None:
        text += f". {NO_HELLO}"
    elif restarts and not death.breaks_contract:
        text += f". It was started again {restarts} times without progress (max_restarts)"
    shard, position = drawing if drawing is not None else (None, None)
    code = death.exit_code
    return WorkerDiedError(
        text,
        worker=worker,
        pid=death.pid,
        exit_code=code,
        signal=_signal_name(-code) if code is not None and code < 0 else None,
        shard=shard,
        position=position,
    )


def stalled_error(worker: int, seconds: float, text: str, drawing: Drawing) -> ProducerStalledError:
    """The error for a worker that was silent for ``seconds``."""
    shard, position = drawing if drawing is not None else (None, None)
    return ProducerStalledError(
        f"worker {worker} {text}{_drawing_text(drawing)}",
        worker=worker,
        seconds=seconds,
        shard=shard,
        position=position,
    )


def _drawing_text(drawing: Drawing) -> str:
    return f", while it made item {drawing[1]} of shard {drawing[0]}" if drawing is not None else ""


def _exit_text(code: int | None) -> str | None:
    if code is None:
        return None
    return f"killed by {_signal_name(-code)}" if code < 0 else f"exited with code {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
