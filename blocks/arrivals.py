"""Whether a delivery whose outcome is unknown has reached n8n: asked of n8n's executions.

Every delivery carries its id in a header, and n8n keeps the headers of a request in the data of the
execution that it started. They show when the execution has ended or waits; while it runs only where
the workflow has the setting ``saveExecutionProgress``. *Not arrived* is said only where every
execution that could be the one has been seen, because it makes the sender send again.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, cast
from urllib.parse import unquote, urlsplit

from ..core.errors import CallFailed, N8nNotFound
from .answers import WAIT_NODE, WEBHOOK_NODE, Execution, ExecutionStatus, Json, Workflow
from .client import N8nClient

DELIVERY_HEADERS = ("x-prefect-n8n-delivery", "webhook-id")
"""Headers of a delivery that carry its id; one of them is enough."""

SETTLE_SECONDS = 3.0
"""n8n may still be about to begin an execution for a request that it has already taken in."""
MARGIN = timedelta(minutes=2)
"""How far before the call executions are looked at, beside what is known of n8n's clock."""
HIDDEN_MARGIN = timedelta(seconds=30)
"""The same for executions that do not show whose they are: a long one must not hide all others."""
MAX_CANDIDATES = 1000
RECENT = timedelta(hours=1)
"""n8n prunes executions once an hour."""

# An execution may go from waiting to running between two questions: running is asked again.
_UNENDED = (
    ExecutionStatus.NEW,
    ExecutionStatus.RUNNING,
    ExecutionStatus.WAITING,
    ExecutionStatus.RUNNING,
)

