"""The client before a server that answers whatever it likes: one leaf for each answer."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from prefect_n8n.blocks.client import MAX_REQUEST, MAX_WEBHOOK_ANSWER, N8nClient
from prefect_n8n.core.errors import (
    CallFailed,
    CallRefused,
    N8nAnswerInvalid,
    N8nApiError,
    N8nConflict,
    N8nNotFound,
    N8nRateLimited,
    N8nRequestInvalid,
    N8nServerError,
    N8nUnauthorized,
    OutcomeUnknown,
)
from prefect_n8n.core.urls import AllowList
from support.hostile import (
    HEADERS,
    LOOPBACK,
    WORKFLOW,
    Answer,
    Request,
    answers,
    calling,
    listening,
    reset,
)

HTML = b"<html><body>n8n is starting up. Please wait</body></html>"


# The API's own errors


@pytest.mark.parametrize(
    ("status", "body", "kind", "leaf"),
    [
        (401, b'{"message":"Unauthorized"}', b"application/json", N8nUnauthorized),
        (403, b'{"message":"Forbidden"}', b"application/json", N8nUnauthorized),
        (404, b'{"message":"Not Found"}', b"application/json; charset=utf-8", N8nNotFound),
        (404, b"<pre>Cannot GET /api/v1</pre>", b"text/html", N8nNotFound),
        (409, b'{"message":"Taken"}', b"application/json", N8nConflict),
        (400, b'{"message":"request/body is wrong"}', b"application/json", N8nRequestInvalid),
        (405, b"", None, N8nRequestInvalid),
        (413, b"<html>too large", b"text/html", N8nRequestInvalid),
        (418, b"null", b"application/json", N8nRequestInvalid),
        (429, b"Too many requests", b"text/plain", N8nRateLimited),
        (500, b'{"message":"Oops"}', b"application/json", N8nServerError),
        (502, b"<html>Bad gateway", b"text/html", N8nServerError),
        (503, b'{"message": 7}', b"application/json", N8nServerError),
        (599, b"[]", b"application/json", N8nServerError),
        (302, b"", None, N8nAnswerInvalid),
        (200, HTML, b"text/html", N8nAnswerInvalid),
        (200, b"", b"application/json", N8nAnswerInvalid),
        (200, b'{"id": ', b"application/json", N8nAnswerInvalid),
        (200, b"\xff\xfe", b"application/json", N8nAnswerInvalid),
        (200, b"[]", b"application/json", N8nAnswerInvalid),
        (200, b"null", b"application/json", N8nAnswerInvalid),
        (200, b'{"id": "1"}', b"application/json", N8nAnswerInvalid),
        (200, b'{"id": [], "name": "x"}', b"application/json", N8nAnswerInvalid),
        (200, b'{"id": "1", "name": NaN}', b"application/json", N8nAnswerInvalid),
        (200, b"[" * 100_000, b"application/json", N8nAnswerInvalid),
        (200, b'{"a":' * 500 + b"1" + b"}" * 500, b"application/json", N8nAnswerInvalid),
        (200, json.dumps(WORKFLOW).encode(), b"text/plain", N8nAnswerInvalid),
        (200, json.dumps(WORKFLOW).encode(), None, N8nAnswerInvalid),
        (204, b"", None, N8nAnswerInvalid),
    ],
)  # fmt: skip
async def test_an_answer_of_the_api_is_one_leaf(
    status: int, body: bytes, kind: bytes | None, leaf: type[N8nApiError]
) -> None:
    async with calling(answers(status, body, kind)) as (n8n, server):
        with pytest.raises(CallFailed) as caught:
            await n8n.workflow("w1")
    assert type(caught.value) is leaf
    assert caught.value.target == server.url
    assert caught.value.status == (200 if status == 204 else status)
    assert "<" not in str(caught.value), "no markup of a stranger"


async def test_n8ns_own_words_are_kept_short_and_plain() -> None:
    long = json.dumps({"message": "Wörds\n\x1b[31m" + "x" * 10_000}).encode()
    async with calling(answers(400, long)) as (n8n, server):
        with pytest.raises(N8nRequestInvalid) as caught:
            await n8n.workflow("w1")
    assert caught.value.message.startswith("Wörds  [31mxxx")
    assert len(caught.value.message) == 501
    assert str(caught.value) == f"{server.url} answered 400: {caught.value.message}"


@pytest.mark.parametrize(
    ("given", "seconds"), [(b"7", 7.0), (b"0", 0.0), (b"soon", None), (b"-3", None), (b"", None)]
)
async def test_rate_limits_say_when(given: bytes, seconds: float | None) -> None:
    async with calling(answers(429, retry_after=given)) as (n8n, _):
        with pytest.raises(N8nRateLimited) as caught:
            await n8n.workflow("w1")
    assert caught.value.retry_after == seconds


async def test_rate_limits_say_when_as_a_date() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True).encode()
    async with calling(answers(429, retry_after=at)) as (n8n, _):
        with pytest.raises(N8nRateLimited) as caught:
            await n8n.workflow("w1")
    assert caught.value.retry_after == pytest.approx(60, abs=3)


async def test_a_good_answer() -> None:
    body = json.dumps(WORKFLOW | {"some": "thing new"}).encode()
    async with calling(answers(200, body), api_key="key") as (n8n, server):
        workflow = await n8n.workflow("w/1?x")
    assert (workflow.id, workflow.name, workflow.active) == ("w1", "Orders", True)
    (request,) = server.requests
    assert request.line == "GET /api/v1/workflows/w%2F1%3Fx HTTP/1.1"
    assert request.headers["x-n8n-api-key"] == "key"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["host"] == f"127.0.0.1:{server.port}"


# Bodies and headers


async def test_what_is_sent_is_sent_as_it_is() -> None:
    body = '{"a": "Zoë ☕"}\n'.encode()
    async with calling(answers(200)) as (n8n, server):
        await n8n.post_webhook("orders?a=ü", body, HEADERS)
    (request,) = server.requests
    assert request.body == body
    assert request.line == "POST /webhook/orders?a=%C3%BC HTTP/1.1"
    assert request.headers["webhook-id"] == "d_1"
    assert request.headers["user-agent"] == "prefect-n8n"


@pytest.mark.parametrize("path", ["../api/v1/users", "a/../../x", "./x", "/../x"])
async def test_a_path_stays_among_the_webhooks(path: str) -> None:
    async with N8nClient("https://n8n.example.com", allowed=AllowList()) as n8n:
        with pytest.raises(CallRefused):
            n8n.webhook_address(path)


async def test_a_body_that_n8n_does_not_take_is_refused() -> None:
    async with calling(answers(200)) as (n8n, server):
        with pytest.raises(CallRefused, match="16777216"):
            await n8n.post_webhook("orders", b"x" * (MAX_REQUEST + 1), HEADERS)
        assert server.connections == 0
        await n8n.post_webhook("orders", b"x" * MAX_REQUEST, HEADERS)
        assert len(server.requests[0].body) == MAX_REQUEST


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"a\r\nhost: evil"), (b"x", b"a\x00"), (b"x y", b"a"), (b"", b"a"), (b"x:", b"a"),
        (b"Host", b"evil"), (b"content-length", b"1"), (b"Transfer-Encoding", b"chunked"),
        (b"connection", b"upgrade"), (b"expect", b"100-continue"), (b"Accept-Encoding", b"gzip"),
    ],
)  # fmt: skip
async def test_headers_that_are_not_sent(header: tuple[bytes, bytes]) -> None:
    async with calling(answers(200)) as (n8n, server):
        with pytest.raises(CallRefused, match="header"):
            await n8n.post_webhook("orders", b"{}", [header])
    assert server.connections == 0


async def test_answers_are_not_unpacked() -> None:
    """A small answer that would be 100 MiB: it is taken as the bytes it is."""
    bomb = gzip.compress(b'{"a":"' + b"x" * 100_000_000 + b'"}')
    async with calling(answers(200, bomb, content_encoding=b"gzip")) as (n8n, _):
        answer = await n8n.post_webhook("orders", b"{}", HEADERS)
        assert answer.body == bomb
        assert answer.json() is None
        with pytest.raises(N8nAnswerInvalid, match="compressed"):
            await n8n.workflow("w1")


@pytest.mark.parametrize("status", [200, 202, 204, 301, 404, 410, 429, 500, 503])
async def test_a_webhooks_answer_is_returned_whatever_its_status(status: int) -> None:
    async with calling(answers(status, b"" if status == 204 else b'{"a":1}')) as (n8n, _):
        answer = await n8n.post_webhook("orders", b"{}", HEADERS)
    assert answer.status == status
    assert answer.json() == (None if status == 204 else {"a": 1})
    assert answer.headers["content-type"] == "application/json"
    assert 0 < answer.seconds < 5


async def test_an_answer_of_exactly_the_limit() -> None:
    async with calling(answers(200, b"x" * MAX_WEBHOOK_ANSWER, b"text/plain")) as (n8n, _):
        answer = await n8n.post_webhook("orders", b"{}", HEADERS)
    assert len(answer.body) == MAX_WEBHOOK_ANSWER


async def test_an_answer_before_the_request_has_ended() -> None:
    """A proxy that says 413 at once and closes: its answer is what happened."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        while await reader.read(65536):
            pass

    async with listening(serve) as server, N8nClient(server.url, allowed=LOOPBACK) as n8n:
        answer = await n8n.post_webhook("orders", b"x" * 1_000_000, HEADERS)
    assert answer.status == 413


