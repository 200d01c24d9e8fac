"""Calls without a whole answer: sent or not, exactly, and never for longer than they may last."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from prefect_n8n.blocks import client as client_module
from prefect_n8n.blocks.client import MAX_REQUEST, MAX_WEBHOOK_ANSWER, N8nClient
from prefect_n8n.core.errors import (
    CallFailed,
    CallNotSent,
    OutcomeUnknown,
)
from support.hostile import (
    HEADERS,
    LOOPBACK,
    WORKFLOW,
    Answer,
    Request,
    answers,
    calling,
    hostile,
    listening,
    reset,
)

# Calls that end without a whole answer


async def silence(request: Request) -> None:
    """Nothing, for ever."""
    await asyncio.sleep(60)


async def close(request: Request) -> None:
    """The end, without a byte."""


async def truncated(request: Request) -> None:
    request.send(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
    )


async def truncated_chunks(request: Request) -> None:
    request.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n")


async def half_a_head(request: Request) -> None:
    request.send(b"HTTP/1.1 200 OK\r\ncontent-")


async def no_http(request: Request) -> None:
    request.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


async def huge_head(request: Request) -> None:
    request.send(b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 300_000 + b"\r\n\r\n")


async def bad_chunks(request: Request) -> None:
    request.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n")


async def oversized(request: Request) -> None:
    request.respond(200, b"x" * (MAX_WEBHOOK_ANSWER + 1))


async def endless(request: Request) -> None:
    request.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        request.send(b"x" * 65536)
        await request.writer.drain()


async def drip(request: Request) -> None:
    request.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        request.send(b"x")
        await request.writer.drain()
        await asyncio.sleep(0.02)


async def drip_of_hints(request: Request) -> None:
    while True:
        request.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await request.writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (silence, None), (reset, None), (close, None), (half_a_head, None), (no_http, None),
        (huge_head, None), (drip_of_hints, None), (truncated, 200), (truncated_chunks, 200),
        (bad_chunks, 200), (oversized, 200), (endless, 200), (drip, 200),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
async def test_what_happens_after_sending_is_an_unknown_outcome(
    answer: Answer, status: int | None
) -> None:
    async with calling(answer, timeout=1.0) as (n8n, server):
        begun = time.monotonic()
        with pytest.raises(CallFailed) as caught:
            await n8n.post_webhook("orders", b'{"a":1}', HEADERS)
        assert time.monotonic() - begun < 3
    assert type(caught.value) is OutcomeUnknown
    assert (caught.value.target, caught.value.status) == (server.url, status)
    assert "orders" not in str(caught.value), "the path may be a secret"
    (request,) = server.requests
    assert request.body == b'{"a":1}'


async def test_the_same_holds_for_the_api() -> None:
    async with calling(truncated, timeout=1.0) as (n8n, _):
        with pytest.raises(OutcomeUnknown):
            await n8n.stop_execution("1")


async def test_an_api_answer_has_its_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_API_ANSWER", 2_000_000)
    async with calling(answers(200, json.dumps(WORKFLOW | {"x": "y" * 1_900_000}).encode())) as (
        n8n,
        _,
    ):
        assert (await n8n.workflow("w1")).id == "w1"
    async with calling(answers(200, b"x" * 2_000_001)) as (n8n, _):
        with pytest.raises(OutcomeUnknown, match="larger than 2000000 bytes"):
            await n8n.workflow("w1")


async def test_a_timeout_in_the_middle_of_the_request_is_unknown() -> None:
    """The target takes the head and no more: it may still have done something."""
    came = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        came.set()
        await asyncio.sleep(60)

    async with listening(serve) as server, N8nClient(server.url, allowed=LOOPBACK) as n8n:
        with pytest.raises(OutcomeUnknown):
            await n8n.post_webhook("orders", b"x" * MAX_REQUEST, HEADERS, timeout=1.0)
    assert came.is_set()


async def test_cancelling_is_the_callers() -> None:
    came = asyncio.Event()

    async def answer(request: Request) -> None:
        came.set()
        await silence(request)

    async with calling(answer) as (n8n, _):
        call = asyncio.create_task(n8n.post_webhook("orders", b"{}", HEADERS))
        await asyncio.wait_for(came.wait(), 5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


# Calls that are not sent


async def test_nobody_listens() -> None:
    async with hostile(close) as server:
        url = server.url
    async with N8nClient(url, allowed=LOOPBACK) as n8n:
        with pytest.raises(CallNotSent, match="Connection refused") as caught:
            await n8n.post_webhook("orders", b"{}", HEADERS)
    assert caught.value.target == url
    assert caught.value.status is None


async def test_a_server_without_tls() -> None:
    async with hostile(close) as server:
        https = f"https://127.0.0.1:{server.port}"
        async with N8nClient(https, allowed=LOOPBACK) as n8n:
            with pytest.raises(CallNotSent) as caught:
                await n8n.post_webhook("orders", b"{}", HEADERS)
    assert caught.value.target == https
    assert server.requests == []


async def test_a_tls_handshake_that_hangs_is_cut() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async with listening(serve) as server:
        https = f"https://127.0.0.1:{server.port}"
        async with N8nClient(https, allowed=LOOPBACK, timeout=0.5) as n8n:
            with pytest.raises(CallNotSent, match="in time"):
                await n8n.post_webhook("orders", b"{}", HEADERS)
