"""Deliveries from a committed row to the target's answer, on a real PostgreSQL and Prefect."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from prefect.states import Cancelling

from prefect_n8n.core.errors import ConfigurationError, EventUnprocessable
from prefect_n8n.core.settings import DEFAULT_TENANT
from prefect_n8n.core.signing import StandardScheme, claim_of, verify
from prefect_n8n.flows.deliver import deliver
from prefect_n8n.ledger.configuration import set_state
from prefect_n8n.ledger.kinds import ENDPOINTS
from prefect_n8n.ledger.states import EndpointState
from support.bridge import until
from support.outgoing import SECRET, Outgoing
from support.target import Answer, Call

pytestmark = pytest.mark.xdist_group("prefect")

HTML = {"content-type": "text/html"}


async def test_a_delivery_reaches_its_target_signed_and_is_accounted_for(
    outgoing: Outgoing,
) -> None:
    async with outgoing.launcher():
        sent = await outgoing.send("order-7", total=12.5)
        row = await outgoing.ended(sent.id)

    assert (row["state"], row["attempts"], row["reason"]) == ("completed", 1, None)
    (call,) = outgoing.target.calls
    assert call.body == b'{"total": 12.5}'
    pairs = [(name.encode(), value.encode()) for name, value in call.headers.items()]
    claim = claim_of(StandardScheme(), pairs)
    assert verify(claim, call.body, [SECRET.encode()], now=int(claim.timestamp or 0))
    assert call.id == call.headers["webhook-id"] == "order-7"
    (attempt,) = await outgoing.attempts(sent.id)
    assert (attempt["outcome"], attempt["status"], attempt["number"]) == ("delivered", 202, 1)
    assert attempt["n8n_execution_id"] == "1"
    assert bytes(attempt["body"]) == b'{"execution_id": "1"}'
    assert call.headers["x-prefect-flow-run"] == str(attempt["flow_run_id"])
    run = await outgoing.bridge.run(attempt["flow_run_id"])
    assert run.state is not None
    assert (run.state.name, run.state.message) == ("Completed", "1 delivered")
    assert await outgoing.audited(f"event/{sent.id}") == ["event.recorded", "event.completed"]


async def test_many_go_in_few_runs_and_not_too_many_at_once(outgoing: Outgoing) -> None:
    await outgoing.endpoint(max_in_flight=3)
    outgoing.target.script = lambda _: Answer(delay=0.02)
    rows = [(await outgoing.send()).id for _ in range(40)]
    async with outgoing.launcher():
        for row in rows:
            assert (await outgoing.ended(row))["state"] == "completed"
    assert outgoing.target.most_busy <= 3
    assert set(outgoing.target.deliveries.values()) == {1}
    runs = {(await outgoing.attempts(row))[0]["flow_run_id"] for row in rows}
    assert len(runs) <= 3


@pytest.mark.parametrize(
    "failure",
    [
        Answer(500, runs=False),
        Answer(404, runs=False),
        Answer(503, runs=False),
        Answer(200, b"n8n is starting up. Please wait", HTML, runs=False),
    ],
    ids=["500", "404", "503", "starting"],
)
async def test_a_failed_attempt_is_tried_again_within_the_run(
    outgoing: Outgoing, failure: Answer
) -> None:
    answers = iter([failure, failure, Answer()])
    outgoing.target.script = lambda _: next(answers)
    async with outgoing.launcher():
        sent = await outgoing.send()
        row = await outgoing.ended(sent.id)
    assert (row["state"], row["attempts"]) == ("completed", 3)
    attempts = await outgoing.attempts(sent.id)
    assert [a["outcome"] for a in attempts] == ["failed", "failed", "delivered"]
    assert len({a["flow_run_id"] for a in attempts}) == 1
    assert [call.attempt for call in outgoing.target.calls] == [1, 2, 3]


async def test_a_long_retry_is_a_row_that_comes_due(outgoing: Outgoing) -> None:
    await outgoing.endpoint(retry_policy={"schedule": [0, 3600, 3600]})
    answers = iter([Answer(500, runs=False), Answer()])
    outgoing.target.script = lambda _: next(answers)
    async with outgoing.launcher():
        sent = await outgoing.send()

        async def waits() -> bool:
            return (await outgoing.state(sent.id))["state"] == "retryable"

        await until(waits)
        row = await outgoing.state(sent.id)
        seconds = (row["scheduled_at"] - row["received_at"]).total_seconds()
        assert 0.8 * 3600 <= seconds <= 1.2 * 3600 + 30
        assert row["errors"] == ["the target answered 500"]
        assert row["lease_owner"] is None
        await outgoing.make_due()
        assert (await outgoing.ended(sent.id))["state"] == "completed"
    runs = {a["flow_run_id"] for a in await outgoing.attempts(sent.id)}
    assert len(runs) == 2


async def test_when_the_schedule_is_used_up_it_is_dead(outgoing: Outgoing) -> None:
    outgoing.target.script = lambda _: Answer(500, runs=False)
    async with outgoing.launcher():
        sent = await outgoing.send()
        row = await outgoing.ended(sent.id)
    assert (row["state"], row["attempts"]) == ("dead", 3)
    assert row["reason"] == "3 attempts failed; the last: the target answered 500"
    assert len(outgoing.target.calls) == 3
    run = await outgoing.bridge.run((await outgoing.attempts(sent.id))[0]["flow_run_id"])
    assert run.state is not None
    assert (run.state.name, run.state.message) == ("Failed", "1 dead")


@pytest.mark.parametrize("status", [301, 307, 400, 401, 403, 413, 422])
async def test_what_would_be_answered_again_is_not_tried_again(
    outgoing: Outgoing, status: int
) -> None:
    headers = {"location": "http://169.254.169.254/latest"}
    outgoing.target.script = lambda _: Answer(status, b"", headers, runs=False)
    async with outgoing.launcher():
        sent = await outgoing.send()
        row = await outgoing.ended(sent.id)
    assert row["state"] == "dead"
    assert str(status) in row["reason"]
    assert len(outgoing.target.calls) == 1


async def test_a_target_that_asks_for_patience_gets_it_and_spends_no_attempt(
    outgoing: Outgoing,
) -> None:
    answers = iter([Answer(429, b"", {"retry-after": "120"}, runs=False), Answer()])
    outgoing.target.script = lambda _: next(answers)
    async with outgoing.launcher():
        sent = await outgoing.send()

        async def waits() -> bool:
            row = await outgoing.state(sent.id)
            return row["state"] == "pending" and row["scheduled_at"] > row["received_at"]

        await until(waits)
        row = await outgoing.state(sent.id)
        assert row["attempts"] == 0
        assert (row["scheduled_at"] - row["received_at"]).total_seconds() >= 120
        await outgoing.make_due()
        row = await outgoing.ended(sent.id)
    assert (row["state"], row["attempts"]) == ("completed", 1)
    outcomes = [a["outcome"] for a in await outgoing.attempts(sent.id)]
    assert outcomes == ["snoozed", "delivered"]


async def test_a_target_that_is_gone_is_disabled_and_holds_the_rest(outgoing: Outgoing) -> None:
    outgoing.target.script = lambda _: Answer(410, b"", runs=False)
    async with outgoing.launcher():
        gone = await outgoing.send()
        assert (await outgoing.ended(gone.id))["state"] == "dead"
        health = await outgoing.health()
        assert (health["state"], health["state_reason"]) == (
            "disabled",
            "the target answered 410: gone for good",
        )
        held = await outgoing.send()
        outgoing.target.script = lambda _: Answer()
        async with outgoing.bridge.database.transaction(DEFAULT_TENANT) as connection:
            await set_state(
                connection, DEFAULT_TENANT, ENDPOINTS, "crm", EndpointState.ON, actor="test"
            )
        assert (await outgoing.ended(held.id))["state"] == "completed"
    assert len(outgoing.target.calls) == 2


async def test_a_paused_endpoint_holds_and_loses_nothing(outgoing: Outgoing) -> None:
    async with outgoing.bridge.database.transaction(DEFAULT_TENANT) as connection:
        await set_state(
            connection, DEFAULT_TENANT, ENDPOINTS, "crm", EndpointState.PAUSED, actor="test"
        )
    await outgoing.endpoint("other")
    async with outgoing.launcher():
        held = await outgoing.send()
        other = await outgoing.send(endpoint="other")
        await outgoing.ended(other.id)
        assert (await outgoing.state(held.id))["state"] == "pending"
        async with outgoing.bridge.database.transaction(DEFAULT_TENANT) as connection:
            await set_state(
                connection, DEFAULT_TENANT, ENDPOINTS, "crm", EndpointState.ON, actor="test"
            )
        assert (await outgoing.ended(held.id))["state"] == "completed"


async def test_a_target_that_is_not_allowed_is_refused_on_save(outgoing: Outgoing) -> None:
    with pytest.raises(ConfigurationError, match=r"169\.254\.169\.254"):
        await outgoing.endpoint(url="http://169.254.169.254/latest/meta-data")


async def test_a_target_that_is_not_allowed_is_never_called(outgoing: Outgoing) -> None:
    """Also where it was allowed when the endpoint was saved."""
    await outgoing.execute(
        "UPDATE prefect_n8n.webhook_endpoints SET url = 'http://169.254.169.254/latest/meta-data'"
    )
    async with outgoing.launcher():
        sent = await outgoing.send()
        row = await outgoing.ended(sent.id)
    assert row["state"] == "dead"
    (attempt,) = await outgoing.attempts(sent.id)
    assert (attempt["outcome"], attempt["body"], attempt["status"]) == ("refused", None, None)


async def test_secrets_in_an_answer_are_not_kept(outgoing: Outgoing) -> None:
    headers = {"content-type": "application/json", "set-cookie": "session=abc", "x-kept": "yes"}
    outgoing.target.script = lambda _: Answer(202, b"{}", headers)
    async with outgoing.launcher():
        sent = await outgoing.send()
        await outgoing.ended(sent.id)
    (attempt,) = await outgoing.attempts(sent.id)
    assert attempt["headers"]["x-kept"] == "yes"
    assert attempt["headers"]["set-cookie"] == "********"


async def test_of_a_large_answer_the_beginning_is_kept(outgoing: Outgoing) -> None:
    body = b'{"a": "' + b"x" * 100_000 + b'"}'
    outgoing.target.script = lambda _: Answer(202, body)
    async with outgoing.launcher():
        sent = await outgoing.send()
        assert (await outgoing.ended(sent.id))["state"] == "completed"
    (attempt,) = await outgoing.attempts(sent.id)
    assert bytes(attempt["body"]) == body[:16_384]


async def test_replicas_share_the_work_and_deliver_once(outgoing: Outgoing) -> None:
    rows = [(await outgoing.send()).id for _ in range(60)]
    async with outgoing.launcher(), outgoing.launcher():
        for row in rows:
            assert (await outgoing.ended(row))["state"] == "completed"
    assert outgoing.target.deliveries.total() == len(rows) == len(outgoing.target.deliveries)


async def test_cancelling_its_run_in_prefect_cancels_a_delivery(outgoing: Outgoing) -> None:
    outgoing.target.script = lambda _: Answer(delay=30.0)
    await outgoing.endpoint(timeout_seconds=60.0)
    async with outgoing.launcher():
        sent = await outgoing.send()

        async def called() -> bool:
            return bool(outgoing.target.calls)

        await until(called)
        (attempt,) = await outgoing.attempts(sent.id)
        await outgoing.bridge.client.set_flow_run_state(attempt["flow_run_id"], Cancelling())
        row = await outgoing.ended(sent.id)

        async def cancelled() -> bool:
            run = await outgoing.bridge.run(attempt["flow_run_id"])
            return run.state is not None and run.state.is_cancelled()

        await until(cancelled)
    assert (row["state"], row["reason"]) == ("cancelled", "cancelled in Prefect")


async def test_a_body_is_sent_as_it_was_recorded(outgoing: Outgoing) -> None:
    async with outgoing.launcher():
        sent = await outgoing.send(text="ünï \U0001f600", numbers=[1.0, 1e300, 12345678901234567])
        await outgoing.ended(sent.id)
    (call,) = outgoing.target.calls
    row = await outgoing.state(sent.id)
    assert bytes(row["body"]) == call.body
    assert hashlib.sha256(call.body).digest() == bytes(row["body_hash"])


async def test_a_run_that_nobody_leads_does_nothing(outgoing: Outgoing) -> None:
    sent = await outgoing.send()
    with pytest.raises(EventUnprocessable, match="redrive"):
        await deliver([sent.id])
    assert outgoing.target.calls == []


async def test_a_slow_delivery_does_not_hold_up_the_others(outgoing: Outgoing) -> None:
    slow = asyncio.Event()

    def script(call: Call) -> Answer:
        return Answer(delay=4.0) if call.id == "slow" else Answer()

    outgoing.target.script = script
    async with outgoing.launcher():
        first = await outgoing.send("slow")

        async def called() -> bool:
            return bool(outgoing.target.calls)

        await until(called)
        rows = [(await outgoing.send()).id for _ in range(5)]
        for row in rows:
            await outgoing.ended(row)
        assert (await outgoing.state(first.id))["state"] == "processing"
        slow.set()
        assert (await outgoing.ended(first.id))["state"] == "completed"
