"""Whether deliveries arrived, asked of a real n8n."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from prefect_n8n.blocks.answers import ExecutionStatus, Json
from prefect_n8n.blocks.arrivals import Arrival, find_arrival
from prefect_n8n.blocks.client import N8nClient
from support.bridge import until
from support.n8n import N8n
from support.n8n_calls import (
    FAIL,
    LOOPBACK,
    NOTHING,
    RESUME_URL,
    SAVED,
    SHOWN,
    become,
    deliver,
    headers_of,
    live,
    unlike,
    wait,
)

pytestmark = [pytest.mark.n8n, pytest.mark.xdist_group("n8n")]


@pytest_asyncio.fixture
async def client(n8n: N8n) -> AsyncIterator[N8nClient]:
    async with N8nClient(n8n.url, api_key=n8n.api_key, allowed=LOOPBACK) as made:
        yield made


# Whether a delivery arrived


async def ask(client: N8nClient, path: str, delivery_id: str, since: datetime) -> Arrival:
    target = client.webhook_address(path)
    return await find_arrival(client, target=target, delivery_id=delivery_id, since=since)


@pytest.mark.parametrize("node", [NOTHING, FAIL], ids=["success", "error"])
async def test_arrived(client: N8nClient, n8n: N8n, node: Json) -> None:
    _, path = await live(client, n8n, node)
    since = datetime.now(UTC)
    others = [await deliver(client, path, f"other{number}") for number in range(3)]
    id = await deliver(client, path, "mine")
    await become(client, id, ExecutionStatus.SUCCESS, ExecutionStatus.ERROR)
    found = await ask(client, path, "mine", since)
    assert found.verdict == "arrived", found.reason
    assert found.execution is not None
    assert found.execution.id == id
    assert found.execution.id not in others


async def test_arrived_under_the_standard_header(client: N8nClient, n8n: N8n) -> None:
    workflow, path = await live(client, n8n)
    since = datetime.now(UTC)
    await client.post_webhook(path, b"{}", [(b"webhook-id", b"mine")])
    found = await find_arrival(
        client,
        target=client.webhook_address(path),
        delivery_id="mine",
        since=since,
        workflow_id=workflow,
    )
    assert found.verdict == "arrived", found.reason


async def test_not_arrived(client: N8nClient, n8n: N8n) -> None:
    _, path = await live(client, n8n)
    since = datetime.now(UTC)
    assert (await ask(client, path, "mine", since)).verdict == "not_arrived"
    await become(client, await deliver(client, path, "other"), ExecutionStatus.SUCCESS)
    found = await ask(client, path, "mine", since)
    assert found.verdict == "not_arrived", found.reason


async def test_one_that_runs_shows_only_where_its_progress_is_saved(
    client: N8nClient, n8n: N8n
) -> None:
    since = datetime.now(UTC)
    _, path = await live(client, n8n, wait(30))
    id = await deliver(client, path, "mine")
    await become(client, id, ExecutionStatus.RUNNING)
    found = await ask(client, path, "mine", since)
    assert found.verdict == "not_known"
    assert "Save execution progress" in found.reason

    _, path = await live(client, n8n, wait(30), settings=SHOWN)
    shown = await deliver(client, path, "mine")
    await become(client, shown, ExecutionStatus.RUNNING)
    found = await ask(client, path, "mine", since)
    assert found.verdict == "arrived", found.reason
    assert (await ask(client, path, "another", since)).verdict == "not_arrived"
    for each in (id, shown):
        await client.stop_execution(each)


async def test_one_that_runs_since_long_before_hides_nothing(client: N8nClient, n8n: N8n) -> None:
    _, path = await live(client, n8n, wait(30))
    id = await deliver(client, path, "other")
    await become(client, id, ExecutionStatus.RUNNING)
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert (await ask(client, path, "mine", later)).verdict == "not_arrived"
    await client.stop_execution(id)


async def test_one_that_waits_shows_its_headers(client: N8nClient, n8n: N8n) -> None:
    _, path = await live(client, n8n, wait(70))
    since = datetime.now(UTC)
    id = await deliver(client, path, "mine")
    await become(client, id, ExecutionStatus.WAITING)
    assert (await ask(client, path, "mine", since)).verdict == "arrived"
    assert (await ask(client, path, "another", since)).verdict == "not_arrived"
    await client.stop_execution(id)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"saveDataSuccessExecution": "none"}, "saveDataSuccessExecution"),
        (SAVED | {"saveDataErrorExecution": "none"}, "saveDataErrorExecution"),
        ({}, "never saved"),
    ],
)
async def test_what_is_not_saved_is_not_known(
    client: N8nClient, n8n: N8n, settings: Json, named: str
) -> None:
    _, path = await live(client, n8n, settings=settings)
    since = datetime.now(UTC)
    if settings.get("saveDataSuccessExecution") == "none":
        await deliver(client, path, "mine")
    found = await ask(client, path, "mine", since)
    assert found.verdict == "not_known"
    assert named in found.reason


async def test_a_workflow_that_is_seen_to_save_by_default(client: N8nClient, n8n: N8n) -> None:
    _, path = await live(client, n8n, settings={})
    await become(client, await deliver(client, path, "other"), ExecutionStatus.SUCCESS)
    assert (await ask(client, path, "mine", datetime.now(UTC))).verdict == "not_arrived"


async def test_paths_with_parts_that_vary(client: N8nClient, n8n: N8n) -> None:
    made, _ = await live(client, n8n, path=f"{unlike()}/:customer/orders")
    (node,) = (await client.workflow(made)).live_nodes()
    own = node["parameters"]["path"].replace(":customer", "c 7")
    path = f"{node['webhookId']}/{own}".replace(" ", "%20")
    since = datetime.now(UTC)
    await deliver(client, path, "mine")
    assert (await ask(client, path, "mine", since)).verdict == "arrived"


async def test_what_prevents_an_answer(client: N8nClient, n8n: N8n) -> None:
    since = datetime.now(UTC)
    assert "No workflows" in (await ask(client, unlike(), "mine", since)).reason
    elsewhere = await find_arrival(
        client, target="https://example.com/hook", delivery_id="mine", since=since
    )
    assert (elsewhere.verdict, "/webhook/" in elsewhere.reason) == ("not_known", True)
    async with N8nClient(n8n.url, allowed=LOOPBACK) as keyless:
        found = await ask(keyless, "x", "mine", since)
    assert (found.verdict, "401" in found.reason) == ("not_known", True)
    async with N8nClient("http://127.0.0.1:9", api_key="k", allowed=LOOPBACK) as down:
        found = await ask(down, "x", "mine", since)
    assert (found.verdict, "No connection" in found.reason) == ("not_known", True)


# Whether a callback woke the execution that waits for it


async def waiting(client: N8nClient, n8n: N8n, *after: Json) -> tuple[str, str]:
    """(execution id, resumeUrl) of an execution that waits for a callback."""
    _, path = await live(client, n8n, RESUME_URL, wait(None), *after)
    id = await deliver(client, path, "start")
    execution = await become(client, id, ExecutionStatus.WAITING)
    assert execution.data is not None
    (run,) = execution.data["resultData"]["runData"]["Address"]
    return id, run["data"]["main"][0][0]["json"]["url"]


async def test_a_callback(client: N8nClient, n8n: N8n) -> None:
    since = datetime.now(UTC)
    id, url = await waiting(client, n8n, NOTHING)
    assert (await ask(client, url, "mine", since)).verdict == "not_arrived"
    assert (await client.post_webhook(url, b"{}", headers_of("mine"))).status == 200
    found = await ask(client, url, "mine", since)
    assert found.verdict == "arrived", found.reason
    await become(client, id, ExecutionStatus.SUCCESS)
    assert (await ask(client, url, "mine", since)).verdict == "arrived"
    other = await ask(client, url, "another", since)
    assert (other.verdict, other.reason) == ("not_arrived", "The execution went on without it.")


async def test_a_callback_to_one_that_waits_again(client: N8nClient, n8n: N8n) -> None:
    """It has arrived, although the execution waits: a second call would be taken for the next."""
    since = datetime.now(UTC)
    second = wait(None) | {"name": "Wait again"}
    id, url = await waiting(client, n8n, second)
    await client.post_webhook(url, b"{}", headers_of("mine"))

    async def waits_again() -> bool:
        execution = await client.execution(id, include_data=True)
        assert execution.data is not None
        runs = execution.data["resultData"]["runData"]
        return execution.status == ExecutionStatus.WAITING and "Wait again" in runs

    await until(waits_again)
    assert (await ask(client, url, "mine", since)).verdict == "arrived"
    await client.stop_execution(id)


async def test_a_callback_to_one_that_is_gone(client: N8nClient) -> None:
    url = client.base_url + "/webhook-waiting/999999999?signature=00"
    found = await ask(client, url, "mine", datetime.now(UTC))
    assert (found.verdict, "no longer" in found.reason) == ("not_known", True)
