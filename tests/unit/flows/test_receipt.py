"""What operators see of an event: secrets masked, and nothing that a sender can break out of."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_n8n.core.redaction import MASK
from prefect_n8n.core.settings import Settings
from prefect_n8n.flows import receipt
from prefect_n8n.flows.event import WebhookEvent
from prefect_n8n.flows.receipt import MAX_SHOWN, event_link, markdown_of, show_receipt

ROW = UUID("00000000-0000-4000-8000-00000000000a")


def event_of(body: dict[str, Any] | None = None, **changes: Any) -> WebhookEvent:
    values: dict[str, Any] = {
        "id": "evt_1",
        "type": "order.created",
        "body": body or {},
        "headers": {},
        "endpoint": "new_orders",
        "received_at": datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC),
        "trace": None,
        "row_id": ROW,
    }
    return WebhookEvent(**values | changes)


def parts_of(markdown: str) -> tuple[list[str], str]:
    """The table's lines and the text of the one fenced block, read as CommonMark says."""
    table, _, rest = markdown.partition("\n\n")
    lines = re.split(r"\r\n|\r|\n", rest)
    fence = re.fullmatch("(`{3,})json", lines[0])
    assert fence is not None
    end = next(
        i
        for i, line in enumerate(lines[1:], 1)
        if re.fullmatch(f" {{0,3}}`{{{len(fence[1])},}}[ \t]*", line)
    )
    assert lines[end + 1 :] == [""], "something stands behind the block"
    return re.split(r"\r\n|\r|\n", table), "\n".join(lines[1:end])


def test_the_table_and_the_body() -> None:
    table, shown = parts_of(markdown_of(event_of({"total": 12.5, "name": "Zoë"})))
    assert table == [
        "| | |",
        "|---|---|",
        "| Event id | `evt_1` |",
        "| Type | `order.created` |",
        "| Endpoint | `new_orders` |",
        "| Received | `2026-01-02T03:04:05.678+00:00` |",
        "| Trace | `(none)` |",
    ]
    assert json.loads(shown) == {"total": 12.5, "name": "Zoë"}
    assert "Zoë" in shown


def test_secrets_are_masked_and_the_event_is_not_changed() -> None:
    body = {"user": [{"password": "hunter2"}], "note": "kept"}
    text = markdown_of(event_of(body))
    assert "hunter2" not in text
    assert MASK in text
    assert "kept" in text
    assert body == {"user": [{"password": "hunter2"}], "note": "kept"}


TRAPS = ["```\n# out", "`" * 9, "\n```\n", "</pre><script>", "| a |", "````json", "~~~", "\r```\r"]


@pytest.mark.parametrize("trap", TRAPS)
def test_a_body_cannot_leave_its_block(trap: str) -> None:
    body = {trap: [trap, {"a": trap}]}
    _, shown = parts_of(markdown_of(event_of(body)))
    assert json.loads(shown) == body


hostile = st.text(st.sampled_from("`~|\n\r\\<>[]()#ab \u2028"))


@settings(deadline=None)
@given(st.dictionaries(hostile, hostile), hostile, hostile, hostile)
def test_no_sender_can_break_the_picture(
    body: dict[str, str], id: str, type: str, trace: str
) -> None:
    table, shown = parts_of(markdown_of(event_of(body, id=id, type=type, trace=trace)))
    assert json.loads(shown) == body
    assert len(table) == 7
    for line in table[2:]:
        assert re.fullmatch(r"\| [A-Z][a-z ]+ \| `[^`|]*` \|", line)


def test_a_long_body_is_cut_within_its_block() -> None:
    _, shown = parts_of(markdown_of(event_of({"a": "`" * (2 * MAX_SHOWN)})))
    text, _, more = shown.rpartition("\n")
    assert len(text) == MAX_SHOWN
    whole = json.dumps({"a": "`" * (2 * MAX_SHOWN)}, indent=2)
    assert more == f"… {len(whole) - MAX_SHOWN} characters more"


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ({}, "http://127.0.0.1:8788"),
        ({"host": "10.0.0.1", "port": 80}, "http://10.0.0.1:80"),
        ({"public_url": "https://hooks.example.com/"}, "https://hooks.example.com"),
    ],
)
def test_the_link(monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], base: str) -> None:
    monkeypatch.setattr(receipt, "settings", lambda: Settings(**given))
    assert event_link(event_of()) == f"{base}/api/webhooks/n8n/events/{ROW}"


async def test_both_artifacts_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    async def create(**values: Any) -> None:
        made.append(values)

    monkeypatch.setattr(receipt, "acreate_markdown_artifact", create)
    monkeypatch.setattr(receipt, "acreate_link_artifact", create)
    trap = "x](https://evil.example)[y"
    await show_receipt(event_of(id=trap))
    markdown, link = made
    assert markdown["markdown"] == markdown_of(event_of(id=trap))
    # Prefect's rule for keys; and a text that Prefect puts into a markdown link as it is.
    assert [a["key"] for a in made] == ["n8n-new-orders-event", "n8n-new-orders-link"]
    assert link["link"] == event_link(event_of())
    assert "]" not in link["link_text"]


async def test_a_failure_is_logged_and_not_raised(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(**values: Any) -> None:
        raise RuntimeError("Prefect is away")

    monkeypatch.setattr(receipt, "acreate_markdown_artifact", fail)
    with caplog.at_level(logging.WARNING, "prefect_n8n.flows"):
        await show_receipt(event_of())
    assert str(ROW) in caplog.text
