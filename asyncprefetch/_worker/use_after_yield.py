"""Detects the use of arrays after their yield, by a pass in a forked process that protects the memory of yielded arrays.

A late access to an array of ``asyncprefetch.empty``, ``full`` or ``zeros`` can't be detected by Python code, but a protected
page ends the process. The forked process reports the line that it was at.
"""

from __future__ import annotations

import faulthandler
import itertools
import mmap
import os
import re
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

import numpy as np

from asyncprefetch import arrays
from asyncprefetch._wire import item_layout, item_pickler
from asyncprefetch._wire.shared_memory import Segment
from asyncprefetch._worker import slot_allocator

if sys.platform != "win32":
    import resource

# Seconds. A forked process lacks its parent's threads. If one of them held a lock, the process may wait for it forever.
_MIN_SECONDS = 60.0

_FRAME = re.compile(
    r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE
)  # as faulthandler writes it, the last call first

# Tracebacks are cut at the first frame in one of these files.
_OURS = frozenset(
    {
        __file__,
        str(Path(__file__).parents[1] / "testing.py"),
        item_layout.__file__,
        item_pickler.__file__,
        slot_allocator.__file__,
    }
)

_GIVEN_AWAY = "an array made by asyncprefetch.empty, full or zeros belongs to the consumer after its yield"

Handover = Callable[[Any], AbstractContextManager[None]]
"""A context for the checks of an item. The item is handed over to the consumer when it ends."""


class Notice:
    """An allocator that records whether an array was asked for, and lets numpy make it."""

    def __init__(self) -> None:
        self.asked = False

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any], order: Literal["C", "F"]) -> None:
        """See :class:`arrays.Allocator`."""
        self.asked = True

    @contextmanager
    def on(self) -> Iterator[None]:
        """Use this allocator within the context."""
        before = arrays.use(self)
        try:
            yield
        finally:
            arrays.use(before)


def check(walk: Callable[[Handover], None], n_items: int, seconds: float) -> None:
    """Call ``walk`` in a forked process that ends at the first use of an array after its handover.

    Without shared memory nothing is checked.

    Args:
        walk: draws the items and hands each of them over.
        n_items: how many it hands over at most.
        seconds: how long it is expected to take. The limit is one minute plus ten times this.

    Raises:
        AssertionError: an array was used after its handover, ``walk`` raised, or it did not end in time.
    """
    if sys.platform != "linux":
        return
    allowed = _MIN_SECONDS + 10 * seconds
    given = memoryview(mmap.mmap(-1, 8)).cast("Q")  # shared with the child: the number of items handed over
    with tempfile.TemporaryFile() as report:
        # Both processes would write buffered text.
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks beside threads
            pid = os.fork()
        if pid == 0:
            _run(walk, n_items, allowed, given, report)
        try:
            _, status = os.waitpid(pid, 0)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        report.seek(0)
        text = report.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        where = f"after item {given[0] - 1} was yielded" if given[0] else "before the first item was yielded"
        raise AssertionError(f"with its arrays in shared memory, {where}: {_explain(code, text, allowed)}")


def _run(
    walk: Callable[[Handover], None], n_items: int, seconds: float, given: memoryview, report: IO[bytes]
) -> NoReturn:
    """The child's life. It ends without its parent's exit handlers."""
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.enable(report, all_threads=False)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        faulthandler.register(signal.SIGALRM, report, all_threads=False, chain=True)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        segment = Segment.create(n_items + 1)
        if segment is not None:
            slots = slot_allocator.SlotAllocator(segment, lambda: None, protect=True)
            arrays.use(slots)
            walk(_handover(slots, given))
        code = 0
    except BaseException as error:
        report.write(_describe(error).encode(errors="replace"))
        report.flush()
    finally:
        os._exit(code)


def _handover(slots: slot_allocator.SlotAllocator, given: memoryview) -> Handover:
    pickler = item_pickler.ItemPickler(slots)

    @contextmanager
    def handover(item: Any) -> Iterator[None]:
        try:
            pickler.dumps(item)
        except Exception as error:
            raise AssertionError(f"item {given[0]}: {type(error).__name__}: {error}") from error
        yield
        slots.seal()
        given[0] += 1

    return handover


def _describe(error: BaseException) -> str:
    text = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
    if isinstance(error, ValueError) and "read-only" in text:
        text += f"; {_GIVEN_AWAY}, and is read-only"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [i for i, frame in enumerate(frames) if frame.filename in _OURS]
    return "".join([text, "\n", *traceback.format_list(frames[theirs[-1] + 1 :])]).rstrip()


def _explain(code: int, text: str, seconds: float) -> str:
    """What the child's end means, with the lines at which it ended."""
    if code > 0:
        return text or f"its process ended with exit code {code}"
    frames = (traceback.FrameSummary(file, int(line), name) for file, line, name in _FRAME.findall(text))
    theirs = list(itertools.takewhile(lambda frame: frame.filename not in _OURS, frames))
    trace = "".join(traceback.format_list(theirs[::-1])) or "  the item itself"
    match -code:
        case signal.SIGSEGV:
            return f"{_GIVEN_AWAY}, but it was read or written (SIGSEGV) by\n{trace}"
        case signal.SIGALRM:
            limit = f"{seconds:g} s (in a forked process, without the threads of this one)"
            return f"the pass did not end within {limit}; it was at\n{trace}"
        case number:
            return f"its process ended by {signal.Signals(number).name} at\n{trace}"
