"""What is wrong with an executor: from the outcomes of its calls to one fault, in words for the user.

There are two kinds. A worker that is gone (killed, replaced by its engine) can be started again. An executor that breaks
the contract (more than one worker, calls out of order, calls made twice) would break it again, so the error is final and
names the executor.
"""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Executor
from typing import Any, NamedTuple

from asyncprefetch._process.limits import memory_advice
from asyncprefetch._wire.calls import Answer, Refusal
from asyncprefetch._wire.remote_errors import class_name

_LOG = logging.getLogger("asyncprefetch")

_CONTRACT = (
    "A loader needs an executor with one worker that makes each call once, in the order of submission: use one thread, "
    "process or actor, switch the retries of its engine off, and let the engine reorder nothing (Dask does, with pure=False)"
)


class Fault(NamedTuple):
    """Why an executor is of no more use.

    Attributes:
        reason: in words.
        error: what the executor raised, if that is the fault.
        breaks_contract: whether another start would end in the same way.
        exit_code_counts: whether the exit code of its process, if there is one, says more than the reason.
    """

    reason: str
    error: BaseException | None = None
    breaks_contract: bool = False
    exit_code_counts: bool = True


Outcome = Answer | Refusal | Fault
"""What became of a call."""


def outcome_of(call: asyncio.Future[Any], number: int) -> Outcome:
    """What became of the call of this number, which is done."""
    if call.cancelled():
        return Fault("BrokenExecutor: its executor was shut down")
    if (error := call.exception()) is not None:
        return fault_of(error)
    result = call.result()
    if not isinstance(result, Answer | Refusal):
        return Fault(f"returned {result!r:.80} for call {number}, which its worker did not", breaks_contract=True)
    if result.number != number:
        return Fault(f"returned the result of call {result.number} for call {number}", breaks_contract=True)
    return result


def fault_of(error: BaseException) -> Fault:
    """The fault of an executor that raised ``error``."""
    if isinstance(error.__cause__, MemoryError) or "MemoryError" in str(
        error.__cause__
    ):  # as a process pool reports a result for which there is no memory here
        return Fault(f"no memory here for what it sent{memory_advice()}", error, exit_code_counts=False)
    # Another error leaves the process alive. It is killed then, and its exit code says nothing.
    return Fault(f"{type(error).__name__}: {error}", error, exit_code_counts=isinstance(error, BrokenExecutor))


def verdict(executor: Executor, outcomes: Sequence[Outcome]) -> Fault:
    """The fault that explains these outcomes, in the order of submission. Not all of them are answers."""
    first = next(outcome for outcome in outcomes if not isinstance(outcome, Answer))
    name = class_name(type(executor))
    if isinstance(first, Refusal):
        first = _fault_of_refusal(first, outcomes, name)
    if not first.breaks_contract:
        if first.error is not None and not isinstance(first.error, BrokenExecutor | RuntimeError):
            _LOG.error("an executor failed with an error of its own", exc_info=first.error)
        return first
    return Fault(f"its executor, {name}, {first.reason}. {_CONTRACT}", breaks_contract=True, exit_code_counts=False)


def _fault_of_refusal(refusal: Refusal, outcomes: Sequence[Outcome], executor: str) -> Fault:
    number, due = refusal.number, refusal.due
    if refusal.running:
        return Fault(f"made call {number} while call {due} was running", breaks_contract=True)
    if number < due:
        return Fault(f"made call {number} again after it was done", breaks_contract=True)
    if due > 0:
        return Fault(f"made call {number} before call {due}", breaks_contract=True)
    # A worker that knows none of the calls. The one that the loader knows is gone, unless it has done another call since.
    if any(isinstance(other, Answer) or (isinstance(other, Refusal) and other.due > 0) for other in outcomes):
        return Fault(f"made call {number} in another worker than the calls around it", breaks_contract=True)
    return Fault(
        f"call {number} reached a worker that knows none of the calls before it: the executor ({executor}) replaced "
        "its worker, or has more than one. A loader needs an executor with one worker that stays",
        exit_code_counts=False,
    )
