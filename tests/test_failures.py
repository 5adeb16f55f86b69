"""Before an error, a death or a stall, the loader delivers all earlier batches. A saved state restores the whole stream."""

from __future__ import annotations

import asyncio
import gc
import gzip
import logging
import pickle
import weakref
from concurrent.futures import BrokenExecutor, Executor, Future

import pytest

from asyncprefetch import (
    AsyncPrefetcher,
    AsyncPrefetcherState,
    CheckpointError,
    ProcessWorkers,
    ProducerError,
    WorkerDiedError,
)
from asyncprefetch.executors import InlineExecutor
from tests.conftest import EXECUTORS
from tests.consumer import rest, take, through_bytes, until_error
from tests.inside import PullRunner, retries, stream_transport, worker_end
from tests.pipelines import functions, reporting, unpickling
from tests.pipelines.counting import Count, in_turns
from tests.pipelines.failing import ERRORS, Fail, Outer
from tests.pipelines.reporting import Environment, Logging, fail_to_initialize, remember_worker

# ----------------------------------------------------------------------------------------------------- errors of users


@pytest.mark.parametrize("error", ERRORS)
async def test_whatever_the_iterator_raises_comes_in_its_place_and_again(executor_factory, error):
    async with AsyncPrefetcher(Fail.make(9, 4, error), workers=executor_factory) as loader:
        got, raised = await until_error(loader)
        assert got == [0, 1, 2, 3]
        assert isinstance(raised, ProducerError)
        assert (raised.shard, raised.position, raised.phase) == (0, 4, "next")
        assert "in _items" in raised.remote_traceback
        with pytest.raises(ProducerError) as again:
            await anext(loader)
        assert str(again.value) == str(raised)
        state = await loader.get_state()
    assert state.delivered.total == 4
    again = state.build(workers=executor_factory)
    async with again:  # the restored loader fails again at the same item
        got, raised = await until_error(again)
        assert got == []
        assert raised.position == 4


@pytest.mark.both_loops
async def test_an_error_keeps_type_text_and_traceback_and_the_original_is_its_cause(executor_factory):
    async with AsyncPrefetcher(Fail.make(1, 0, "KeyError"), workers=executor_factory) as loader:
        _, raised = await until_error(loader)
    assert raised.type_name == "KeyError"
    assert raised.text == "'missing'"
    assert isinstance(raised.original, KeyError)
    assert raised.__cause__ is raised.original
    assert "shard 0, position 0 (next): KeyError: 'missing'" in str(raised)
    assert "_raise" in raised.remote_traceback
    assert raised.remote_traceback in raised.__notes__[0]
    copy = pickle.loads(pickle.dumps(raised))
    assert (copy.shard, copy.position, copy.text) == (0, 0, "'missing'")


@pytest.mark.parametrize("error", ["TwoArgumentsError", "ChangingError", "with a lock"])
async def test_an_error_that_does_not_survive_pickle_comes_as_text(executor_factory, error):
    async with AsyncPrefetcher(Fail.make(1, 0, error), workers=executor_factory) as loader:
        _, raised = await until_error(loader)
    assert raised.original is None
    assert raised.text in {"1 and 2", "so to speak: text", "with a lock"}


@pytest.mark.parametrize("phase", ["build", "create_iter", "get_state"])
@pytest.mark.parametrize("error", ["KeyError", "StopIteration", "SystemExit"])
@pytest.mark.both_loops
async def test_errors_around_the_iteration_are_errors_too(executor_factory, phase, error):
    at = 3 if phase == "get_state" else 0
    async with AsyncPrefetcher(Fail.make(3, at, error, phase), workers=executor_factory) as loader:
        got, raised = await until_error(loader)
    assert got == ([0, 1, 2] if phase == "get_state" else [])
    assert raised.phase == phase
    assert raised.type_name == error


