"""n8n's answers as models: tolerant of what we do not use, strict about what we do."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_n8n.blocks.answers import (
    WAIT_NODE,
    WEBHOOK_NODE,
    DataTableRow,
    Execution,
    ExecutionFailure,
    ExecutionStatus,
    Tag,
    WebhookAnswer,
    Workflow,
    http_date,
    read_as,
    read_json,
    retry_after,
)

JSON = {"content-type": "application/json"}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def answer(body: bytes, **headers: str) -> WebhookAnswer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return WebhookAnswer(200, named, body, 0.1)


# JSON


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"]
)
def test_json_by_its_type(kind: str) -> None:
    assert answer(b' {"a": [1, "\xc3\xbc"]} ', content_type=kind).json() == {"a": [1, "ü"]}
    assert answer(b"[1]", content_type=kind).json() == [1]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"{}", {}),
        (b"{}", {"content_type": ""}),
        (b"{}", {"content_type": "text/html"}),
        (b"{}", {"content_type": "text/plain; application/json"}),
        (b"{}", {"content_type": "application/jsonp"}),
        (b"{}", {"content_type": "application/json", "content_encoding": "gzip"}),
        (b"n8n is starting up", {"content_type": "application/json"}),
        (b"", {"content_type": "application/json"}),
        (b"{", {"content_type": "application/json"}),
        (b"{} x", {"content_type": "application/json"}),
        (b"NaN", {"content_type": "application/json"}),
        (b"-Infinity", {"content_type": "application/json"}),
        (b'"\xff"', {"content_type": "application/json"}),
        (b"\xff\xfe{\x00}\x00", {"content_type": "application/json"}),
        (b"[" * 201 + b"]" * 201, {"content_type": "application/json"}),
        (b"[" * 500_000, {"content_type": "application/json"}),
        (b'{"a":' * 100_000, {"content_type": "application/json"}),
        (b"9" * 5000, {"content_type": "application/json"}),
    ],
)
def test_what_is_not_json(body: bytes, headers: dict[str, str]) -> None:
    assert answer(body, **headers).json() is None


def test_json_null_is_none_and_a_deep_one_is_read_up_to_a_limit() -> None:
    assert answer(b"null", content_type="application/json").json() is None
    deep = answer(b"[" * 200 + b"]" * 200, content_type="application/json").json()
    assert json.dumps(deep) == "[" * 200 + "]" * 200


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_an_error(body: bytes) -> None:
    with suppress(ValueError):
        read_json(JSON, body)


# Headers


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0), ("7", 7), (" 120 ", 120), ("", None), ("soon", None), ("-1", None), ("1.5", None),
        ("٣", None), ("9" * 10, None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None), ("\x00", None),
    ],
)  # fmt: skip
def test_retry_after(text: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": text}) == seconds


def test_dates() -> None:
    assert retry_after({}) is None
    assert http_date("Wed, 21 Oct 2015 07:28:00 GMT") == datetime(2015, 10, 21, 7, 28, tzinfo=UTC)
    assert http_date("Wed, 21 Oct 2015 07:28:00 -0000") == datetime(2015, 10, 21, 7, 28, tzinfo=UTC)


@given(st.text())
def test_any_header_is_a_time_or_none(text: str) -> None:
    found = http_date(text)
    assert found is None or found.tzinfo is not None
    waits = retry_after({"retry-after": text})
    assert waits is None or waits >= 0


# Executions


def execution(**fields: Any) -> Execution:
    return read_as(Execution, {"id": "7", "workflowId": "w", "status": "success"} | fields)


def run(*items: object, output: int = 0) -> dict[str, Any]:
    """One run of a node that put these out."""
    return {"data": {"main": [[]] * output + [[{"json": item} for item in items]]}}


def ran(last: str | None = None, error: object = None, **nodes: list[Any]) -> dict[str, Any]:
    """An execution's data."""
    return {
        "data": {"resultData": {"runData": nodes, "lastNodeExecuted": last, "error": error}},
        "workflowData": {
            "nodes": [
                {"name": "Webhook", "type": WEBHOOK_NODE},
                {"name": "Wait", "type": WAIT_NODE},
                {"name": "Set", "type": "n8n-nodes-base.set"},
            ]
        },
    }


def test_a_light_execution() -> None:
    made = execution(
        id=57,
        mode="webhook",
        retryOf=None,
        startedAt="2026-11-25T04:08:58.594Z",
        stoppedAt=None,
        waitTill=None,
        finished=True,
        newField={"a": 1},
    )
    assert (made.id, made.workflow_id, made.status) == ("57", "w", ExecutionStatus.SUCCESS)
    assert made.started_at == datetime(2026, 11, 25, 4, 8, 58, 594000, tzinfo=UTC)
    assert (made.stopped_at, made.wait_till, made.retry_of, made.data) == (None, None, None, None)
    assert (made.error, made.last_output(), made.webhook_headers()) == (None, [], None)
    with pytest.raises(ValidationError):
        made.status = ExecutionStatus.ERROR  # type: ignore[misc]


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        ("new", False), ("running", False), ("waiting", False), ("unknown", False),
        ("success", True), ("error", True), ("canceled", True), ("crashed", True),
    ],
)  # fmt: skip
def test_states(status: str, ended: bool) -> None:
    assert execution(status=status).status == status
    assert execution(status=status).ended is ended


