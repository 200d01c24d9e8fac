"""How an execution is followed while n8n comes and goes, and which error its end is."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from prefect_n8n.blocks import following
from prefect_n8n.blocks.answers import Execution
from prefect_n8n.blocks.following import ask, failure_of, follow
from prefect_n8n.core.errors import (
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
    N8nUnauthorized,
    OutcomeUnknown,
)


def execution(status: str, data: dict[str, Any] | None = None) -> Execution:
    return Execution.model_validate(
        {"id": "57", "workflowId": "wf1", "status": status, "data": data}
    )


RUNNING, SUCCESS = execution("running"), execution("success")
NOT_FOUND = N8nNotFound("Not Found", status=404)


@dataclass
class FakeN8n:
    """Answers in turn; the last answer goes on for ever. ``lists`` is the list's own answer."""

    steps: Sequence[Execution | Exception]
    lists: Exception | None = None
    asked: int = 0

    async def execution(self, id: str, *, include_data: bool = False) -> Execution:
        step = self.steps[min(self.asked, len(self.steps) - 1)]
        self.asked += 1
        if isinstance(step, Exception):
            raise step
        return step

    async def executions(self) -> AsyncIterator[Execution]:
        if self.lists:
            raise self.lists
        yield SUCCESS

    def execution_link(self, execution: Execution) -> str:
        return f"http://n8n.test/{execution.id}"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(following, "MOST_PAUSE", 0.01)


async def followed(n8n: FakeN8n, *, away: float = 1.0, timeout: float | None = None) -> Execution:
    return await follow(
        n8n,  # type: ignore[arg-type]
        "57",
        poll_seconds=0.01,
        away_seconds=away,
        timeout_seconds=timeout,
    )


async def test_it_is_followed_to_its_end() -> None:
    n8n = FakeN8n([execution("new"), RUNNING, execution("waiting"), RUNNING, SUCCESS])
    assert await followed(n8n) == SUCCESS
    assert n8n.asked == 5


@pytest.mark.parametrize("status", ["error", "canceled", "crashed"])
async def test_other_ends_are_returned(status: str) -> None:
    assert (await followed(FakeN8n([execution(status)]))).status == status


@pytest.mark.parametrize(
    "error",
    [
        CallNotSent("refused"),
        OutcomeUnknown("reset"),
        N8nServerError("down", status=503),
        N8nAnswerInvalid("HTML", status=200),
        N8nRateLimited("slower", status=429, retry_after=0.01),
    ],
)
async def test_n8n_may_be_away_for_a_while(error: Exception) -> None:
    n8n = FakeN8n([RUNNING, error, error, RUNNING, error, SUCCESS])
    assert await followed(n8n) == SUCCESS
    with pytest.raises(type(error)):
        await followed(FakeN8n([RUNNING, error]), away=0.05)


async def test_a_404_of_an_n8n_that_loads_is_no_end() -> None:
    n8n = FakeN8n([RUNNING, NOT_FOUND, NOT_FOUND, SUCCESS], lists=NOT_FOUND)
    assert await followed(n8n) == SUCCESS


async def test_a_404_of_an_n8n_that_lists_is_one() -> None:
    with pytest.raises(N8nExecutionGone, match="execution 57"):
        await followed(FakeN8n([RUNNING, NOT_FOUND]))
    assert await followed(FakeN8n([NOT_FOUND, SUCCESS])) == SUCCESS, "it has loaded in between"


async def test_a_wrong_key_is_said_at_once() -> None:
    n8n = FakeN8n([N8nUnauthorized("Unauthorized", status=401)])
    with pytest.raises(N8nUnauthorized):
        await followed(n8n)
    assert n8n.asked == 1


async def test_a_time_limit() -> None:
    begun = time.monotonic()
    with pytest.raises(N8nExecutionUnfinished) as caught:
        await followed(FakeN8n([RUNNING]), timeout=0.1)
    assert 0.1 <= time.monotonic() - begun < 0.5
    assert (caught.value.status, caught.value.link) == ("running", "http://n8n.test/57")


async def test_asking_once() -> None:
    n8n = FakeN8n([CallNotSent("refused"), RUNNING])
    assert await ask(n8n, "57", away_seconds=1) == RUNNING  # type: ignore[arg-type]


def result(**fields: object) -> dict[str, Any]:
    return {"resultData": fields}


FAILED = result(
    lastNodeExecuted="HTTP Request",
    error={
        "message": "It was refused.",
        "description": "By\nthe  server",
        "node": {"name": "HTTP Request"},
    },
)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (
            execution("error", FAILED),
            N8nExecutionFailed,
            "n8n execution 57 failed at node 'HTTP Request': It was refused (By the server).",
        ),
        (execution("error"), N8nExecutionFailed, "n8n execution 57 failed."),
        (execution("canceled"), N8nExecutionCancelled, "n8n execution 57 was stopped."),
        (execution("crashed"), N8nExecutionCrashed, "n8n execution 57 crashed with n8n."),
        (RUNNING, N8nExecutionUnfinished, "n8n execution 57 has not ended."),
        (execution("waiting"), N8nExecutionUnfinished, "n8n execution 57 has not ended."),
        (execution("of a later n8n"), N8nExecutionUnfinished, "n8n execution 57 has not ended."),
    ],
)
def test_each_end_is_an_error(
    given: Execution, kind: type[N8nExecutionError], message: str
) -> None:
    error = failure_of(given, "http://n8n.test/57")
    assert type(error) is kind
    assert error.message == message
    assert str(error) == f"{message} http://n8n.test/57"
    assert (error.execution_id, error.status) == ("57", given.status.value)


def test_a_failure_names_its_node_and_reason() -> None:
    error = failure_of(execution("error", FAILED), None)
    assert error is not None
    assert (error.node, error.reason, error.link) == ("HTTP Request", "It was refused.", None)


def test_a_success_is_none() -> None:
    assert failure_of(SUCCESS, None) is None