@pytest.mark.both_loops
async def test_get_state_that_raises_in_the_worker_is_reported_and_the_checkpoint_stays_exact(executor_factory):
    async with AsyncPrefetcher(
        Fail.make(9, 2, "KeyError", "get_state"), n_batches_to_prefetch=2, workers=executor_factory
    ) as loader:
        assert await take(loader, 2) == [0, 1]
        state = await loader.get_state()
        assert state.shards[0].skip != ()
        got, raised = await until_error(loader)
        assert got == [2, 3, 4, 5][: len(got)]
        assert raised.phase == "get_state"
    document = state.model_dump_json().replace(
        '"error":"KeyError","phase":"get_state"', '"error":"KeyError","phase":"never"'
    )
    assert await rest(AsyncPrefetcherState.from_json(document).build(workers=executor_factory)) == list(range(2, 9))


async def test_an_item_that_can_not_be_pickled_is_an_error_at_its_position(executor_factory):
    async with AsyncPrefetcher(functions.unpicklable, workers=executor_factory) as loader:
        got, raised = await until_error(loader)
    assert got == [0]
    assert (raised.phase, raised.position) == ("pickle", 1)


async def test_what_has_no_repr_crosses_too(executor_factory):
    assert await rest(AsyncPrefetcher(functions.long, workers=executor_factory)) == [1, 10**5000, 3]


@pytest.mark.both_loops
async def test_an_item_that_can_not_be_unpickled_here_is_an_error_at_its_position(executor_factory):
    async with AsyncPrefetcher(unpickling.unopenable, workers=executor_factory) as loader:
        assert await take(loader, 1) == [0]
        while loader.statistics().buffered < 2:
            await asyncio.sleep(0)
        for _ in range(2):
            with pytest.raises(ProducerError, match="not here") as raised:
                await anext(loader)
            assert (raised.value.phase, raised.value.shard, raised.value.position) == ("unpickle", 0, 1)
        with pytest.raises(CheckpointError, match="can't be unpickled here"):
            await loader.get_state()