def test_a_state_of_a_later_n8n_is_unknown() -> None:
    assert execution(status="paused").status == ExecutionStatus.UNKNOWN


@pytest.mark.parametrize(
    "fields",
    [
        {"id": None}, {"id": ""}, {"id": []}, {"id": True}, {"id": "x" * 201}, {"workflowId": None},
        {"status": None}, {"status": 7}, {"status": ["success"]}, {"startedAt": "yesterday"},
        {"startedAt": "2026-11-25T04:08:58"}, {"data": "x"}, {"data": []}, {"workflowData": 7},
    ],
)  # fmt: skip
def test_a_field_of_another_type_is_named_without_its_value(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the answer is no Execution: ") as caught:
        execution(**fields)
    (name,) = fields
    assert name in str(caught.value)
    assert "yesterday" not in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "x", 7, {}, {"id": "1"}])
def test_what_is_no_model(value: object) -> None:
    for model in (Execution, Workflow, Tag, DataTableRow):
        with pytest.raises(ValueError, match="the answer is no"):
            read_as(model, value)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (None, None),
        ("text", None),
        ({"message": "boom", "node": {"name": "Fail"}}, ExecutionFailure("boom", "Fail")),
        (
            {"message": "boom", "node": "Fail", "description": "more"},
            ExecutionFailure("boom", "Fail", "more"),
        ),
        ({"message": "boom"}, ExecutionFailure("boom", "Set")),
        ({"name": "WorkflowCrashedError"}, ExecutionFailure("WorkflowCrashedError", "Set")),
        ({}, ExecutionFailure("no message", "Set")),
        ({"message": 7, "node": {"name": 7}}, ExecutionFailure("7", "7")),
        ({"message": "x", "node": {}}, ExecutionFailure("x", "Set")),
    ],
)
def test_errors(error: object, failure: ExecutionFailure | None) -> None:
    assert execution(**ran("Set", error)).error == failure


def test_the_last_output() -> None:
    made = execution(**ran("Set", Webhook=[run({"a": 1})], Set=[run({"b": 1}), run({"c": 1}, {})]))
    assert made.last_output() == [{"c": 1}, {}]
    branch = execution(**ran("Set", Set=[run({"no": 1}, output=1)]))
    assert branch.last_output() == [{"no": 1}], "of the output that was taken"
    assert execution(**ran("Gone", Set=[run({"a": 1})])).last_output() == []
    assert execution(**ran(None, Set=[run({"a": 1})])).last_output() == []
    assert execution(**ran("Set", Set=[{"error": {}}])).last_output() == []


def test_the_webhooks_headers() -> None:
    headers = {"webhook-id": "d_1", "set-cookie": ["a"], "x": 7}
    made = execution(**ran("Set", Webhook=[run({"headers": headers})]))
    assert made.webhook_headers() == {"webhook-id": "d_1"}
    assert execution(**ran("Set", Webhook=[run({"body": 1})])).webhook_headers() is None
    assert execution(**ran("Set", Set=[run({"headers": headers})])).webhook_headers() is None
    waits = [run({"headers": {"a": "2"}}), run({"headers": {"a": "3"}})]
    both = execution(**ran("Wait", Webhook=[run({"headers": {"a": "1"}})], Wait=waits))
    assert [h["a"] for h in both.received_headers(WAIT_NODE)] == ["2", "3"]


@given(anything, anything)
def test_any_data_is_read_without_an_error(data: Any, workflow: Any) -> None:
    for inner in (data, {"resultData": data}, {"resultData": {"runData": data}}):
        fields: dict[str, Any] = {"data": inner if isinstance(inner, dict) else None}
        if isinstance(workflow, dict):
            fields["workflowData"] = workflow
        made = execution(**fields)
        _ = made.error, made.last_output(), made.webhook_headers()


@given(anything)
def test_any_run_is_read_without_an_error(inner: Any) -> None:
    for each in (inner, [inner], {"data": inner}, [{"data": {"main": inner}}],
                 [{"data": {"main": [inner]}}], [{"data": {"main": [[inner]]}}]):  # fmt: skip
        made = execution(**ran("Set", Set=each, Webhook=each))
        for item in made.last_output():
            assert isinstance(item, dict)
        made.webhook_headers()


# The others


def test_what_is_live_is_the_published_version() -> None:
    fields = {"id": "w", "name": "W", "nodes": [{"name": "draft"}], "settings": None, "tags": []}
    assert read_as(Workflow, fields).live_nodes() == [{"name": "draft"}]
    assert read_as(Workflow, fields).settings == {}
    published = fields | {"activeVersion": {"nodes": [{"name": "live"}, "junk"]}}
    assert read_as(Workflow, published).live_nodes() == [{"name": "live"}]


def test_a_rows_columns_are_apart_from_its_own_fields() -> None:
    at = "2026-11-25T04:08:58.594Z"
    row = read_as(DataTableRow, {"id": 3, "createdAt": at, "updatedAt": at, "values": 1, "n": None})
    assert (row.id, row.values) == (3, {"values": 1, "n": None})
    with pytest.raises(ValueError, match="createdAt"):
        read_as(DataTableRow, {"id": 3, "updatedAt": at})
