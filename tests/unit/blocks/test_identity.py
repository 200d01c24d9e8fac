"""Which delivery a call is: the same in every attempt of a run, and another for another call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.context import FlowRunContext, TaskRunContext

from prefect_n8n.blocks import identity
from prefect_n8n.blocks.identity import CLOCK_SLACK, Delivery, identify

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    new_process(monkeypatch)


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what was counted, as a process that is started again does."""
    monkeypatch.setattr(identity, "_occurrences", identity._Occurrences())


@contextmanager
def inside(
    flow: UUID | None = None,
    flow_attempt: int = 1,
    task: UUID | None = None,
    task_attempt: int = 1,
    *,
    task_key: str = "send-1a2b",
    detached: bool = False,
    start: datetime | None = START,
) -> Iterator[None]:
    """Be in a flow run, a task run, or both. Prefect's own contexts need a server."""
    with ExitStack() as stack:
        if flow:
            run = SimpleNamespace(
                id=flow, run_count=flow_attempt, start_time=start, expected_start_time=None
            )
            context = SimpleNamespace(flow_run=run, detached=detached)
            stack.enter_context(holding(FlowRunContext, context))
        if task:
            run = SimpleNamespace(id=task, run_count=task_attempt)
            context = SimpleNamespace(task_run=run, task=SimpleNamespace(task_key=task_key))
            stack.enter_context(holding(TaskRunContext, context))
        yield


@contextmanager
def holding(kind: Any, context: Any) -> Iterator[None]:
    token = kind.__var__.set(context)
    try:
        yield
    finally:
        kind.__var__.reset(token)


def ids(count: int = 1, webhook: str = "orders", content: bytes = b"{}") -> list[str]:
    return [identify(webhook, content).id() for _ in range(count)]


def test_outside_of_a_run_every_call_is_new() -> None:
    made = [identify("orders", b"{}") for _ in range(3)]
    assert len({delivery.id() for delivery in made}) == 3
    assert not any(delivery.again for delivery in made)
    assert all(delivery.flow_run is None for delivery in made)


def test_a_flow_run_that_is_run_again_makes_the_same_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = uuid4()
    with inside(flow):
        first = ids(3)
    for attempt in (2, 3):
        with inside(flow, attempt):
            assert ids(3) == first
    new_process(monkeypatch)
    with inside(flow, 4):
        assert ids(3) == first
    assert len(set(first)) == 3


def test_another_run_task_webhook_or_body_is_another_call() -> None:
    flow, task = uuid4(), uuid4()
    made: list[str] = []
    for place in (
        inside(flow),
        inside(uuid4()),
        inside(flow, task=task),
        inside(flow, task=uuid4(), task_key="other-3c4d"),
        inside(task=task),
    ):
        with place:
            made += ids() + ids(webhook="refunds") + ids(content=b'{"a":1}')
    assert len(set(made)) == len(made)


def test_a_retried_task_makes_the_same_calls() -> None:
    flow, task = uuid4(), uuid4()
    with inside(flow, task=task):
        first = ids(2)
    with inside(flow, task=task, task_attempt=2):
        assert ids(2) == first


def test_of_equal_tasks_each_keeps_its_own() -> None:
    """Mapped over equal bodies: the second one's retry must not find the first one's execution."""
    flow, one, two = uuid4(), uuid4(), uuid4()
    with inside(flow, task=one):
        first = ids()
    with inside(flow, task=two):
        second = ids()
    assert first != second
    with inside(flow, task=two, task_attempt=2):
        assert ids() == second
    with inside(flow, task=one, task_attempt=2):
        assert ids() == first


def test_tasks_of_a_flow_that_is_run_again_find_their_calls_under_new_ids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prefect gives a task another task run then."""
    flow = uuid4()
    with inside(flow, task=uuid4()):
        first = ids(2)
    new_process(monkeypatch)
    with inside(flow, 2, task=uuid4()):
        assert ids(2) == first


def test_in_another_process_the_task_run_tells_calls_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, one, two = uuid4(), uuid4(), uuid4()
    with inside(flow, task=one, detached=True):
        first = ids()
    new_process(monkeypatch)
    with inside(flow, task=two, detached=True):
        assert ids() != first
    with inside(flow, task=one, task_attempt=2, detached=True):
        assert ids() == first


@pytest.mark.parametrize(
    ("flow_attempt", "task_attempt", "again"), [(1, 1, False), (2, 1, True), (1, 2, True)]
)
def test_only_a_later_attempt_looks_back(flow_attempt: int, task_attempt: int, again: bool) -> None:
    flow = uuid4()
    with inside(flow, flow_attempt, uuid4(), task_attempt):
        delivery = identify("orders", b"{}")
    assert delivery.again is again
    assert delivery.since == START - CLOCK_SLACK
    assert delivery.flow_run == str(flow)


def test_a_task_on_its_own_looks_back_a_day() -> None:
    with inside(task=uuid4(), task_attempt=2):
        delivery = identify("orders", b"{}")
    assert delivery.again
    assert delivery.since < datetime.now(UTC) - timedelta(hours=23)


def test_an_event_id_is_taken_as_it_is() -> None:
    with inside(uuid4()):
        assert identify("orders", b"{}", "evt_1").id() == "evt_1"
    assert identify("orders", b"{}", "evt_1").id() == "evt_1"


def test_after_a_failed_execution_the_next_has_a_name_of_its_own() -> None:
    delivery = Delivery("dlv_a", True, START)
    assert [delivery.id(n) for n in range(3)] == ["dlv_a", "dlv_a.2", "dlv_a.3"]


def test_memory_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "MAX_REMEMBERED", 10)
    with inside(uuid4()):
        for n in range(50):
            ids(content=str(n).encode())
    assert len(identity._occurrences._known) == 10


def test_an_id_fits_its_header() -> None:
    with inside(uuid4()):
        (id,) = ids()
    assert id.isascii()
    assert len(id) < 64
