"""The client for one n8n: its webhooks and its public API, through the guarded wire.

Answers are untrusted: they are capped while they are read, must be of the type that was asked for,
and every other one is one leaf of ``CallFailed``.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, NoReturn, Self

import httpx

from ..core.errors import (
    CallRefused,
    N8nAnswerInvalid,
    N8nApiError,
    N8nConflict,
    N8nNotFound,
    N8nRateLimited,
    N8nRequestInvalid,
    N8nServerError,
    N8nUnauthorized,
)
from ..core.settings import settings
from ..core.urls import AllowList, Target, check_url
from .answers import Execution, WebhookAnswer, Workflow, http_date, read_json, retry_after
from .api import N8nApi, Query, query_text
from .network import Answer, GuardedTransport, call

API_KEY_HEADER = "X-N8N-API-KEY"
MAX_REQUEST = 16 * 1024 * 1024
"""n8n's own limit, over which it answers 500 or breaks the connection."""
MAX_WEBHOOK_ANSWER = 1024 * 1024
MAX_API_ANSWER = 32 * 1024 * 1024
"""Executions come with all their data."""
MAX_MESSAGE = 500
REMEMBER_SECONDS = 60.0

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
# What frames a request is ours to say: two readers must not see two requests.
_OURS = frozenset(
    {
        b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"te",
        b"trailer", b"upgrade", b"expect", b"accept-encoding", b"proxy-authorization",
    }
)  # fmt: skip


class N8nClient(N8nApi):
    """A client for one n8n, for ``async with`` and one event loop.

    ``base_url`` is n8n without ``/api/v1``; ``webhook_url`` the base of its webhooks where that is
    not ``<base_url>/webhook``. ``allowed`` defaults to this process's settings. ``timeout`` is in
    seconds, for a whole call: name, connection, request and answer.

    Example:
        ```python
        async with N8nClient("https://n8n.example.com", api_key=key) as n8n:
            async for execution in n8n.executions(status="error"):
                print(n8n.execution_link(execution))
        ```
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        webhook_url: str | None = None,
        allowed: AllowList | None = None,
        timeout: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.webhook_url = webhook_url.rstrip("/") if webhook_url else f"{self.base_url}/webhook"
        self._api_key = api_key
        self._allowed = settings().allow_list() if allowed is None else allowed
        self._timeout = timeout
        self._transport = transport or GuardedTransport(self._allowed)
        self._workflows: dict[str, tuple[float, Workflow]] = {}
        self.clock_offset: timedelta | None = None
        """How far n8n's clock is ahead of ours, by the ``Date`` of its last answer."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    # Webhooks

    async def post_webhook(
        self,
        url_or_path: str,
        body: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        timeout: float | None = None,
    ) -> WebhookAnswer:
        """Post ``body`` as it is to a webhook and return its answer, of any status.

        The target is an absolute URL, or a path under the base of this n8n's webhooks. ``timeout``
        is in seconds for the whole call; by default the client's.

        Raises:
            CallRefused: the guard does not allow the target, or the body or a header is not sent.
            CallNotSent: not a byte of the request was sent.
            OutcomeUnknown: it was sent, and no whole answer of at most 1 MiB came in time.
        """
        target = check_url(self.webhook_address(url_or_path), self._allowed)
        answer = await self._call(
            target, "POST", list(headers), body, MAX_WEBHOOK_ANSWER, timeout or self._timeout
        )
        return WebhookAnswer(answer.status, answer.headers, answer.body, answer.seconds)

    def webhook_address(self, url_or_path: str) -> str:
        """Return the absolute URL of a webhook.

        Raises:
            CallRefused: a path that leads out of the webhooks.
        """
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", url_or_path):
            return url_or_path
        path = url_or_path.lstrip("/")
        if any(part in (".", "..") for part in path.partition("?")[0].split("/")):
            raise CallRefused("A webhook's path has no . or .. parts.")
        return f"{self.webhook_url}/{path}"

    def execution_link(self, execution: Execution) -> str:
        """Return the execution's address in n8n's editor."""
        return f"{self.base_url}/workflow/{execution.workflow_id}/executions/{execution.id}"

    # The public API

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        timeout: float | None = None,
    ) -> Any:
        """Call n8n's public API, ``path`` behind ``/api/v1``, and return its JSON; None for 204.

        Raises:
            CallFailed: one of its leaves.
        """
        url = f"{self.base_url}/api/v1{path}{query_text(query or {})}"
        target = check_url(url, self._allowed)
        headers = [(b"accept", b"application/json")]
        if self._api_key is not None:
            headers.append((API_KEY_HEADER.encode(), self._api_key.encode()))
        content = b""
        if body is not None:
            content = json.dumps(body, allow_nan=False).encode()
            headers.append((b"content-type", b"application/json"))
        answer = await self._call(
            target, method, headers, content, MAX_API_ANSWER, timeout or self._timeout
        )
        self._set_clock(answer)
        return _json_of(answer, target)

    def invalid(self, why: str) -> NoReturn:
        """Say that an answer is not what was asked for.

        Raises:
            N8nAnswerInvalid: always.
        """
        target = check_url(self.base_url, self._allowed)
        raise N8nAnswerInvalid(why, target=target.origin, status=200)

    # What it remembers

    def remember(self, key: str, workflow: Workflow) -> None:
        """Keep a workflow for a minute under a name of the caller's."""
        self._workflows[key] = (time.monotonic() + REMEMBER_SECONDS, workflow)

    def remembered(self, key: str) -> Workflow | None:
        """Return what was kept under the name, while its minute lasts."""
        until, workflow = self._workflows.get(key, (0.0, None))
        return workflow if time.monotonic() < until else None

    # Parts

    async def _call(
        self,
        target: Target,
        method: str,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        max_answer: int,
        seconds: float,
    ) -> Answer:
        if len(body) > MAX_REQUEST:
            raise CallRefused(
                f"The body has {len(body)} bytes; n8n takes {MAX_REQUEST}.", target=target.origin
            )
        for name, value in headers:
            if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value) or name.lower() in _OURS:
                shown = name[:100].decode("ascii", "replace")
                raise CallRefused(f"The header {shown!r} is not sent.", target=target.origin)
        if all(name.lower() != b"user-agent" for name, _ in headers):
            headers = [*headers, (b"user-agent", b"prefect-n8n")]
        return await call(
            self._transport, target, method, headers, body, max_answer=max_answer, seconds=seconds
        )

    def _set_clock(self, answer: Answer) -> None:
        at = http_date(answer.headers.get("date", ""))
        if at is not None:
            self.clock_offset = at - datetime.now(UTC)


