"""What a flow run's state means for its execution."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State, StateType

from ..ledger.states import ExecutionState

MAX_ERROR = 2_000

_ENDS = {
    StateType.COMPLETED: ExecutionState.COMPLETED,
    StateType.FAILED: ExecutionState.FAILED,
    StateType.CRASHED: ExecutionState.FAILED,
    StateType.CANCELLED: ExecutionState.CANCELLED,
}


def outcome_of(state: State[Any] | None) -> tuple[ExecutionState, str | None] | None:
    """Return the execution's final state and error, or None where the run has not ended."""
    if state is None or state.type not in _ENDS:
        return None
    end = _ENDS[state.type]
    if end is ExecutionState.COMPLETED:
        return end, None
    return end, f"{state.name}: {state.message or 'no message'}".replace("\x00", "")[:MAX_ERROR]
