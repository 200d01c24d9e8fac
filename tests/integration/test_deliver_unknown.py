"""Calls whose outcome is unknown: n8n is asked before anything is sent again."""

from __future__ import annotations

from typing import Any

import pytest

from support.bridge import until
from support.outgoing import Outgoing
from support.target import Answer, Call

pytestmark = pytest.mark.xdist_group("prefect")

LOST_ANSWERS = {
    "reset": Answer(reset=True),
    "swallowed": Answer(delay=60.0),
    "truncated": Answer(202, b"{}", {"content-type": "application/json", "Content-Length": "9999"}),
    "empty": Answer(200, b""),
    "not JSON": Answer(200, b"<p>thanks</p>", {"content-type": "text/html"}),
    "too large": Answer(200, b'"' + b"x" * 1_100_000 + b'"'),
    "gateway": Answer(504, b""),
}


async def waiting(outgoing: Outgoing, row: Any, asked: int = 0) -> None:
    """Wait until the delivery is to be asked about, after ``asked`` questions in vain."""

    async def is_unknown() -> bool:
        found = await outgoing.state(row)
        unknown = sum("unknown" in error for error in found["errors"])
        return found["state"] == "retryable" and unknown == asked + 1

    await until(is_unknown)


@pytest.mark.parametrize("loss", LOST_ANSWERS)
async def test_what_arrived_is_not_sent_again(outgoing: Outgoing, loss: str) -> None:
    await outgoing.endpoint(timeout_seconds=1.0)
    outgoing.target.script = lambda _: LOST_ANSWERS[loss]
    async with outgoing.launcher():
        sent = await outgoing.send()
        await waiting(outgoing, sent.id)
        await outgoing.make_due()
        row = await outgoing.ended(sent.id)
    assert (row["state"], row["attempts"]) == ("completed", 1)
    assert len(outgoing.target.calls) == 1
    (attempt,) = await outgoing.attempts(sent.id)
    assert (attempt["outcome"], attempt["n8n_execution_id"]) == ("delivered", "1")


async def test_what_never_arrived_is_sent_again(outgoing: Outgoing) -> None:
    answers = iter([Answer(reset=True, runs=False), Answer()])
    outgoing.target.script = lambda _: next(answers)
    async with outgoing.launcher():
        sent = await outgoing.send()
        await waiting(outgoing, sent.id)
        await outgoing.make_due()

        async def is_due_again() -> bool:
            return (await outgoing.attempts(sent.id))[0]["outcome"] == "not_sent"

        await until(is_due_again)
        row = await outgoing.ended(sent.id)
    assert row["state"] == "completed"
    assert len(outgoing.target.calls) == 2
    assert outgoing.target.deliveries.total() == 1
    outcomes = [a["outcome"] for a in await outgoing.attempts(sent.id)]
    assert outcomes == ["not_sent", "delivered"]


async def test_while_n8n_cannot_be_asked_nothing_is_sent(outgoing: Outgoing) -> None:
    await outgoing.endpoint(n8n_workflow_id="unknown")
    outgoing.target.script = lambda _: Answer(reset=True)
    async with outgoing.launcher():
        sent = await outgoing.send()
        for asked in range(3):
            await waiting(outgoing, sent.id, asked)
            await outgoing.make_due()
        await waiting(outgoing, sent.id, 3)
        await outgoing.endpoint()
        await outgoing.make_due()
        row = await outgoing.ended(sent.id)
    assert row["state"] == "completed"
    assert len(outgoing.target.calls) == 1


async def test_an_outcome_that_stays_unknown_for_a_day_is_dead(outgoing: Outgoing) -> None:
    await outgoing.endpoint(n8n_workflow_id="unknown")
    outgoing.target.script = lambda _: Answer(reset=True)
    async with outgoing.launcher():
        sent = await outgoing.send()

        async def is_unknown() -> bool:
            attempts = await outgoing.attempts(sent.id)
            return bool(attempts) and attempts[0]["outcome"] == "unknown"

        await until(is_unknown)
        await outgoing.execute(
            "UPDATE prefect_n8n.webhook_attempts SET started_at = now() - interval '25 hours'"
        )
        await outgoing.make_due()
        row = await outgoing.ended(sent.id)
    assert row["state"] == "dead"
    assert row["reason"].startswith("outcome unknown: n8n could not be asked")
    assert len(outgoing.target.calls) == 1


async def test_a_target_that_drops_known_ids_is_sent_to_again(outgoing: Outgoing) -> None:
    await outgoing.endpoint(on_unknown="resend")
    answers = iter([Answer(reset=True), Answer()])
    outgoing.target.script = lambda _: next(answers)
    async with outgoing.launcher():
        sent = await outgoing.send()
        row = await outgoing.ended(sent.id)
    assert row["state"] == "completed"
    assert outgoing.target.asked == 0
    assert {call.id for call in outgoing.target.calls} == {outgoing.target.calls[0].id}
    assert len(outgoing.target.calls) == 2


async def test_an_attempt_left_open_by_a_dead_launcher_is_asked_about(outgoing: Outgoing) -> None:
    """As after kill -9 between the wire and its record."""
    sent = await outgoing.send("order-7")
    async with outgoing.launcher():
        await outgoing.ended(sent.id)
    await outgoing.execute(
        "UPDATE prefect_n8n.webhook_attempts SET outcome = 'open', finished_at = NULL"
    )
    await outgoing.execute(
        "UPDATE prefect_n8n.webhook_events SET state = 'processing', finalized_at = NULL,"
        " lease_owner = 'gone', lease_expires_at = now() - interval '1 second'"
    )
    async with outgoing.launcher():
        row = await outgoing.ended(sent.id)
    assert (row["state"], row["attempts"]) == ("completed", 1)
    assert len(outgoing.target.calls) == 1
    assert [a["outcome"] for a in await outgoing.attempts(sent.id)] == ["delivered"]


async def test_an_outcome_that_is_recorded_needs_no_question(outgoing: Outgoing) -> None:
    """As after kill -9 between the attempt's record and the delivery's end."""
    sent = await outgoing.send("order-7")
    async with outgoing.launcher():
        await outgoing.ended(sent.id)
    await outgoing.execute(
        "UPDATE prefect_n8n.webhook_events SET state = 'processing', finalized_at = NULL,"
        " lease_owner = 'gone', lease_expires_at = now() - interval '1 second'"
    )
    asked = outgoing.target.asked
    async with outgoing.launcher():
        row = await outgoing.ended(sent.id)
    assert row["state"] == "completed"
    assert (len(outgoing.target.calls), outgoing.target.asked) == (1, asked)


async def test_a_target_that_is_not_there_is_no_unknown_outcome(outgoing: Outgoing) -> None:
    await outgoing.endpoint(url="http://127.0.0.1:9/webhook/crm")
    calls: list[Call] = outgoing.target.calls
    async with outgoing.launcher():
        sent = await outgoing.send()
        row = await outgoing.ended(sent.id)
    assert row["state"] == "dead"
    outcomes = {a["outcome"] for a in await outgoing.attempts(sent.id)}
    assert outcomes <= {"not_sent", "refused"}
    assert calls == []
