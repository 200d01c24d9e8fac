"""Workflows on a real n8n that take our calls, for tests of what calls them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from pydantic import HttpUrl, SecretStr

from prefect_n8n.blocks.credentials import N8nCredentials
from prefect_n8n.blocks.workflow import N8nWorkflow
from prefect_n8n.core.settings import settings
from support.bridge import until
from support.n8n import Execution, N8n, Workflow, n8n_workflow, node_of

CREDENTIAL = "Prefect webhook secret"
SECRET = "acceptance-secret-of-printable-text-42"

STARTING = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 31\r\n"
    b"Connection: close\r\n\r\nn8n is starting up. Please wait"
)


def noop() -> dict[str, Any]:
    """Work that hands on what it gets."""
    return {"type": "n8n-nodes-base.noOp", "typeVersion": 1, "parameters": {}}


def sleeping(seconds: int) -> dict[str, Any]:
    """Work that takes its time; from 65 s on its execution is stored, as *waiting*."""
    parameters = {"resume": "timeInterval", "amount": seconds, "unit": "seconds"}
    return {"type": "n8n-nodes-base.wait", "typeVersion": 1.1, "parameters": parameters}


def failing(message: str = "The work failed on purpose") -> dict[str, Any]:
    """Work that fails."""
    parameters = {"errorMessage": message}
    return {"type": "n8n-nodes-base.stopAndError", "typeVersion": 1, "parameters": parameters}


@dataclass
class Receiving:
    """A published workflow, and the block that calls it."""

    n8n: N8n
    workflow_id: str
    path: str
    block: N8nWorkflow

    async def executions(self) -> list[dict[str, Any]]:
        """Every execution, whatever its state, without data, oldest first."""
        found: dict[str, dict[str, Any]] = {}
        # Those that run first: one that ends meanwhile is in the last list.
        for status in ("&status=new", "&status=running", "&status=waiting", ""):
            path = f"/executions?workflowId={self.workflow_id}&limit=250{status}"
            for each in (await self.n8n.api("GET", path))["data"]:
                found[each["id"]] = each
        return sorted(found.values(), key=lambda each: int(each["id"]))

    async def ended(self) -> Execution:
        """The only execution, ended."""
        (one,) = await self.executions()
        return await self.n8n.execution(one["id"])

    async def until_running(self) -> str:
        """Wait until the only execution does its work; return its id."""
        (one,) = await until(self.executions, what="an execution")
        return one["id"]

    async def unpublish(self) -> None:
        """Take the workflow back, and wait until its webhook is gone."""
        await self.n8n.api("POST", f"/workflows/{self.workflow_id}/deactivate")
        async with httpx.AsyncClient(base_url=self.n8n.url, trust_env=False) as client:

            async def gone() -> bool:
                # Another method starts nothing, and tells of the one that would.
                answer = await client.delete(f"/webhook/{self.path}")
                return "Did you mean" not in answer.text

            await until(gone, what="the end of the webhook")


@asynccontextmanager
async def receiving(
    n8n: N8n,
    work: dict[str, Any] | None = None,
    *,
    scheme: str = "standard",
    change: Callable[[Workflow], None] = lambda _: None,
    **block: Any,
) -> AsyncIterator[Receiving]:
    """Publish the template with ``work`` in the place of *Your work*; give its block.

    The fixture ``calls_n8n`` must be there: it lets this process call n8n.
    """
    workflow = n8n_workflow(f"receive-delivery-{scheme}.json")
    path = f"work-{uuid4().hex}"
    node_of(workflow, "Webhook")["parameters"]["path"] = path
    node_of(workflow, "Your work").update(work or noop())
    change(workflow)
    credentials = N8nCredentials(
        base_url=HttpUrl(n8n.url),
        api_key=SecretStr(n8n.api_key),
        webhook_secrets=[SecretStr(SECRET)],
    )
    # Names are found again only where they are unique.
    name = f"{CREDENTIAL} of {path}"
    for node in workflow["nodes"]:
        if "credentials" in node:
            node["credentials"]["crypto"]["name"] = name
    async with n8n.secret(name, SECRET):
        id = await n8n.add(workflow)
        await n8n.publish(id)
        fields = {"credentials": credentials, "webhook": path, "scheme": scheme} | block
        try:
            yield Receiving(n8n, id, path, N8nWorkflow(**fields))
        finally:
            await n8n.api("POST", f"/workflows/{id}/deactivate")


async def saved(there: Receiving) -> str:
    """Save the block as an operator does; return its name."""
    name = f"work-{uuid4().hex[:8]}"
    await there.block.credentials.asave(name)
    await there.block.asave(name)
    return name


def bare(workflow: Workflow) -> None:
    """Leave the Webhook node and the work."""
    workflow["nodes"] = [node_of(workflow, "Webhook"), node_of(workflow, "Your work")]
    link = {"node": "Your work", "type": "main", "index": 0}
    workflow["connections"] = {"Webhook": {"main": [[link]]}}


@pytest_asyncio.fixture
async def calls_n8n(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Let this process, and those it starts, call n8n on this machine."""
    monkeypatch.setenv("PREFECT_N8N_ALLOWED_TARGETS", "127.0.0.0/8")
    settings.cache_clear()
    yield
    settings.cache_clear()


@asynccontextmanager
async def before(url: str, *answers: bytes | None) -> AsyncIterator[str]:
    """A small server before ``url``; gives its own URL.

    Each connection is answered with the next of ``answers``, or where that is None, passed on with
    its answer swallowed; those after are passed on whole.
    """
    parts = urlsplit(url)
    left = list(answers)
    open_: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await _pass_on(reader, writer, left.pop(0) if left else b"")
        finally:
            writer.close()
            open_.discard(task)

    async def _pass_on(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes | None
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        body = await reader.readexactly(length)
        if answer:
            writer.write(answer)
            await writer.drain()
            return
        far_reader, far_writer = await asyncio.open_connection(parts.hostname, parts.port)
        far_writer.write(head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + body)
        got = await far_reader.read()
        far_writer.close()
        if answer is not None:
            writer.write(got)
            await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    for task in list(open_):
        task.cancel()
