"""A target of deliveries that fails on demand, and answers for its executions as n8n's API does.

It stands where a real n8n cannot be had to fail: it refuses, resets, swallows answers and is slow
as a script of the test says, and counts what really reached it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

WORKFLOW = "w1"
PATH = "/webhook/crm"


@dataclass(frozen=True)
class Call:
    """One delivery that reached the target whole."""

    id: str
    headers: dict[str, str]
    body: bytes
    at: float
    """By the event loop's clock."""
    wall: datetime

    @property
    def attempt(self) -> int:
        """Which attempt it says that it is."""
        return int(self.headers["x-prefect-n8n-attempt"])


@dataclass(frozen=True)
class Answer:
    """What the target does with a call: ``runs`` says whether its work is done."""

    status: int = 202
    body: bytes | None = None
    """By default the id of the execution that it became, as JSON."""
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    delay: float = 0.0
    runs: bool = True
    reset: bool = False
    """The connection is torn down in place of an answer."""


Script = Callable[[Call], Answer]


@dataclass
class Target:
    """A running target. ``script`` decides about each call; by default all is well."""

    port: int = 0
    script: Script = field(default=lambda _: Answer())
    calls: list[Call] = field(default_factory=list[Call])
    runs: list[Call] = field(default_factory=list[Call])
    """The calls whose work was done, in that order; the n-th is execution n + 1."""
    asked: int = 0
    busy: int = 0
    most_busy: int = 0
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]])

    @property
    def base(self) -> str:
        """Where its n8n would be."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Where deliveries go."""
        return f"{self.base}{PATH}"

    @property
    def deliveries(self) -> Counter[str]:
        """How often each delivery's work was done."""
        return Counter(call.id for call in self.runs)

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[Target]:
        """Run a target on a port of its own."""
        target = cls()
        server = await asyncio.start_server(target._serve, "127.0.0.1", 0, limit=2**24)
        target.port = server.sockets[0].getsockname()[1]
        try:
            yield target
        finally:
            server.close()
            for task in target._tasks:
                task.cancel()
            await asyncio.gather(*target._tasks, return_exceptions=True)
            # Their transports are closed in the loop's next turn.
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await self._answer(reader, writer):
                    await writer.drain()
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False where the connection is to be torn down."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if method != "GET":
            return await self._deliver(writer, headers, body)
        self._send(writer, self._api(path))
        return True

    async def _deliver(
        self, writer: asyncio.StreamWriter, headers: dict[str, str], body: bytes
    ) -> bool:
        at = asyncio.get_running_loop().time()
        call = Call(headers["x-prefect-n8n-delivery"], headers, body, at, datetime.now(UTC))
        self.calls.append(call)
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            answer = self.script(call)
            if answer.runs:
                self.runs.append(call)
            execution = len(self.runs)
            await asyncio.sleep(answer.delay)
        finally:
            self.busy -= 1
        if answer.reset:
            return False
        default = json.dumps({"execution_id": str(execution)}).encode()
        self._send(writer, answer, default)
        return True

    def _send(self, writer: asyncio.StreamWriter, answer: Answer, default: bytes = b"") -> None:
        body = default if answer.body is None else answer.body
        lines = [f"HTTP/1.1 {answer.status} Status", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    def _api(self, path: str) -> Answer:
        """n8n's public API, as far as a delivery is looked up there."""
        self.asked += 1
        path, _, query = path.partition("?")
        kind, _, id = path.removeprefix("/api/v1/").partition("/")
        if kind == "workflows" and id == WORKFLOW:
            return _json(WORKFLOW_DATA)
        if kind != "executions":
            return _json({"message": "Not Found"}, 404)
        if id:
            return _json(_execution(int(id), self.runs[int(id) - 1]))
        found = list(enumerate(self.runs, 1))
        if "status=" in query and "status=success" not in query:
            found = []
        data = [_execution(number, call) for number, call in reversed(found)]
        return _json({"data": data, "nextCursor": None})


WORKFLOW_DATA: dict[str, Any] = {
    "id": WORKFLOW,
    "name": "target",
    "active": True,
    "nodes": [{"name": "Webhook", "type": "n8n-nodes-base.webhook", "parameters": {}}],
    "connections": {},
    "settings": {"saveDataSuccessExecution": "all", "saveDataErrorExecution": "all"},
}


def _json(value: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode())


def _execution(number: int, call: Call) -> dict[str, Any]:
    item = {"json": {"headers": call.headers, "body": json.loads(call.body)}}
    at = call.wall.isoformat().replace("+00:00", "Z")
    return {
        "id": str(number),
        "workflowId": WORKFLOW,
        "status": "success",
        "mode": "webhook",
        "startedAt": at,
        "stoppedAt": at,
        "data": {"resultData": {"runData": {"Webhook": [{"data": {"main": [[item]]}}]}}},
        "workflowData": WORKFLOW_DATA,
    }
