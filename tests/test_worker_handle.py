"""How a worker handle treats messages. The test drives the transport, so it forces order and timing."""

from __future__ import annotations

import asyncio
import pickle

import pytest

from asyncprefetch.errors import AsyncPrefetchError
from tests.inside import (
    Core,
    Credit,
    Death,
    EndOfShard,
    Final,
    Framed,
    Hello,
    Item,
    Options,
    Ready,
    RunState,
    ShardSnapshot,
    ShardStart,
    Snapshot,
    Start,
    StartClock,
    State,
    Stop,
    delivery,
    item_pickler,
    worker_handle,
)


class ScriptedTransport:
    """Records what the core sends, and delivers the messages that the test gives to ``say``."""

    drawing = None
    mapped = 0

    def __init__(self, sink):
        self.sink = sink
        self.told = []
        self.closed = False

    def launch(self, setup, start):
        self.told.append(start)

    def start(self, start):
        self.told.append(start)

    def credit(self, credit):
        self.told.append(credit)

    def flush(self):
        pass

    def poll(self):
        pass

    def stop(self, stop):
        self.told.append(stop)

    def detach(self):
        self.sink = None

    def kill(self):
        self.closed = True

    async def aclose(self):
        self.closed = True

    def say(self, *messages):
        self.sink.received(messages)


class ScriptedCore(Core):
    """A core with scripted transports in place of workers."""

    def __init__(self, shards=1, in_order=True, buffer=(), **options):
        state = pickle.dumps("the state")
        snapshots = tuple(ShardSnapshot(i, ShardStart(state, 0, ()), False, 0) for i in range(shards))
        super().__init__(Snapshot(in_order, 0, snapshots, tuple(buffer)), Options(**{"num_workers": 1, **options}))
        self.transports = []

    def open_transport(self, worker, sink):
        self.transports.append(ScriptedTransport(sink))
        return self.transports[-1]

    async def take(self):
        return await self.next()


def frame(value):
    return Framed(item_pickler.ItemPickler().dumps(value))


def item(run, position, shard=0):
    return Item(run, shard, position, position, frame((shard, position)))


@pytest.fixture
async def core():
    core = ScriptedCore(n_batches_to_prefetch=3)
    core.start()
    yield core
    await core.aclose()


async def test_no_credit_before_hello_and_then_as_much_as_may_be(core):
    (transport,) = core.transports
    assert [type(message) for message in transport.told] == [Start]
    transport.say(Hello(1))
    assert transport.told[1:] == [Credit(1, 0, 3)]
    transport.say(item(1, 0))
    assert await core.take() == (0, 0)
    assert transport.told[-1] == Credit(1, 0, 4)


async def test_messages_of_another_run_are_dropped(core):
    (transport,) = core.transports
    stale = Item(7, 0, 0, 0, frame("stale"))
    transport.say(Hello(1), stale, State(7, 0, 0, b""), EndOfShard(7, 0, 0), Final(7), item(1, 0), item(1, 1))
    assert await core.take() == (0, 0)
    assert await core.take() == (0, 1)
    assert core.statistics().buffered == 0


async def test_a_snapshot_is_taken_at_the_final_sentinel_and_holds_all_that_came_before_it(core):
    (transport,) = core.transports
    transport.say(Hello(1), item(1, 0), item(1, 1))
    pending = core._snapshots._ask()
    assert transport.told[-1] == Stop(1)
    transport.say(item(1, 2), State(1, 0, 3, b"at three"))
    assert not pending.done()
    transport.say(Final(1))
    snapshot = pending.result()
    assert [ready.payload.load() for ready in snapshot.buffer] == [(0, 0), (0, 1), (0, 2)]
    assert snapshot.shards[0].start == ShardStart(b"at three", 3, ())
    assert transport.told[-1] == Start(2, {0: ShardStart(b"at three", 3, ())})  # the core has started the next run


async def test_credit_that_a_stopped_run_did_not_use_is_dealt_again(core):
    (transport,) = core.transports
    transport.say(Hello(1), item(1, 0))
    core._snapshots._ask()
    transport.say(State(1, 0, 1, b""), Final(1))
    assert [m for m in transport.told if isinstance(m, Credit) and m.run == 2] == [Credit(2, 0, 3)]


