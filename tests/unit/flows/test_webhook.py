"""The decorator: what it takes, what it makes, and what of the user's flow it keeps."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from prefect import Flow, flow
from prefect.flows import InfrastructureBoundFlow
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.callables import parameter_schema

from prefect_n8n.core.errors import EventUnprocessable
from prefect_n8n.flows import webhook as module
from prefect_n8n.flows.event import WebhookEvent
from prefect_n8n.flows.webhook import WebhookFlow, webhook

EVENT = WebhookEvent(
    id="evt_1",
    type="order.created",
    body={"total": 12.5, "note": "n"},
    headers={},
    endpoint="orders",
    received_at=datetime(2026, 1, 2, tzinfo=UTC),
    trace=None,
    row_id=UUID(int=10),
)


@flow
def on_order(event: WebhookEvent, total: float) -> tuple[str, float]:
    """Take an order."""
    return event.id, total


def test_the_flow_it_makes() -> None:
    made = webhook("orders", types=["order.*", "refund"], scheme="hmac")(on_order)
    assert isinstance(made, WebhookFlow)
    assert (made.endpoint, made.types, made.scheme) == ("orders", ("order.*", "refund"), "hmac")
    assert (made.name, made.deployment) == ("on-order", "on-order/orders")
    assert made.handler is on_order
    assert made.handler.fn(event=EVENT, total=1.0) == ("evt_1", 1.0)


def test_defaults() -> None:
    made = webhook()(on_order)
    assert (made.endpoint, made.types, made.scheme) == ("default", ("*",), "standard")
    assert made.deployment == "on-order/default"


def test_the_one_parameter_is_the_event_id() -> None:
    """A body's field as a parameter could read blocks and variables."""
    schema = parameter_schema(webhook("orders")(on_order)).model_dump()
    assert list(schema["properties"]) == schema["required"] == ["event_id"]
    assert schema["properties"]["event_id"]["format"] == "uuid"


def test_what_people_read_is_the_users() -> None:
    made = webhook("orders")(on_order)
    assert (made.fn.__name__, made.fn.__module__) == ("on_order", __name__)
    assert made.fn.__doc__ == made.description == "Take an order."


async def hook(flow: Any, run: Any, state: Any) -> None: ...


def test_options_are_kept() -> None:
    runner = ThreadPoolTaskRunner(max_workers=2)
    options: dict[str, Any] = {
        "name": "Orders!",
        "version": "7",
        "description": "d",
        "flow_run_name": "run",
        "task_runner": runner,
        "retries": 3,
        "retry_delay_seconds": 7,
        "timeout_seconds": 11,
        "persist_result": True,
        "result_serializer": "json",
        "cache_result_in_memory": False,
        "log_prints": True,
    }
    hooks: dict[str, Any] = {
        f"on_{when}": [hook]
        for when in ("completion", "failure", "cancellation", "crashed", "running")
    }
    # An option that Prefect adds belongs here; the parameters are validated by the binding.
    known = set(inspect.signature(Flow).parameters) - {"fn", "validate_parameters"}
    assert known == {*options, *hooks, "result_storage"}
    handler: Flow[..., Any] = flow(**options, **hooks)(on_order.fn)
    made = webhook("orders")(handler)
    for name in options:
        assert getattr(made, name) == getattr(handler, name), name
    for name in hooks:
        assert getattr(made, f"{name}_hooks") == [hook], name
    assert (made.retries, made.timeout_seconds, made.log_prints) == (3, 11, True)


@pytest.mark.parametrize("slug", ["a", "0", "a-b_c", "a" * 63])
def test_slugs(slug: str) -> None:
    assert webhook(slug)(on_order).endpoint == slug


@pytest.mark.parametrize("slug", ["", "A", "a b", "a/b", "-a", "_a", "é", "a" * 64, "a\n", "a.b"])
def test_no_slugs(slug: str) -> None:
    with pytest.raises(ValueError, match="slug"):
        webhook(slug)


@pytest.mark.parametrize("types", ["order.*", "", [], ()])
def test_types_are_a_list(types: Any) -> None:
    with pytest.raises(ValueError, match="globs"):
        webhook("orders", types=types)


@pytest.mark.parametrize("scheme", ["", "HMAC", "none", None])
def test_schemes(scheme: Any) -> None:
    with pytest.raises(ValueError, match="scheme"):
        webhook("orders", scheme=scheme)


def test_types_are_copied() -> None:
    types = ["a"]
    made = webhook("orders", types=types)(on_order)
    types.append("b")
    assert made.types == ("a",)


def test_it_stands_above_flow_and_once() -> None:
    for wrong in (on_order.fn, webhook("orders")(on_order), None):
        with pytest.raises(TypeError, match="above @flow, once"):
            webhook("orders")(wrong)  # type: ignore[arg-type]


def test_infrastructure_bound_flows_are_refused() -> None:
    bound = InfrastructureBoundFlow.__new__(InfrastructureBoundFlow)
    with pytest.raises(TypeError, match="infrastructure-bound"):
        webhook("orders")(bound)


def test_a_function_that_cannot_be_given_is_refused_when_decorated() -> None:
    @flow
    def positional(a: int, /) -> None: ...

    with pytest.raises(TypeError, match="positional"):
        webhook("orders")(positional)


# What the flow does


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[WebhookEvent]:
    """Without ledger and Prefect: the event is there, and its receipts are kept here."""
    receipts: list[WebhookEvent] = []

    async def load(row_id: UUID) -> WebhookEvent:
        assert row_id == EVENT.row_id
        return EVENT

    async def show(event: WebhookEvent) -> None:
        receipts.append(event)

    monkeypatch.setattr(module, "load_event", load)
    monkeypatch.setattr(module, "show_receipt", show)
    return receipts


async def test_the_users_function_gets_the_event(shown: list[WebhookEvent]) -> None:
    made = webhook("orders")(on_order)
    assert await made.fn(EVENT.row_id) == ("evt_1", 12.5)
    assert shown == [EVENT]


async def test_a_failing_run_shows_what_it_received(shown: list[WebhookEvent]) -> None:
    @flow
    def wrong(missing: int) -> None: ...

    @flow
    async def failing(note: str) -> None:
        raise LookupError(note)

    with pytest.raises(EventUnprocessable, match="missing"):
        await webhook("orders")(wrong).fn(EVENT.row_id)
    with pytest.raises(LookupError, match="n"):
        await webhook("orders")(failing).fn(EVENT.row_id)
    assert shown == [EVENT, EVENT]
