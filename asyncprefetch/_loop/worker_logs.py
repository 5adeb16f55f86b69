"""Log records of workers, handled by the loader's logging."""

from __future__ import annotations

import logging
import pickle
import traceback

_LOGGER = logging.getLogger("asyncprefetch.worker")


def handle(worker: int, record: bytes) -> None:
    """Pass a worker's record to the logger ``asyncprefetch.worker``.

    The message begins with the worker's number and the name of the logger it came from; both are also attributes of
    the record: ``worker`` and ``origin``.
    """
    try:
        received = logging.makeLogRecord(pickle.loads(record))
    except Exception:
        _LOGGER.warning("[worker %d] a log record that can't be read here", worker, exc_info=True)
        return
    origin = received.name
    received.__dict__.update(worker=worker, origin=origin)
    received.name = _LOGGER.name
    received.msg = f"[worker {worker}, {origin}] {received.msg}"
    if _LOGGER.isEnabledFor(received.levelno):
        try:
            _LOGGER.handle(received)
        except Exception:  # a filter of the user's raised: an error in logging must not end a training
            traceback.print_exc()