@pytest.mark.both_loops
async def test_a_death_ends_the_wait_for_a_snapshot(core):
    (transport,) = core.transports
    transport.say(Hello(1), item(1, 0))
    pending = core._snapshots._ask()
    transport.sink.died(Death("it was killed"))
    assert pending.result().shards[0].start.skip == (0,)
    assert len(core.transports) == 2
    assert core.transports[1].told[0].shards[0].skip == (0,)


async def test_a_worker_whose_shards_have_ended_is_let_go(core):
    (transport,) = core.transports
    transport.say(Hello(1), State(1, 0, 0, b"end"), EndOfShard(1, 0, 0))
    assert core._workers[0].state is RunState.RETIRED
    with pytest.raises(StopAsyncIteration):
        await core.take()
    assert transport.closed


async def test_a_fault_of_the_library_is_raised_and_nothing_hangs(core):
    (transport,) = core.transports
    transport.say(Hello(1), item(1, 5))
    with pytest.raises(AsyncPrefetchError, match=r"a fault in asyncprefetch.* item 5 came where 0 was due"):
        await core.take()


async def test_after_a_snapshot_credit_is_dealt_to_all_workers():
    core = ScriptedCore(shards=2, num_workers=2, n_batches_to_prefetch=4)
    core.start()
    for transport in core.transports:
        transport.say(Hello(1))
    core._snapshots._ask()
    for run, transport in enumerate(core.transports, 1):
        transport.say(Final(run))
    credits = [[m.upto for m in c.told if isinstance(m, Credit) and m.run > 2] for c in core.transports]
    assert credits == [[1, 2], [1, 2]]
    await core.aclose()


async def test_the_end_waits_for_a_stop_that_is_under_way(core):
    (transport,) = core.transports
    transport.say(Hello(1))
    core._snapshots._ask()
    transport.say(State(1, 0, 0, b"end"), EndOfShard(1, 0, 0))
    ending = asyncio.create_task(core.take())
    await asyncio.sleep(0)
    assert core.needs_close
    assert not ending.done()
    transport.say(Final(1))
    with pytest.raises(StopAsyncIteration):
        await _as_error(ending)
    assert transport.closed
    assert not core.needs_close


async def _as_error(task):
    # On some Pythons, awaiting a task does not raise its StopAsyncIteration.
    await asyncio.wait([task])
    raise task.exception()


async def test_a_worker_that_is_no_longer_needed_delivers_nothing(core):
    (transport,) = core.transports
    transport.say(Hello(1))
    sink = transport.sink
    transport.say(State(1, 0, 0, b"end"), EndOfShard(1, 0, 0))
    assert transport.sink is None
    assert sink is core._workers[0]


@pytest.mark.both_loops
async def test_closing_frees_a_consumer_that_waits_for_the_last_worker(core):
    (transport,) = core.transports
    transport.say(Hello(1))
    core._snapshots._ask()
    transport.say(State(1, 0, 0, b"end"), EndOfShard(1, 0, 0))
    endings = [asyncio.create_task(core._come_to_end()) for _ in range(2)]
    await asyncio.sleep(0)
    await core.aclose()
    await asyncio.wait_for(asyncio.gather(*endings), 5)


async def test_a_worker_that_the_loader_killed_is_not_started_again(core):
    (transport,) = core.transports
    transport.say(Hello(1))
    core.kill()  # a loader that was garbage-collected does this before its loop can close it in order
    transport.sink.died(Death("it was killed"))
    assert len(core.transports) == 1
    assert core.statistics().restarts == 0


def suspends(call):
    """Return whether a call waits for a turn of the loop although a batch is ready."""
    try:
        call.send(None)
    except StopIteration:
        return False
    call.close()
    return True


async def test_a_consumer_that_lets_the_loop_turn_between_batches_never_pays_for_a_turn(core, monkeypatch):
    monkeypatch.setattr(delivery, "_MAX_SECONDS_WITHOUT_TURN", 0)
    (transport,) = core.transports
    transport.say(Hello(1), item(1, 0), item(1, 1), item(1, 2))
    assert not suspends(core.next())
    assert suspends(core.next())  # the loop has not turned since the last batch
    await asyncio.sleep(0)
    assert not suspends(core.next())