@pytest.mark.both_loops
async def test_an_interrupt_while_a_batch_is_opened_loses_no_batch(executor_factory):
    async with AsyncPrefetcher(unpickling.interrupted, workers=executor_factory) as loader:
        assert await anext(loader) == 0
        unpickling.interrupts.append(KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            await anext(loader)
        assert [item async for item in loader] == ["opened", 2]


async def test_an_error_of_a_nested_class_is_the_cause(executor_factory):
    async with AsyncPrefetcher(Fail.make(1, 0, "NestedError"), workers=executor_factory) as loader:
        _, raised = await until_error(loader)
    assert isinstance(raised.__cause__, Outer.NestedError)


@pytest.mark.both_loops
async def test_an_error_keeps_nothing_of_the_consumer_alive(executor_factory):
    class Model:
        pass

    async def train(model):
        async for _ in loader:
            pass

    loader = AsyncPrefetcher(Fail.make(3, 1, "KeyError"), workers=executor_factory)
    model = Model()
    seen = weakref.ref(model)
    with pytest.raises(ProducerError):
        await train(model)
    del model
    gc.collect()
    assert seen() is None
    await loader.aclose()


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.both_loops
async def test_an_error_comes_after_every_batch_that_is_due_before_it(executor_factory, in_order):
    pipeline = [Fail.make(9, 3, "KeyError"), Count(20, 100)]
    async with AsyncPrefetcher(
        pipeline, num_workers=1, in_order=in_order, n_batches_to_prefetch=4, workers=executor_factory
    ) as loader:
        got, raised = await until_error(loader)
        state = await loader.get_state()
    assert [n for n in got if n < 100] == [0, 1, 2]
    assert raised.shard == 0
    if in_order:
        assert got == [0, 100, 1, 101, 2, 102]
    others = [n for n in got if n >= 100] + [batch.item for batch in state.buffer]
    assert others == list(range(100, 100 + len(others)))


@pytest.mark.both_loops
async def test_a_state_after_an_error_resumes_at_the_item_that_failed(tmp_path, executor_factory):
    flag = str(tmp_path / "raised")
    pipeline = [Fail.make(6, 3, "OSError", only_once=flag), Count(6, 100)]
    async with AsyncPrefetcher(pipeline, workers=executor_factory) as loader:
        got, _ = await until_error(loader)
        state = await loader.get_state()
    assert got + await rest(through_bytes(state).build(workers=executor_factory)) == [
        *(0, 100, 1, 101, 2, 102, 3, 103, 4, 104, 5, 105)
    ]


# ---------------------------------------------------------------------------------------------------------------- retry


@pytest.fixture
def fast_backoff(monkeypatch):
    monkeypatch.setattr(retries, "_FIRST_BACKOFF", 0.001)


@pytest.mark.parametrize("retry_on", [OSError, (LookupError, Exception)])
@pytest.mark.both_loops
async def test_retry_on_draws_the_item_again(tmp_path, executor_factory, retry_on, fast_backoff, caplog):
    flag = str(tmp_path / "raised")
    pipeline = [Fail.make(6, 3, "OSError", only_once=flag), Count(3, 100)]
    loader = AsyncPrefetcher(pipeline, num_workers=1, retry_on=retry_on, workers=executor_factory)
    assert await rest(loader) == [0, 100, 1, 101, 2, 102, 3, 4, 5]
    assert sum(worker.retries for worker in loader.statistics().workers) == 1
    assert "shard 0, position 3: OSError: [Errno 5] the disk went away; retry 1 of 5" in caplog.text


async def test_retries_are_bounded_and_other_errors_are_not_retried(executor_factory, fast_backoff):
    async with AsyncPrefetcher(Fail.make(6, 3, "OSError"), retry_on=OSError, workers=executor_factory) as loader:
        got, raised = await until_error(loader)
        assert got == [0, 1, 2]
        assert "after 5 retries" in str(raised)
    async with AsyncPrefetcher(Fail.make(6, 3, "KeyError"), retry_on=OSError, workers=executor_factory) as loader:
        await until_error(loader)
        assert loader.statistics().workers[0].retries == 0


@pytest.mark.both_loops
async def test_a_state_taken_while_a_retry_is_pending_is_exact(tmp_path, executor_factory, monkeypatch):
    monkeypatch.setattr(retries, "_FIRST_BACKOFF", 3600)
    flag = str(tmp_path / "raised")
    pipeline = [Fail.make(6, 3, "OSError", only_once=flag), Count(6, 100)]
    async with AsyncPrefetcher(pipeline, num_workers=1, retry_on=OSError, workers=executor_factory) as loader:
        got = await take(loader, 6)
        while loader.statistics().workers[0].retries == 0:
            await asyncio.sleep(0)
        state = await loader.get_state()
    assert got + await rest(state.build(workers=executor_factory)) == [
        *(0, 100, 1, 101, 2, 102, 3, 103, 4, 104, 5, 105)
    ]


# ---------------------------------------------------------- deaths on the user's executors: see tests/faults, too


@pytest.mark.both_loops
async def test_the_dead_are_noticed_on_any_executor():
    """A user's executor raises BrokenExecutor when its worker has ended. The next worker gets state and skip."""

    class Mortal(InlineExecutor):
        def __init__(self, calls):
            self.calls = calls

        def submit(self, fn, /, *args, **kwargs):
            self.calls -= 1
            if self.calls < 0:
                broken: Future = Future()
                broken.set_exception(BrokenExecutor("the node is gone"))
                return broken
            return super().submit(fn, *args, **kwargs)

    loader = AsyncPrefetcher([Count(20), Count(20, 100)], num_workers=1, workers=lambda worker: Mortal(9))
    assert await rest(loader) == in_turns([list(range(20)), list(range(100, 120))])
    assert loader.statistics().restarts > 3
    with pytest.raises(WorkerDiedError, match="the node is gone"):
        await rest(AsyncPrefetcher(Count(20), max_restarts=0, workers=lambda worker: Mortal(6)))


class Odd(InlineExecutor):
    """Calls ``odd``, which a subclass defines, at one call."""

    def __init__(self, at):
        self.left = at

    def submit(self, fn, /, *args, **kwargs):
        self.left -= 1
        return self.odd(fn, *args) if self.left == 0 else super().submit(fn, *args, **kwargs)


class FailsOneCall(Odd):
    """One call fails without being made. Later calls succeed."""

    def odd(self, fn, *args):
        failed: Future = Future()
        failed.set_exception(ConnectionError("a lost message"))
        return failed


class RefusesOneCall(Odd):
    def odd(self, fn, *args):
        raise ConnectionError("no route")


class LosesAnAnswer(Odd):
    """The executor makes the call and loses its answer."""

    def odd(self, fn, *args):
        fn(*args)
        failed: Future = Future()
        failed.set_exception(TimeoutError("no answer"))
        return failed


class ReplacesItsWorker(Odd):
    """An executor with its own retries: from one call on, another producer answers."""

    def odd(self, fn, *args):
        self.other = PullRunner("another worker")
        return super(Odd, self).submit(self.other.handle, *args)

    def submit(self, fn, /, *args, **kwargs):
        if hasattr(self, "other") and fn.__name__ == "handle":
            fn = self.other.handle
        return super().submit(fn, *args, **kwargs)


@pytest.mark.parametrize("odd", [FailsOneCall, RefusesOneCall, LosesAnAnswer, ReplacesItsWorker])
@pytest.mark.parametrize("at", range(3, 30, 3))
async def test_whatever_an_executor_does_to_one_call_no_batch_is_lost(odd, at, caplog):
    executors = []

    def once_odd(worker):
        executors.append(odd(at) if not executors else InlineExecutor())
        return executors[-1]

    pipeline = [Count(8), Count(8, 100)]
    loader = AsyncPrefetcher(pipeline, num_workers=1, n_batches_to_prefetch=3, workers=once_odd)
    assert await rest(loader) == in_turns([list(range(8)), list(range(100, 108))])
    assert len(executors) == 2 or at > 18


async def test_an_executor_factory_that_raises_is_an_error(executor_factory):
    def no_executor(worker: int) -> Executor:
        raise ConnectionError("no cluster")

    with pytest.raises(WorkerDiedError, match=r"workers\(0\) raised ConnectionError: no cluster"):
        await rest(AsyncPrefetcher(Count(3), workers=no_executor))
    with pytest.raises(WorkerDiedError, match=r"must return a concurrent\.futures\.Executor, not 3"):
        await rest(AsyncPrefetcher(Count(3), workers=lambda worker: 3))


# ------------------------------------------------------------------------------------------------------- worker's world


@pytest.mark.parametrize("pull", [False, True], ids=["process", "pull"])
@pytest.mark.both_loops
async def test_an_initializer_that_raises_is_an_error(monkeypatch, pull):
    if pull:
        monkeypatch.setattr(stream_transport, "is_supported", lambda: False)
    with pytest.raises(ProducerError, match="LookupError: no device for worker 0") as raised:
        await rest(AsyncPrefetcher(Count(3), workers=ProcessWorkers(initializer=fail_to_initialize)))
    assert raised.value.phase == "initializer"


@pytest.mark.parametrize("pull", [False, True], ids=["process", "pull"])
async def test_workers_get_their_environment_and_their_number(monkeypatch, pull):
    if pull:
        monkeypatch.setattr(stream_transport, "is_supported", lambda: False)
    monkeypatch.setenv("ASYNCPREFETCH_TEST_PARENT", "from the parent")
    pipeline = [Environment(["ASYNCPREFETCH_TEST_PARENT", "ASYNCPREFETCH_TEST_GIVEN"]) for _ in range(2)]
    loader = AsyncPrefetcher(
        pipeline,
        num_workers=2,
        workers=ProcessWorkers(initializer=remember_worker, env={"ASYNCPREFETCH_TEST_GIVEN": "given"}),
    )
    env = {"ASYNCPREFETCH_TEST_PARENT": "from the parent", "ASYNCPREFETCH_TEST_GIVEN": "given"}
    assert await rest(loader) == [{"env": env, "initialized": [0]}, {"env": env, "initialized": [1]}]


@pytest.mark.both_loops
async def test_log_records_of_workers_reach_the_parent(caplog):
    assert await rest(AsyncPrefetcher([Count(1), Logging()], num_workers=2)) == [0, 0, 1, 2]
    records = [record for record in caplog.records if record.name == "asyncprefetch.worker"]
    assert [record.getMessage() for record in records] == [
        f"[worker 1, tests.logging] {text}" for text in ("item 0", "item 1", "item 2", "that is all")
    ]
    assert {(record.worker, record.origin) for record in records} == {(1, "tests.logging")}
    assert "ValueError: at the end" in records[-1].exc_text
    assert caplog.text.count("ValueError: at the end") == 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("propagate", [False, True])
@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
async def test_records_of_a_worker_reach_no_handler_but_by_the_parent(tmp_path, caplog, start_method, propagate):
    logger = logging.getLogger("tests.logging")
    handler = logging.FileHandler(tmp_path / "log")
    logger.addHandler(handler)
    logger.propagate, logger.level = propagate, logging.DEBUG
    logging.getLogger("tests.logging.of.a.child")  # this also creates placeholders between the two loggers
    try:
        workers = ProcessWorkers(start_method=start_method)
        assert await rest(AsyncPrefetcher(Logging(), workers=workers)) == [0, 1, 2]
    finally:
        logger.propagate, logger.level = True, logging.NOTSET
        logger.removeHandler(handler)
        handler.close()
    assert (tmp_path / "log").read_text() == ""
    assert [record.getMessage() for record in caplog.records if record.name == "asyncprefetch.worker"] == [
        f"[worker 0, tests.logging] {text}" for text in ("item 0", "item 1", "item 2", "that is all")
    ]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_forked_worker_does_not_end_the_file_of_a_handler_of_the_parent(tmp_path, caplog):
    logger = logging.getLogger("tests.logging")
    # Only the logger has a reference to the handler.
    logger.addHandler(logging.StreamHandler(gzip.open(tmp_path / "log.gz", "wt")))  # noqa: SIM115 - closed below
    try:
        logger.warning("before")
        workers = ProcessWorkers(start_method="fork")
        assert await rest(AsyncPrefetcher(Logging(), workers=workers)) == [0, 1, 2]
        logger.warning("after")
    finally:
        [handler] = logger.handlers
        logger.removeHandler(handler)
        handler.stream.close()
    assert gzip.decompress((tmp_path / "log.gz").read_bytes()) == b"before\nafter\n"


async def test_debug_records_stay_in_the_worker_unless_asked_for(caplog):
    caplog.set_level(logging.ERROR, "asyncprefetch.worker")
    await rest(AsyncPrefetcher(Logging()))
    assert [record.getMessage() for record in caplog.records] == ["[worker 0, tests.logging] that is all"]


async def test_what_iterators_log_when_they_are_closed_reaches_the_parent(caplog, monkeypatch):
    monkeypatch.setattr(worker_end, "CLOSE_GRACE", 30.0)  # allow for a slow machine
    async with AsyncPrefetcher(reporting.goodbye) as loader:
        await anext(loader)
    assert "[worker 0, tests.goodbye] closed after an item" in caplog.text


async def test_a_filter_that_raises_does_not_end_the_stream(capsys):
    def refuse(record):
        raise ValueError("not this one")

    logger = logging.getLogger("asyncprefetch.worker")
    logger.addFilter(refuse)
    try:
        assert await rest(AsyncPrefetcher(Logging())) == [0, 1, 2]
    finally:
        logger.removeFilter(refuse)
    assert "not this one" in capsys.readouterr().err


async def test_a_variable_that_the_parent_removed_is_not_in_the_worker(monkeypatch):
    monkeypatch.setenv("ASYNCPREFETCH_TEST_REMOVED", "once")
    await rest(AsyncPrefetcher(Count(1)))  # now the fork server has the variable
    monkeypatch.delenv("ASYNCPREFETCH_TEST_REMOVED")
    (got,) = await rest(AsyncPrefetcher(Environment(["ASYNCPREFETCH_TEST_REMOVED"])))
    assert got["env"] == {"ASYNCPREFETCH_TEST_REMOVED": None}


@pytest.mark.both_loops
async def test_no_thread_for_a_worker_is_an_error_and_the_loader_can_be_closed(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    loader = AsyncPrefetcher(Count(3))
    with monkeypatch.context() as patched:
        patched.setattr("threading.Thread.start", refuse)
        with pytest.raises(WorkerDiedError, match="can't start new thread"):
            await anext(loader)
    await loader.aclose()


@pytest.mark.parametrize("executor", ["thread"])
@pytest.mark.both_loops
async def test_a_thread_is_an_executor_too(executor, tmp_path):
    factory = EXECUTORS[executor]
    async with AsyncPrefetcher([Count(9), Count(9, 100)], workers=factory) as loader:
        got = await take(loader, 5)
        state = await loader.get_state()
        assert [item async for item in loader] == await rest(state.build(workers=factory))
    assert got == [0, 100, 1, 101, 2]
