"""A flow run that is cancelled or times out stops the n8n execution that it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from prefect import flow, task

from prefect_n8n.flows.calling import call
from support.n8n import N8n, Workflow, node_of
from support.n8n_receiving import Receiving, bare, receiving, sleeping

pytestmark = [
    pytest.mark.n8n,
    pytest.mark.xdist_group("n8n"),
    pytest.mark.usefixtures("calls_n8n", "prefect"),
]

BODY: dict[str, Any] = {"order_id": "o-1"}


def waiting_sync(there: Receiving) -> Callable[[], None]:
    """A user's sync function that calls n8n and waits."""

    def caller() -> None:
        run: Any = there.block.trigger(BODY)
        run.wait_for_completion()

    return caller


def waiting_async(there: Receiving) -> Callable[[], Awaitable[None]]:
    """A user's async function that calls n8n and waits."""

    async def caller() -> None:
        run = await there.block.atrigger(BODY)
        await run.await_for_completion()

    return caller


async def test_a_cancelled_flow(n8n: N8n) -> None:
    async with receiving(n8n, sleeping(60)) as there:
        running = asyncio.create_task(flow(waiting_async(there))())
        await there.until_running()
        await asyncio.sleep(1)
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
        assert (await there.ended()).status == "canceled"


async def test_a_cancelled_task_of_a_flow(n8n: N8n) -> None:
    async with receiving(n8n, sleeping(60)) as there:
        send = task(waiting_async(there))

        @flow
        async def caller() -> None:
            await send()

        running = asyncio.create_task(caller())
        await there.until_running()
        await asyncio.sleep(1)
        running.cancel()
        await asyncio.wait([running])
        assert (await there.ended()).status == "canceled"


@pytest.mark.parametrize("kind", [waiting_sync, waiting_async])
async def test_a_function_that_our_launcher_cancels(n8n: N8n, kind: Any) -> None:
    """A sync one runs in a thread, in an async flow."""

    @flow
    async def entry() -> None:
        await call(kind(there), {})

    async with receiving(n8n, sleeping(60)) as there:
        running = asyncio.create_task(entry())
        await there.until_running()
        await asyncio.sleep(1)
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
        assert (await there.ended()).status == "canceled"


async def test_an_async_flow_that_times_out(n8n: N8n) -> None:
    async with receiving(n8n, sleeping(60)) as there:
        state = await flow(waiting_async(there), timeout_seconds=3)(return_state=True)
        assert state.name == "TimedOut"
        assert (await there.ended()).status == "canceled"


async def test_a_sync_flow_that_times_out(n8n: N8n) -> None:
    async with receiving(n8n, sleeping(60)) as there:
        timed = flow(waiting_sync(there), timeout_seconds=3)
        state = await asyncio.to_thread(timed, return_state=True)
        assert state.name == "TimedOut"
        assert (await there.ended()).status == "canceled"


async def test_a_task_that_times_out(n8n: N8n) -> None:
    async with receiving(n8n, sleeping(60)) as there:
        send = task(waiting_async(there), timeout_seconds=3)

        @flow
        async def caller() -> None:
            await send()

        assert (await caller(return_state=True)).is_failed()
        assert (await there.ended()).status == "canceled"


async def test_a_time_limit_of_asyncio(n8n: N8n) -> None:
    async with receiving(n8n, sleeping(60)) as there:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await waiting_async(there)()
        assert (await there.ended()).status == "canceled"


async def test_what_is_cancelled_while_it_starts(n8n: N8n) -> None:
    """The webhook answers with its last node: the call lasts as long as the execution."""

    def last_node(workflow: Workflow) -> None:
        node_of(workflow, "Webhook")["parameters"]["responseMode"] = "lastNode"
        bare(workflow)

    async with receiving(n8n, sleeping(60), change=last_node) as there:
        running = asyncio.create_task(flow(waiting_async(there))())
        await there.until_running()
        running.cancel()
        await asyncio.wait([running])
        assert (await there.ended()).status == "canceled"


async def test_a_second_cancel_does_not_stop_the_stopping(n8n: N8n) -> None:
    async with receiving(n8n, sleeping(60)) as there:
        running = asyncio.create_task(waiting_async(there)())
        await there.until_running()
        await asyncio.sleep(1)
        for _ in range(3):
            running.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([running])
        assert (await there.ended()).status == "canceled"


async def test_other_failures_of_the_flow_leave_it_running(n8n: N8n) -> None:
    """A task that fails beside it is retried, and finds it."""

    async def caller() -> None:
        await there.block.atrigger(BODY)
        raise ValueError("something else")

    async with receiving(n8n, sleeping(2)) as there:
        state = await flow(caller)(return_state=True)
        assert state.is_failed()
        assert (await there.ended()).status == "success"