async def test_batches_that_only_polls_bring_let_the_loop_turn_too(core, monkeypatch):
    monkeypatch.setattr(delivery, "_MAX_SECONDS_WITHOUT_TURN", 0)
    (transport,) = core.transports
    transport.say(Hello(1))
    items = (item(1, position) for position in range(3))
    transport.poll = lambda: transport.say(next(items))
    assert not suspends(core.next())
    assert suspends(core.next())  # the loop has not turned since
    assert await core.take() == (0, 1)
    assert suspends(core.next())
    assert await core.take() == (0, 2)


async def test_a_batch_that_came_while_the_consumer_waited_for_something_else_is_given_at_once(core, monkeypatch):
    monkeypatch.setattr(delivery, "_MAX_SECONDS_WITHOUT_TURN", 0)
    (transport,) = core.transports
    transport.say(Hello(1), item(1, 0))
    assert await core.take() == (0, 0)  # now the queue is empty
    await asyncio.sleep(0)
    transport.say(item(1, 1))  # a callback of the loop would do this
    assert not suspends(core.next())


# A consumer is fast if it takes less than ``_MAX_SECONDS_UNRETURNED`` a batch. It returns credit once per quarter window.
# A consumer that waits returns it after that time, too.


def credits_of(transport):
    return [message.upto for message in transport.told if isinstance(message, Credit)]


@pytest.fixture
async def fast_core(monkeypatch):
    monkeypatch.setattr(delivery, "_MAX_SECONDS_UNRETURNED", 3600)
    core = ScriptedCore(n_batches_to_prefetch=8)
    core.start()
    core.transports[0].say(Hello(1))
    yield core
    await core.aclose()


async def test_a_fast_consumer_that_waits_for_each_batch_returns_credit_once_per_quarter_window(fast_core):
    (transport,) = fast_core.transports
    seen = []

    async def consume():
        for position in range(5):
            assert await fast_core.take() == (0, position)
            seen.append(credits_of(transport))

    consumer = asyncio.create_task(consume())
    for position in range(5):
        await asyncio.sleep(0)
        transport.say(item(1, position))
        await asyncio.sleep(0)
    await consumer
    assert seen == [[8], [8, 10], [8, 10], [8, 10, 12], [8, 10, 12]]


async def test_a_fast_consumer_that_does_something_else_returns_credit_when_the_loop_turns(fast_core):
    (transport,) = fast_core.transports
    transport.say(item(1, 0))
    assert await fast_core.take() == (0, 0)
    assert credits_of(transport) == [8]
    await asyncio.sleep(0)
    assert credits_of(transport) == [8, 9]


async def let_timers_run():
    for _ in range(2):  # a timer that is due runs at the end of a turn
        await asyncio.sleep(0)


async def test_a_consumer_that_waits_returns_credit_when_its_time_is_up(fast_core, monkeypatch):
    (transport,) = fast_core.transports

    async def consume():
        assert await fast_core.take() == (0, 0)
        monkeypatch.setattr(delivery, "_MAX_SECONDS_UNRETURNED", 0)
        assert await fast_core.take() == (0, 1)

    transport.say(item(1, 0))
    consumer = asyncio.create_task(consume())
    await asyncio.sleep(0)
    assert credits_of(transport) == [8]
    await let_timers_run()
    assert credits_of(transport) == [8, 9]
    transport.say(item(1, 1))
    await consumer


async def test_a_consumer_that_stops_waiting_returns_credit_when_its_time_is_up(fast_core, monkeypatch):
    (transport,) = fast_core.transports
    transport.say(item(1, 0))
    assert await fast_core.take() == (0, 0)
    monkeypatch.setattr(delivery, "_MAX_SECONDS_UNRETURNED", 0)
    waiting = fast_core.take()
    waiting.send(None)
    with pytest.raises(asyncio.CancelledError):
        waiting.throw(asyncio.CancelledError)
    assert credits_of(transport) == [8]
    await let_timers_run()
    assert credits_of(transport) == [8, 9]


