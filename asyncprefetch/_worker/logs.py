"""Log records of a worker process: collected there, sent with its messages, handled by the parent's logging."""

from __future__ import annotations

import copy
import logging
import pickle
import traceback
from collections import deque

_LOGGER = logging.getLogger("asyncprefetch.worker")

# Bounded: a worker that logs without pause while no message of its own leaves must not fill the memory.
_collected: deque[bytes] = deque(maxlen=10_000)

# The parent's handlers: kept, because one that is collected may close its file, and some files are ended by that.
_inherited: list[logging.Handler] = []


class _Collector(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        sendable = copy.copy(record)
        try:
            sendable.msg, sendable.args = record.getMessage(), None
            if record.exc_info:
                sendable.exc_text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
                sendable.exc_info = None
            _collected.append(_dump(sendable.__dict__))
        except Exception:  # logging's contract: a record that can't be handled must not break the caller
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
    """Send what this process logs at ``level`` or above to the parent, and nowhere else.

    A forked process has the parent's loggers, and all their handlers. Each record goes to the parent instead, also that of a
    logger that keeps its records to itself there.
    """
    root = logging.getLogger()
    for logger in [root, *root.manager.loggerDict.values()]:
        if isinstance(logger, logging.Logger):  # and no place holder for one
            _inherited.extend(logger.handlers)
            logger.handlers.clear()
            logger.propagate = True
    root.addHandler(_Collector(level))
    root.setLevel(level)


def pending() -> bool:
    """Whether a record was collected since the last drain."""
    return bool(_collected)


def drain() -> list[bytes]:
    """The records collected since the last call."""
    records = []
    while _collected:
        records.append(_collected.popleft())
    return records
