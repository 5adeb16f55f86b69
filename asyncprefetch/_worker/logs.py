"""Log records of a worker process. The worker collects them and sends them with its messages; the loader logs them."""

from __future__ import annotations

import copy
import logging
import pickle
import traceback
from collections import deque

_LOGGER = logging.getLogger("asyncprefetch.worker")

# Bounded: a worker may log without pause while it sends no message, and must not fill the memory.
collected: deque[bytes] = deque(maxlen=10_000)
"""Pickled records since the last drain."""

# The parent's handlers are kept, because a handler that is garbage-collected may close its file.
_inherited: list[logging.Handler] = []


class _Collector(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        sendable = copy.copy(record)
        try:
            sendable.msg, sendable.args = record.getMessage(), None
            if record.exc_info:
                sendable.exc_text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
                sendable.exc_info = None
            collected.append(_dump(sendable.__dict__))
        except Exception:  # logging must not raise in the caller
            self.handleError(record)


def _dump(attributes: dict[str, object]) -> bytes:
    try:
        return pickle.dumps(attributes)
    except Exception:
        plain = {k: v for k, v in attributes.items() if v is None or isinstance(v, bool | int | float | str)}
        return pickle.dumps(plain)


def level() -> int:
    """The level from which on this process wants the records of its workers."""
    return _LOGGER.getEffectiveLevel()


def collect(level: int) -> None:
    """Collect the records of this process at ``level`` or above. No other handler gets them.

    A forked process has the parent's loggers and their handlers. They are removed, and every logger propagates its records.
    """
    root = logging.getLogger()
    for logger in [root, *root.manager.loggerDict.values()]:
        if isinstance(logger, logging.Logger):  # and not a placeholder
            _inherited.extend(logger.handlers)
            logger.handlers.clear()
            logger.propagate = True
    root.addHandler(_Collector(level))
    root.setLevel(level)


def pending() -> bool:
    """Whether a record was collected since the last drain."""
    return bool(collected)


def drain() -> list[bytes]:
    """The records since the last drain."""
    records = []
    while collected:
        records.append(collected.popleft())
    return records