async def test_shards_that_send_nothing_do_not_stop_the_others(monkeypatch):
    """Where order is not promised, a shard that can send must have credit. The consumer may wait long for the others."""
    core = ScriptedCore(in_order=False, shards=8, num_workers=8, n_batches_to_prefetch=64)
    core.start()
    for transport in core.transports:
        transport.say(Hello(1))
    first = core.transports[0]
    run, came = first.told[0].run, 0
    # It is called before each wait: the consumer is fast when it takes, and its time is up when it waits.
    first.poll = lambda: monkeypatch.setattr(delivery, "_MAX_SECONDS_UNRETURNED", 0)

    async def consume():
        for position in range(200):
            assert await core.next() == (0, position)

    consumer = asyncio.create_task(consume())
    await asyncio.sleep(0)
    while not consumer.done():
        monkeypatch.setattr(delivery, "_MAX_SECONDS_UNRETURNED", 3600)
        upto = credits_of(first)[-1]
        assert came < upto, "all wait: the worker for credit, the consumer for a batch"
        first.say(*(item(run, position) for position in range(came, upto)))
        came = upto
        for _ in range(20):
            if credits_of(first)[-1] == upto and not consumer.done():
                await let_timers_run()
    await consumer
    await core.aclose()


async def test_a_fast_consumer_returns_credit_at_once_where_the_next_shard_has_none(monkeypatch):
    monkeypatch.setattr(delivery, "_MAX_SECONDS_UNRETURNED", 3600)
    buffer = [Ready(1, frame((1, position))) for position in range(70)]  # of a loader with a larger window
    core = ScriptedCore(shards=2, num_workers=2, n_batches_to_prefetch=64, buffer=buffer)
    core.start()
    first, second = core.transports
    first.say(Hello(1))
    second.say(Hello(2))
    assert (credits_of(first), credits_of(second)) == ([1], [])
    first.say(item(1, 0))
    assert await core.take() == (0, 0)
    assert credits_of(first) == [1]
    assert await core.take() == (1, 0)
    assert credits_of(first) == [1, 2]
    await core.aclose()


async def test_the_first_worker_that_is_up_does_not_take_the_credit_of_the_others():
    core = ScriptedCore(shards=2, num_workers=2, n_batches_to_prefetch=8)
    core.start()
    first, second = core.transports
    first.say(Hello(1))
    assert credits_of(first) == [4]
    second.say(Hello(2))
    assert (credits_of(first), credits_of(second)) == ([4], [4])
    await core.aclose()


# A start takes seconds of a core. ``check`` lets the watchdog decide at the moment that the test has set.


@pytest.fixture
async def starting(time, monkeypatch):
    """Eight workers that start on two cores, each with three seconds for it."""
    monkeypatch.setattr(worker_handle, "start_clock", StartClock(lambda: 2, time))
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


@pytest.mark.both_loops
async def test_workers_that_share_the_cores_have_their_seconds_each(starting, time):
    time.now += 11.9
    assert {check(handle) for handle in starting._workers} == {RunState.STARTING}
    for transport in starting.transports:
        transport.say(Hello(1))
    time.now += 1000
    assert {check(handle) for handle in starting._workers} == {RunState.RUNNING}


async def test_a_worker_that_hangs_at_its_start_ends_when_it_had_its_seconds(starting, time):
    time.now += 8
    for transport in starting.transports[1:]:
        transport.say(Hello(1))  # in the two seconds that each of them had
    hanging = starting._workers[0]
    time.now += 0.9
    assert check(hanging) is RunState.STARTING
    time.now += 0.2
    assert check(hanging) is RunState.FAILED


async def test_all_workers_that_hang_end_in_bounded_time(starting, time):
    time.now += 12.1
    assert check(starting._workers[0]) is RunState.FAILED


async def test_a_check_of_a_slow_clock_comes_a_bounded_number_of_times(starting, time):
    """What is left on the clock gets less at each check. It would never be nothing."""
    hanging, checks = starting._workers[0], 0
    watchdog = hanging._start_watch
    while time.now < 100 + 12:
        watchdog.cancel()
        watchdog._expired()
        time.now += watchdog._timer.when() - watchdog._loop.time()
        checks += 1
    assert 10 < checks < 40
    assert check(hanging) is RunState.FAILED


async def test_a_worker_that_is_started_again_alone_has_a_clock_of_full_pace(starting, time):
    for transport in starting.transports:
        transport.say(Hello(1))
    starting._workers[0].died(Death("it was killed"))
    time.now += 2.9
    assert check(starting._workers[0]) is RunState.STARTING
    time.now += 0.2
    assert check(starting._workers[0]) is RunState.FAILED