async def test_connections_are_used_again() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with listening(serve) as server, N8nClient(server.url, allowed=LOOPBACK) as n8n:
        for _ in range(3):
            await n8n.post_webhook("orders", b"{}", HEADERS)
        assert server.connections == 1


# Lists


def pages(*given: dict[str, Any]) -> Answer:
    """Each page once, the last one for ever."""
    left = list(given)

    async def answer(request: Request) -> None:
        page = left.pop(0) if len(left) > 1 else left[0]
        request.respond(200, json.dumps(page).encode())

    return answer


async def test_pages_follow_the_cursor() -> None:
    first = {"data": [WORKFLOW, WORKFLOW], "nextCursor": "a+b="}
    async with calling(pages(first, {"data": [WORKFLOW], "nextCursor": None})) as (n8n, server):
        found = [w.id async for w in n8n.workflows(active=True, tags=["a", "b"])]
    assert len(found) == 3
    assert [request.line for request in server.requests] == [
        "GET /api/v1/workflows?active=true&tags=a%2Cb&limit=100 HTTP/1.1",
        "GET /api/v1/workflows?active=true&tags=a%2Cb&limit=100&cursor=a%2Bb%3D HTTP/1.1",
    ]


async def test_a_cursor_that_goes_in_circles_ends() -> None:
    async with calling(pages({"data": [], "nextCursor": "again"})) as (n8n, server):
        with pytest.raises(N8nAnswerInvalid, match="no end"):
            _ = [w async for w in n8n.workflows()]
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "page", [{}, {"data": {}}, {"data": [1]}, {"data": [{}]}, {"data": [], "nextCursor": 7}]
)
async def test_a_page_of_another_shape(page: dict[str, Any]) -> None:
    async with calling(pages(page)) as (n8n, _):
        with pytest.raises(N8nAnswerInvalid, match="the answer is no"):
            _ = [w async for w in n8n.workflows()]


# Secrets


async def test_neither_logs_nor_errors_show_paths_or_keys(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with calling(reset, api_key="hunter2-key") as (n8n, _):
        with pytest.raises(OutcomeUnknown) as caught:
            await n8n.post_webhook("hunter2-path?signature=hunter2", b"hunter2", HEADERS)
        with pytest.raises(OutcomeUnknown) as of_api:
            await n8n.workflow("hunter2-id")
    for shown in (caplog.text, str(caught.value), repr(caught.value), str(of_api.value)):
        assert "hunter2" not in shown


async def test_the_clock_of_n8n() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(minutes=9), usegmt=True).encode()
    async with calling(answers(200, json.dumps(WORKFLOW).encode(), date=at)) as (n8n, _):
        assert n8n.clock_offset is None
        await n8n.workflow("w1")
        assert n8n.clock_offset is not None
        assert n8n.clock_offset.total_seconds() == pytest.approx(540, abs=3)
