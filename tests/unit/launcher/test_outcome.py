"""What each of Prefect's states means for an execution."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.client.schemas.objects import State, StateType

from prefect_n8n.launcher.outcome import MAX_ERROR, outcome_of
from prefect_n8n.ledger.states import EXECUTION_FINAL, ExecutionState

ENDS = {
    StateType.COMPLETED: ExecutionState.COMPLETED,
    StateType.FAILED: ExecutionState.FAILED,
    StateType.CRASHED: ExecutionState.FAILED,
    StateType.CANCELLED: ExecutionState.CANCELLED,
}


@pytest.mark.parametrize("type", list(StateType))
def test_every_state(type: StateType) -> None:
    state: State[Any] = State(type=type, message="because")
    outcome = outcome_of(state)
    if type not in ENDS:
        assert outcome is None
        assert not state.is_final()
        return
    assert state.is_final()
    assert outcome is not None
    assert outcome[0] is ENDS[type]
    assert outcome[0] in EXECUTION_FINAL


def test_no_state_is_no_end() -> None:
    assert outcome_of(None) is None


def test_an_error_says_state_and_reason() -> None:
    timed_out: State[Any] = State(type=StateType.FAILED, name="TimedOut", message="too slow")
    assert outcome_of(timed_out) == (ExecutionState.FAILED, "TimedOut: too slow")
    crashed: State[Any] = State(type=StateType.CRASHED)
    assert outcome_of(crashed) == (ExecutionState.FAILED, "Crashed: no message")
    done: State[Any] = State(type=StateType.COMPLETED, message="all well")
    assert outcome_of(done) == (ExecutionState.COMPLETED, None)


def test_an_error_can_be_stored() -> None:
    state: State[Any] = State(type=StateType.FAILED, message="\x00" * 10 + "é" * 5000)
    outcome = outcome_of(state)
    assert outcome is not None
    assert outcome[1] is not None
    assert "\x00" not in outcome[1]
    assert len(outcome[1]) == MAX_ERROR