def _json_of(answer: Answer, target: Target) -> Any:
    """The JSON of a good answer; any other raises the leaf that fits it."""
    if answer.status == 204:
        return None
    if 200 <= answer.status < 300:
        try:
            return read_json(answer.headers, answer.body)
        except ValueError as error:
            raise N8nAnswerInvalid(str(error), target=target.origin, status=answer.status) from None
    message = _message(answer)
    if answer.status == 429:
        raise N8nRateLimited(
            message,
            target=target.origin,
            status=answer.status,
            retry_after=retry_after(answer.headers),
        )
    raise _leaf(answer.status)(message, target=target.origin, status=answer.status)


def _leaf(status: int) -> type[N8nApiError]:
    named: Mapping[int, type[N8nApiError]] = {
        401: N8nUnauthorized,
        403: N8nUnauthorized,
        404: N8nNotFound,
        409: N8nConflict,
    }
    if status in named:
        return named[status]
    if status >= 500:
        return N8nServerError
    # 3xx is not followed: the base URL should say where n8n is.
    return N8nRequestInvalid if status >= 400 else N8nAnswerInvalid


def _message(answer: Answer) -> str:
    """n8n's own words, as one line of bounded length."""
    try:
        found = read_json(answer.headers, answer.body)
        message: object = found["message"]
    except (ValueError, TypeError, LookupError) as error:
        why = str(error) if isinstance(error, ValueError) else "the answer has no message"
        return f"a redirect, which is not followed ({why})" if 300 <= answer.status < 400 else why
    if not isinstance(message, str):
        return "the answer's message is no text"
    line = "".join(c if c.isprintable() else " " for c in message[: MAX_MESSAGE + 1])
    return line[:MAX_MESSAGE] + ("…" if len(message) > MAX_MESSAGE else "")