Verdict = Literal["arrived", "not_arrived", "not_known"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """The verdict, its reason as a sentence, and the execution where the delivery arrived."""

    verdict: Verdict
    reason: str
    execution: Execution | None = None


async def find_arrival(
    client: N8nClient,
    *,
    target: str,
    delivery_id: str,
    since: datetime,
    workflow_id: str | None = None,
) -> Arrival:
    """Say whether a delivery arrived that was posted to the absolute URL ``target``.

    ``since`` is when its first attempt began, by our clock and with a time zone. Without
    ``workflow_id`` the workflow is found by the webhook's path. Takes a few seconds where nothing
    is found at once. It raises no ``CallFailed``: what prevents an answer is *not known*, with the
    reason.
    """
    settled = time.monotonic() + SETTLE_SECONDS
    try:
        found = await _look(client, target, delivery_id, since, workflow_id)
        if found.verdict != "arrived":
            await asyncio.sleep(max(0.0, settled - time.monotonic()))
            found = await _look(client, target, delivery_id, since, workflow_id)
    except CallFailed as error:
        return _not_known(f"n8n could not be asked: {error}")
    return found


async def _look(
    client: N8nClient, target: str, delivery_id: str, since: datetime, workflow_id: str | None
) -> Arrival:
    waiting = _waiting_execution(target)
    if waiting is not None:
        return await _resumed(client, waiting, delivery_id)
    workflow = await _workflow(client, target, workflow_id)
    if isinstance(workflow, Arrival):
        return workflow
    return await _started(client, workflow, delivery_id, since)


# A Wait node's resumeUrl


def _waiting_execution(target: str) -> str | None:
    """The execution that a ``resumeUrl`` wakes."""
    match = re.search(r"/webhook-waiting/([0-9]+)(?:/|$)", urlsplit(target).path)
    return match[1] if match else None


async def _resumed(client: N8nClient, execution_id: str, delivery_id: str) -> Arrival:
    try:
        execution = await client.execution(execution_id, include_data=True)
    except N8nNotFound:
        return _not_known(f"n8n no longer has execution {execution_id}.")
    received = list(execution.received_headers(WAIT_NODE))
    if any(_is_ours(headers, delivery_id) for headers in received):
        return Arrival("arrived", "The execution was woken by it.", execution)
    if execution.status == ExecutionStatus.WAITING:
        return Arrival("not_arrived", "The execution still waits for it.", execution)
    if not execution.ended:
        # It may have been woken, or not have come to its Wait node yet.
        return _not_known(f"Execution {execution_id} is {execution.status}.", execution)
    if received:
        return Arrival("not_arrived", "The execution went on without it.", execution)
    return Arrival("arrived", "The execution has gone on; what woke it is not kept.", execution)


# A Webhook node


async def _workflow(client: N8nClient, target: str, workflow_id: str | None) -> Workflow | Arrival:
    """The workflow that the target starts, or why it is not known."""
    path = _webhook_path(client, target)
    key = workflow_id or path
    if key is None:
        return _not_known("The target is not under /webhook/ of an n8n.")
    known = client.remembered(key)
    if known is not None:
        return known
    if workflow_id is not None:
        found = [await client.workflow(workflow_id)]
    else:
        found = [w async for w in client.workflows() if _listens(w, key)]
    if len(found) != 1:
        return _not_known(f"{len(found) or 'No'} workflows listen at the webhook's path.")
    client.remember(key, found[0])
    return found[0]


def _webhook_path(client: N8nClient, target: str) -> str | None:
    """The path as a Webhook node has it."""
    base = urlsplit(client.webhook_url).path + "/"
    path = urlsplit(target).path
    found = path[len(base) :] if path.startswith(base) else path.partition("/webhook/")[2]
    return unquote(found).strip("/") or None


def _listens(workflow: Workflow, path: str) -> bool:
    nodes = [*workflow.live_nodes(), *workflow.nodes]
    return any(_is_at(node, path) for node in nodes if node.get("type") == WEBHOOK_NODE)


def _is_at(node: Json, path: str) -> bool:
    """Whether a Webhook node takes a POST at the path; ``:name`` stands for any one part."""
    parameters: object = node.get("parameters")
    values = cast(Json, parameters) if isinstance(parameters, dict) else {}
    methods: object = values.get("httpMethod", "GET")
    if "POST" not in (cast(list[object], methods) if isinstance(methods, list) else [methods]):
        return False
    own = str(values.get("path", "")).strip("/")
    if "/:" not in f"/{own}":
        return own == path
    pattern = "/".join(
        "[^/]+" if part.startswith(":") else re.escape(part) for part in own.split("/")
    )
    # n8n puts the node's webhook id before a path with parameters.
    return re.fullmatch(f"(?:{re.escape(str(node.get('webhookId')))}/)?{pattern}", path) is not None


async def _started(
    client: N8nClient, workflow: Workflow, delivery_id: str, since: datetime
) -> Arrival:
    """Look for the execution that the delivery started."""
    offset = client.clock_offset or timedelta()
    after = since - MARGIN + min(offset, timedelta())
    candidates = await _candidates(client, workflow.id, after)
    if len(candidates) > MAX_CANDIDATES:
        return _not_known(f"More than {MAX_CANDIDATES} executions began since then.")
    hidden: list[Execution] = []
    for seen in candidates:
        try:
            execution = await client.execution(seen.id, include_data=True)
        except N8nNotFound:
            hidden.append(seen)
            continue
        headers = execution.webhook_headers()
        if headers is None:
            hidden.append(execution)
        elif _is_ours(headers, delivery_id):
            return Arrival("arrived", f"Execution {execution.id} has it.", execution)
    earliest = since + offset - HIDDEN_MARGIN
    hidden = [e for e in hidden if e.started_at is None or e.started_at > earliest]
    if hidden:
        return _hides(hidden)
    return await _absent(client, workflow, since)


async def _candidates(client: N8nClient, workflow_id: str, after: datetime) -> list[Execution]:
    """The executions that a webhook started since then, the oldest first."""
    found: dict[str, Execution] = {}
    for status in (*_UNENDED, None):
        async for execution in client.executions(
            workflow_id=workflow_id, status=status, started_after=after
        ):
            if execution.mode in ("webhook", ""):
                found[execution.id] = execution
            if len(found) > MAX_CANDIDATES:
                break
    return sorted(found.values(), key=lambda e: e.started_at or after)


def _hides(hidden: list[Execution]) -> Arrival:
    """Some executions do not show their headers."""
    execution = hidden[0]
    more = f" and {len(hidden) - 1} others" if len(hidden) > 1 else ""
    reason = f"Execution {execution.id}{more} may be it: {execution.status}, without its data."
    if not execution.ended:
        reason += " The workflow's setting 'Save execution progress' would show it."
    return _not_known(reason)


async def _absent(client: N8nClient, workflow: Workflow, since: datetime) -> Arrival:
    """No execution has it: say so, if n8n would have kept it."""
    for setting, what in (
        ("saveDataSuccessExecution", "successful"),
        ("saveDataErrorExecution", "failed"),
    ):
        if workflow.settings.get(setting) == "none":
            return _not_known(
                f"The workflow does not save {what} executions: set its {setting} to 'all'."
            )
    if workflow.settings.get("saveDataSuccessExecution") != "all" and not await _any(
        client.executions(workflow_id=workflow.id, status=ExecutionStatus.SUCCESS)
    ):
        return _not_known(
            "n8n has never saved a successful execution of the workflow, so it may save none: set"
            " its saveDataSuccessExecution to 'all'."
        )
    if datetime.now(UTC) - since > RECENT and not await _any(
        client.executions(started_before=since)
    ):
        return _not_known("n8n has no execution left from before then: it may have been pruned.")
    return Arrival("not_arrived", "No execution of the workflow since then has it.")


async def _any(found: AsyncIterator[Execution]) -> bool:
    async for _ in found:
        return True
    return False


def _is_ours(headers: dict[str, str], delivery_id: str) -> bool:
    return any(headers.get(name) == delivery_id for name in DELIVERY_HEADERS)


def _not_known(reason: str, execution: Execution | None = None) -> Arrival:
    return Arrival("not_known", reason, execution)
