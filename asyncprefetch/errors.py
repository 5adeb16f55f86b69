"""The errors of the library, grouped by who caused them.

- your iterator: :class:`ProducerError`, :class:`ProducerStalledError`
- the outside broke it: :class:`WorkerDiedError`
- a checkpoint that can't be written or read: :class:`CheckpointError`
- the caller: :class:`PrefetcherClosedError` (you closed it), :class:`PrefetcherBusyError` (two tasks or two loops use it),
  :class:`EventLoopError` (no event loop of asyncio runs)

Each constructor takes a message first and details by keyword, so that every error can be pickled and copied.
"""

from __future__ import annotations


class AsyncPrefetchError(Exception):
    """Base class of every error that this library raises on its own account."""


class ProducerError(AsyncPrefetchError):
    """The user's iterator raised inside a worker.

    Where the original exception could be brought over it is ``original`` and also ``__cause__``.

    Attributes:
        shard: global number of the shard whose iterator raised; ``None`` if it happened before any shard was begun.
        position: number of the item within its shard that was being made, counted from 0 over the shard's whole life.
        phase: what the worker was doing: ``"build"``, ``"create_iter"``, ``"next"``, ``"get_state"``, ``"pickle"``,
            ``"replay"`` or ``"initializer"``; or ``"unpickle"``, in the parent.
        type_name: qualified name of the original exception's class.
        text: ``str()`` of the original exception.
        remote_traceback: the traceback inside the worker, formatted.
        original: the original exception, or ``None`` if it can't be pickled.
    """

    def __init__(
        self,
        message: str,
        *,
        shard: int | None = None,
        position: int | None = None,
        phase: str = "",
        type_name: str = "",
        text: str = "",
        remote_traceback: str = "",
        original: BaseException | None = None,
    ) -> None:
        super().__init__(message)
        self.shard = shard
        self.position = position
        self.phase = phase
        self.type_name = type_name
        self.text = text
        self.remote_traceback = remote_traceback
        self.original = original


class WorkerDiedError(AsyncPrefetchError):
    """A worker is gone: killed, crashed, or ended by an exit of any code. Or its executor is not one that a loader can use.

    A loader needs an executor with one worker, which makes each call once and in the order of submission. The message names
    an executor that does something else.

    Attributes:
        worker: the worker's number, from 0.
        pid: its process id; ``None`` for an executor that has none, or if it died before that was known.
        exit_code: the exit code; negative is the number of the signal; ``None`` if unknown.
        signal: the signal's name (``"SIGKILL"``), or ``None``.
        shard: global number of the shard that was being drawn from, or ``None``.
        position: number of the item within that shard that was being made, or ``None``.
    """

    def __init__(
        self,
        message: str,
        *,
        worker: int = -1,
        pid: int | None = None,
        exit_code: int | None = None,
        signal: str | None = None,
        shard: int | None = None,
        position: int | None = None,
    ) -> None:
        super().__init__(message)
        self.worker = worker
        self.pid = pid
        self.exit_code = exit_code
        self.signal = signal
        self.shard = shard
        self.position = position


class ProducerStalledError(AsyncPrefetchError):
    """A worker sent nothing for ``stall_timeout`` seconds while a batch or a stop was asked of it, or did not start.

    Attributes:
        worker: the worker's number, from 0.
        seconds: how long it was silent, in seconds.
        shard: global number of the shard that was being drawn from, or ``None``.
        position: number of the item within that shard that was being made, or ``None``.
    """

    def __init__(
        self,
        message: str,
        *,
        worker: int = -1,
        seconds: float = 0.0,
        shard: int | None = None,
        position: int | None = None,
    ) -> None:
        super().__init__(message)
        self.worker = worker
        self.seconds = seconds
        self.shard = shard
        self.position = position


class CheckpointError(AsyncPrefetchError):
    """A checkpoint can't be written or read; the message gives the reason. Nothing was changed."""


class PrefetcherClosedError(AsyncPrefetchError):
    """The loader was used after ``aclose()``, or closed while a call was waiting."""


class PrefetcherBusyError(AsyncPrefetchError):
    """Two tasks asked for the next batch at once, or the loader was used from a second event loop."""


class EventLoopError(AsyncPrefetchError, RuntimeError):
    """The loader was used where no event loop of asyncio runs: under trio, or outside of any event loop."""


class CheckpointWarning(UserWarning):
    """An item of the stream crosses to the loop but can't be held by a checkpoint."""
