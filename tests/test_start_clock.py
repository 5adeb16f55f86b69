"""The clock for starts runs at the part of a core that each starting worker has."""

from __future__ import annotations

import gc

from tests.inside import StartClock


class Worker:
    pass


def test_as_many_starts_as_cores_do_not_slow_the_clock(time):
    clock = StartClock(lambda: 2, time)
    workers = [Worker(), Worker()]
    for worker in workers:
        clock.set_starting(worker, starts=True)
    time.now += 3
    assert clock.seconds() == 3


def test_the_clock_counts_the_part_of_a_core_that_a_worker_had_at_each_moment(time):
    clock = StartClock(lambda: 2, time)
    workers = [Worker() for _ in range(8)]
    for worker in workers:
        clock.set_starting(worker, starts=True)
        clock.set_starting(worker, starts=True)  # does no harm
    time.now += 4  # one second for each
    for worker in workers[4:]:
        clock.set_starting(worker, starts=False)
    time.now += 4  # two more
    for worker in workers[:4]:
        clock.set_starting(worker, starts=False)
    time.now += 4
    assert clock.seconds() == 7


def test_a_start_that_was_forgotten_does_not_slow_the_clock(time):
    clock = StartClock(lambda: 1, time)
    workers = [Worker(), Worker()]
    for worker in workers:
        clock.set_starting(worker, starts=True)
    workers.clear()
    del worker
    gc.collect()
    time.now += 3
    assert clock.seconds() == 3
