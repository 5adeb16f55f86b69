"""The clock for starts runs at the part of a core that each starting worker has."""

from __future__ import annotations

import gc

import pytest

from tests.inside import Hello, RunState, StartClock, worker_handle
from tests.test_worker_handle import ScriptedCore


class Time:
    """A clock that the test sets."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return Time()


class Worker:
    pass


def test_as_many_starts_as_cores_do_not_slow_the_clock(time):
    clock = StartClock(2, time)
    workers = [Worker(), Worker()]
    for worker in workers:
        clock.set_starting(worker, starts=True)
    time.now += 3
    assert clock.seconds() == 3


def test_the_clock_counts_the_part_of_a_core_that_a_worker_had_at_each_moment(time):
    clock = StartClock(2, time)
    workers = [Worker() for _ in range(8)]
    for worker in workers:
        clock.set_starting(worker, starts=True)
        clock.set_starting(worker, starts=True)  # does no harm
    time.now += 4
    assert clock.seconds() == 1
    for worker in workers[4:]:
        clock.set_starting(worker, starts=False)
    time.now += 4
    assert clock.seconds() == 3
    for worker in workers[:4]:
        clock.set_starting(worker, starts=False)
    time.now += 4
    assert clock.seconds() == 7


def test_a_start_that_was_forgotten_does_not_slow_the_clock(time):
    clock = StartClock(1, time)
    workers = [Worker(), Worker()]
    for worker in workers:
        clock.set_starting(worker, starts=True)
    workers.clear()
    del worker
    gc.collect()
    time.now += 3
    assert clock.seconds() == 3


# ---------------------------------------------------------------------------------------------------- within a loader


@pytest.fixture
async def core(time, monkeypatch):
    """Eight workers that start on two cores, each with three seconds for it."""
    monkeypatch.setattr(worker_handle, "start_clock", StartClock(2, time))
    core = ScriptedCore(shards=8, num_workers=8, start_timeout=3)
    core.start()
    yield core
    await core.aclose()


def check(handle):
    """Let the handle's watchdog check now, after all that has arrived was received."""
    watchdog = handle._start_watch
    watchdog.cancel()
    watchdog._confirm(0)
    return handle.state


async def test_workers_that_share_the_cores_have_their_seconds_each(core, time):
    time.now += 11.9
    assert {check(handle) for handle in core._workers} == {RunState.STARTING}
    for transport in core.transports:
        transport.say(Hello(1))
    time.now += 1000
    assert {check(handle) for handle in core._workers} == {RunState.RUNNING}


async def test_a_worker_that_hangs_at_its_start_ends_when_it_had_its_seconds(core, time):
    time.now += 8
    for transport in core.transports[1:]:
        transport.say(Hello(1))  # in the two seconds that each of them had
    hanging = core._workers[0]
    time.now += 0.9
    assert check(hanging) is RunState.STARTING
    time.now += 0.2
    assert check(hanging) is RunState.FAILED


async def test_all_workers_that_hang_end_in_bounded_time(core, time):
    time.now += 12.1
    assert check(core._workers[0]) is RunState.FAILED


async def test_a_check_of_a_slow_clock_comes_a_bounded_number_of_times(core, time, monkeypatch):
    """What is left on the clock gets less at each check. It would never be nothing."""
    hanging, checks = core._workers[0], 0
    watchdog = hanging._start_watch
    while time.now < 100 + 12:
        watchdog.cancel()
        watchdog._expired()
        time.now += watchdog._timer.when() - watchdog._loop.time()
        checks += 1
    assert 10 < checks < 40
    assert check(hanging) is RunState.FAILED


async def test_a_worker_that_is_started_again_alone_has_a_clock_of_full_pace(core, time):
    for transport in core.transports:
        transport.say(Hello(1))
    core._workers[0].died(worker_handle.Death("it was killed"))
    time.now += 2.9
    assert check(core._workers[0]) is RunState.STARTING
    time.now += 0.2
    assert check(core._workers[0]) is RunState.FAILED
