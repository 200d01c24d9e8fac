"""Every call of the client on a real n8n."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from prefect_n8n.blocks.answers import ExecutionStatus, Json
from prefect_n8n.blocks.client import N8nClient
from prefect_n8n.core.errors import (
    CallRefused,
    N8nConflict,
    N8nNotFound,
    N8nRequestInvalid,
    N8nUnauthorized,
)
from prefect_n8n.core.urls import AllowList
from support.n8n import N8n
from support.n8n_calls import (
    FAIL,
    LOOPBACK,
    SAVED,
    become,
    chain,
    deliver,
    live,
    unlike,
    wait,
)

pytestmark = [pytest.mark.n8n, pytest.mark.xdist_group("n8n")]


@pytest_asyncio.fixture
async def client(n8n: N8n) -> AsyncIterator[N8nClient]:
    async with N8nClient(n8n.url, api_key=n8n.api_key, allowed=LOOPBACK) as made:
        yield made


# Workflows and tags


async def test_workflows(client: N8nClient, n8n: N8n) -> None:
    name, path = unlike(), unlike()
    placed, joined = chain(
        {
            "name": "Webhook",
            "type": "n8n-nodes-base.webhook",
            "typeVersion": 2.1,
            "webhookId": uuid4().hex,
            "parameters": {"httpMethod": "POST", "path": path},
        }
    )
    made = await client.create_workflow(name, placed, joined, SAVED)
    assert (made.name, made.active, made.settings) == (name, False, SAVED)
    assert [w.id async for w in client.workflows(name=name)] == [made.id]
    assert [w.id async for w in client.workflows(name=name, active=True)] == []

    changed = await client.update_workflow(
        made.id, name=name + "2", nodes=placed, connections=joined
    )
    assert (changed.id, changed.name) == (made.id, name + "2")

    assert (await client.activate_workflow(made.id)).active
    read = await client.workflow(made.id)
    assert read.active
    assert [node["parameters"]["path"] for node in read.live_nodes()] == [path]
    assert not (await client.deactivate_workflow(made.id)).active

    label = unlike()
    tag = await client.create_tag(label)
    assert tag.name == label
    assert [t.id async for t in client.tags() if t.name == label] == [tag.id]
    with pytest.raises(N8nConflict):
        await client.create_tag(label)
    assert await client.set_workflow_tags(made.id, [tag.id]) == [tag]
    assert [w.tags async for w in client.workflows(tags=[label])] == [[tag]]
    assert await client.set_workflow_tags(made.id, []) == []


async def test_errors_are_n8ns_own(client: N8nClient, n8n: N8n) -> None:
    with pytest.raises(N8nNotFound) as missing:
        await client.workflow("nosuch")
    assert (missing.value.status, missing.value.target) == (404, n8n.url)
    with pytest.raises(N8nNotFound):
        await client.execution("999999999")
    with pytest.raises(N8nRequestInvalid, match="nodes"):
        await client.ask("POST", "/workflows", body={"name": "x"})
    with pytest.raises(N8nRequestInvalid):
        await client.activate_workflow((await client.create_workflow("empty", [], {})).id)
    for key in (None, "wrong"):
        async with N8nClient(n8n.url, api_key=key, allowed=LOOPBACK) as other:
            with pytest.raises(N8nUnauthorized) as refused:
                await other.workflow("x")
            assert refused.value.status == 401
    async with N8nClient(n8n.url, api_key=n8n.api_key, allowed=AllowList()) as guarded:
        with pytest.raises(CallRefused, match="PREFECT_N8N_ALLOWED_TARGETS"):
            await guarded.workflow("x")


# Executions


async def test_executions(client: N8nClient, n8n: N8n) -> None:
    workflow, path = await live(client, n8n)
    ids = [await deliver(client, path, f"d{number}") for number in range(5)]
    for id in ids:
        await become(client, id, ExecutionStatus.SUCCESS)

    listed = [e async for e in client.executions(workflow_id=workflow)]
    assert [e.id for e in listed] == ids[::-1], "the newest first"
    assert {e.workflow_id for e in listed} == {workflow}
    assert all(e.data is None for e in listed)

    middle = listed[2].started_at
    assert middle is not None
    after = client.executions(workflow_id=workflow, started_after=middle)
    assert {e.id async for e in after} <= set(ids[2:])
    before = client.executions(workflow_id=workflow, started_before=middle)
    assert {e.id async for e in before} <= set(ids[:3])
    with_data = client.executions(workflow_id=workflow, status="success", include_data=True)
    assert [(e.webhook_headers() or {})["x-prefect-n8n-delivery"] async for e in with_data] == [
        "d4", "d3", "d2", "d1", "d0"
    ]  # fmt: skip

    one = await client.execution(ids[0], include_data=True)
    assert (one.status, one.mode, one.ended, one.error) == ("success", "webhook", True, None)
    assert one.last_output()[0]["body"] == {"n": 1}
    assert client.execution_link(one) == f"{n8n.url}/workflow/{workflow}/executions/{ids[0]}"


async def test_executions_over_several_pages(
    client: N8nClient, n8n: N8n, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_n8n.blocks.api.PAGE", 2)
    workflow, path = await live(client, n8n)
    ids = [await deliver(client, path, f"d{number}") for number in range(5)]
    for id in ids:
        await become(client, id, ExecutionStatus.SUCCESS)
    assert [e.id async for e in client.executions(workflow_id=workflow)] == ids[::-1]


async def test_a_failure_names_message_and_node(client: N8nClient, n8n: N8n) -> None:
    _, path = await live(client, n8n, FAIL)
    failed = await become(client, await deliver(client, path, "d"), ExecutionStatus.ERROR)
    assert failed.error is not None
    assert (failed.error.message, failed.error.node) == ("No such customer.", "Fail")
    retried = await client.retry_execution(failed.id)
    assert (retried.retry_of, retried.mode, retried.status) == (failed.id, "retry", "error")
    assert retried.id != failed.id
    with pytest.raises(N8nConflict):
        await client.stop_execution(failed.id)


async def test_stop(client: N8nClient, n8n: N8n) -> None:
    workflow, path = await live(client, n8n, wait(30))
    id = await deliver(client, path, "d")
    await become(client, id, ExecutionStatus.RUNNING)
    running = client.executions(workflow_id=workflow, status=ExecutionStatus.RUNNING)
    assert [e.id async for e in running] == [id]
    stopped = await client.stop_execution(id)
    assert (stopped.id, stopped.status, stopped.ended) == (id, "canceled", True)

    _, path = await live(client, n8n, wait(None))
    id = await deliver(client, path, "d")
    await become(client, id, ExecutionStatus.WAITING)
    assert (await client.stop_execution(id)).status == ExecutionStatus.CANCELED


async def test_a_success_is_not_retried(client: N8nClient, n8n: N8n) -> None:
    _, path = await live(client, n8n)
    done = await become(client, await deliver(client, path, "d"), ExecutionStatus.SUCCESS)
    with pytest.raises(N8nConflict, match="succeeded"):
        await client.retry_execution(done.id)


# Data tables


async def test_data_tables(client: N8nClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect_n8n.blocks.api.PAGE", 2)
    name = unlike()
    table = await client.create_data_table(name, {"key": "string", "n": "number", "ok": "boolean"})
    assert [(c.name, c.type) for c in table.columns] == [
        ("key", "string"), ("n", "number"), ("ok", "boolean")
    ]  # fmt: skip
    assert [t.id async for t in client.data_tables(name=name)] == [table.id]
    assert (await client.data_table(table.id)).name == name
    with pytest.raises(N8nConflict):
        await client.create_data_table(name, {"key": "string"})

    put = await client.insert_rows(
        table.id, [{"key": f"k{n}", "n": n, "ok": n % 2 == 0} for n in range(5)]
    )
    assert [row.values["key"] for row in put] == ["k0", "k1", "k2", "k3", "k4"]
    assert put[0].created_at.tzinfo is not None

    sorted_rows = [row.values["n"] async for row in client.rows(table.id, sort="n:desc")]
    assert sorted_rows == [4, 3, 2, 1, 0]
    assert [row.values["key"] async for row in client.rows(table.id, where=only("key", "k3"))] == [
        "k3"
    ]

    (changed,) = await client.update_rows(table.id, only("key", "k3"), {"n": 33})
    assert (changed.id, changed.values["n"]) == (put[3].id, 33)
    assert await client.update_rows(table.id, only("key", "none"), {"n": 1}) == []
    (upserted,) = await client.upsert_row(table.id, only("key", "k3"), {"key": "k3", "n": 34})
    assert (upserted.id, upserted.values["n"]) == (put[3].id, 34)
    (inserted,) = await client.upsert_row(table.id, only("key", "k9"), {"key": "k9", "n": 9})
    assert inserted.id > put[4].id

    gone = await client.delete_rows(table.id, only("key", "k0"))
    assert [row.id for row in gone] == [put[0].id]
    assert await client.delete_rows(table.id, only("key", "k0")) == []
    assert len([row async for row in client.rows(table.id)]) == 5


def only(column: str, value: Any) -> Json:
    """n8n's filter for one value of a column."""
    return {
        "type": "and",
        "filters": [{"columnName": column, "condition": "eq", "value": value}],
    }
