import pytest

from tests.inside import (
    LOADER,
    PROCESS,
    RUN,
    LoaderEvent,
    LoaderState,
    ProcessState,
    RunEvent,
    RunState,
    WrongTransitionError,
    advance,
)


@pytest.mark.parametrize(("table", "states"), [(LOADER, LoaderState), (RUN, RunState), (PROCESS, ProcessState)])
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
    """Also a second time: the first may have been cut off."""
    assert advance(RUN, state, RunEvent.CLOSE) is RunState.CLOSED


@pytest.mark.parametrize("state", [RunState.STARTING, RunState.RUNNING, RunState.STOPPING, RunState.IDLE])
def test_a_worker_can_die_whenever_there_is_one(state):
    assert advance(RUN, state, RunEvent.DEATH) is RunState.LOST


def test_a_transition_that_is_not_in_the_table_raises():
    with pytest.raises(WrongTransitionError, match="LoaderState CLOSED has no transition for START"):
        advance(LOADER, LoaderState.CLOSED, LoaderEvent.START)
