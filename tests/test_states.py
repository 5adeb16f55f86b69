import pytest

from tests.inside import (
    CALLS,
    LOADER,
    PROCESS,
    PULL,
    RUN,
    CallsEvent,
    CallsState,
    LoaderEvent,
    LoaderState,
    ProcessState,
    PullEvent,
    PullState,
    RunEvent,
    RunState,
    WrongTransitionError,
    advance,
)


@pytest.mark.parametrize(
    ("table", "states"),
    [(LOADER, LoaderState), (RUN, RunState), (PULL, PullState), (CALLS, CallsState), (PROCESS, ProcessState)],
)
def test_every_state_is_in_its_table_and_can_be_reached(table, states):
    assert set(table) == set(states)
    start = next(iter(states))
    reached, ahead = {start}, [start]
    while ahead:
        for state in table[ahead.pop()].values():
            if state not in reached:
                reached.add(state)
                ahead.append(state)
    assert reached == set(states)


@pytest.mark.parametrize("state", RunState)
def test_a_run_can_be_closed_from_every_state(state):
    """A second close is allowed, because the first one may have been cancelled."""
    assert advance(RUN, state, RunEvent.CLOSE) is RunState.CLOSED


@pytest.mark.parametrize("state", PullState)
def test_a_pull_transport_can_be_closed_from_every_state(state):
    assert advance(PULL, state, PullEvent.CLOSE) is PullState.CLOSED


@pytest.mark.parametrize("state", [PullState.STARTING, PullState.UP])
def test_an_executor_can_fail_until_it_is_lost(state):
    assert advance(PULL, state, PullEvent.FAULT) is PullState.LOST


@pytest.mark.parametrize(
    "state", [PullState.NEW, PullState.STARTING, PullState.UP, PullState.REPORTED, PullState.CLOSED]
)
def test_a_death_is_reported_once(state):
    with pytest.raises(WrongTransitionError):
        advance(PULL, state, PullEvent.REPORT)


@pytest.mark.parametrize("state", CallsState)
def test_calls_can_be_closed_in_every_state(state):
    assert advance(CALLS, state, CallsEvent.CLOSE) is CallsState.CLOSED


@pytest.mark.parametrize("state", [RunState.STARTING, RunState.RUNNING, RunState.STOPPING, RunState.IDLE])
def test_a_worker_can_die_whenever_there_is_one(state):
    assert advance(RUN, state, RunEvent.DEATH) is RunState.LOST


def test_a_transition_that_is_not_in_the_table_raises():
    with pytest.raises(WrongTransitionError, match="LoaderState CLOSED has no transition for START"):
        advance(LOADER, LoaderState.CLOSED, LoaderEvent.START)
