"""Follow an n8n execution to its end, and say how it ended."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from ..core.errors import (
    CallFailed,
    CallNotSent,
    N8nAnswerInvalid,
    N8nExecutionCancelled,
    N8nExecutionCrashed,
    N8nExecutionError,
    N8nExecutionFailed,
    N8nExecutionGone,
    N8nExecutionUnfinished,
    N8nNotFound,
    N8nRateLimited,
    N8nServerError,
    OutcomeUnknown,
)
from .answers import Execution, ExecutionStatus
from .starting import FIRST_PAUSE, MOST_PAUSE, pauses

if TYPE_CHECKING:
    from .client import N8nClient

AWAY = (CallNotSent, OutcomeUnknown, N8nServerError, N8nRateLimited, N8nAnswerInvalid)
"""What a call meets while n8n restarts, or the way to it is cut."""


async def follow(
    client: N8nClient,
    execution_id: str,
    *,
    poll_seconds: float,
    away_seconds: float,
    timeout_seconds: float | None,
) -> Execution:
    """Wait until the execution has ended, and return it without its data.

    Asks after 0.25 s, then ever more rarely, up to every ``poll_seconds``. n8n may be away for
    ``away_seconds`` at a time.

    Raises:
        N8nExecutionUnfinished: it has not ended within ``timeout_seconds``.
        N8nExecutionGone: n8n does not have it.
        CallFailed: n8n was away for too long, or does not let us ask.
    """
    until = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
    for pause in pauses(FIRST_PAUSE, poll_seconds):
        left = max(0.0, until - time.monotonic())
        execution = await ask(client, execution_id, away_seconds=min(away_seconds, left))
        if execution.ended:
            return execution
        left = until - time.monotonic()
        if left <= 0:
            raise N8nExecutionUnfinished(
                f"n8n execution {execution_id} has not ended within {timeout_seconds:g} s.",
                execution_id=execution_id,
                status=execution.status.value,
                link=client.execution_link(execution),
            )
        await asyncio.sleep(min(pause, left))
    raise AssertionError("the pauses have no end")


async def ask(
    client: N8nClient, execution_id: str, *, away_seconds: float, include_data: bool = False
) -> Execution:
    """Return the execution as it is now, for which n8n may be away for ``away_seconds``.

    Raises:
        N8nExecutionGone: n8n does not have it.
        CallFailed: n8n was away for too long, or does not let us ask.
    """
    until = time.monotonic() + away_seconds
    for pause in pauses(FIRST_PAUSE, MOST_PAUSE):
        try:
            return await _execution(client, execution_id, include_data)
        except AWAY as error:
            wanted = error.retry_after if isinstance(error, N8nRateLimited) else None
            pause = max(pause, min(wanted or 0.0, 60.0))
            if time.monotonic() + pause > until:
                raise
        await asyncio.sleep(pause)
    raise AssertionError("the pauses have no end")


async def _execution(client: N8nClient, execution_id: str, include_data: bool) -> Execution:
    try:
        return await client.execution(execution_id, include_data=include_data)
    except N8nNotFound as error:
        # While n8n loads its API everything is 404. Once it lists, a 404 means what it says.
        await _until_loaded(client, error)
    try:
        return await client.execution(execution_id, include_data=include_data)
    except N8nNotFound:
        raise N8nExecutionGone(
            f"n8n does not have execution {execution_id} (any more). It deletes executions after"
            " some days; a workflow may be set not to save them.",
            execution_id=execution_id,
        ) from None


async def _until_loaded(client: N8nClient, error: CallFailed) -> None:
    try:
        async for _ in client.executions():
            return
    except N8nNotFound:
        raise OutcomeUnknown(
            "n8n has not loaded its API yet.", target=error.target, status=error.status
        ) from None


def failure_of(execution: Execution, link: str | None) -> N8nExecutionError | None:
    """Return the error that the execution's end is; None for a success. With data it says more."""
    if execution.status is ExecutionStatus.SUCCESS:
        return None
    why = execution.error
    node, reason = (why.node, why.message) if why else (None, None)
    kind, verb = _ENDS.get(execution.status, (N8nExecutionUnfinished, "has not ended"))
    message = f"n8n execution {execution.id} {verb}"
    if node:
        message += f" at node {node!r}"
    if reason:
        message += f": {reason.strip().rstrip('.')}"
    if why and why.description:
        message += f" ({' '.join(why.description.split())[:300]})"
    return kind(
        f"{message}.",
        execution_id=execution.id,
        status=execution.status.value,
        link=link,
        node=node,
        reason=reason,
    )


_ENDS: dict[ExecutionStatus, tuple[type[N8nExecutionError], str]] = {
    ExecutionStatus.ERROR: (N8nExecutionFailed, "failed"),
    ExecutionStatus.CANCELED: (N8nExecutionCancelled, "was stopped"),
    ExecutionStatus.CRASHED: (N8nExecutionCrashed, "crashed with n8n"),
}


async def retry(client: N8nClient, execution_id: str, call_seconds: float) -> Execution:
    """Have n8n retry the execution, and return the new one, which may still run.

    Raises:
        N8nExecutionUnfinished: it has not ended.
        N8nConflict: it has succeeded.
        OutcomeUnknown: n8n did not say whether the new one has begun.
        CallFailed: n8n does not answer, or does not do it.
    """
    old = await client.execution(execution_id)
    if not old.ended:
        # n8n would run it a second time beside itself.
        raise failure_of(old, client.execution_link(old)) or AssertionError(old.status)
    known = {each.id async for each in _retries(client, old)}
    try:
        return await client.retry_execution(execution_id, timeout=call_seconds)
    except OutcomeUnknown:
        # n8n answers when the new one has ended.
        async for each in _retries(client, old):
            if each.id not in known:
                return each
        raise


async def _retries(client: N8nClient, old: Execution) -> AsyncIterator[Execution]:
    """The executions that are retries of this one, those that run before those that ended."""
    for status in (ExecutionStatus.RUNNING, ExecutionStatus.WAITING, None):
        listed = client.executions(
            workflow_id=old.workflow_id, status=status, started_after=old.started_at
        )
        async for each in listed:
            if each.retry_of == old.id:
                yield each
