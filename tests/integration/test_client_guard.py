"""What the guard lets be dialled: names, addresses, rebinding, redirects and the environment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest

from prefect_n8n.blocks.client import N8nClient
from prefect_n8n.blocks.network import GuardedTransport
from prefect_n8n.core.errors import (
    CallNotSent,
    CallRefused,
    N8nAnswerInvalid,
)
from prefect_n8n.core.urls import Address, AllowList
from support.hostile import (
    HEADERS,
    LOOPBACK,
    Request,
    answers,
    calling,
    hostile,
)


def resolver(*found: list[str]) -> tuple[Callable[[str, int], Awaitable[list[Address]]], list[str]]:
    """A resolver that gives each answer once, and the names it was asked for."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[Address]:
        asked.append(host)
        return [ip_address(text) for text in found[len(asked) - 1]]

    return resolve, asked


@asynccontextmanager
async def resolving(
    url: str, allowed: AllowList, *found: list[str]
) -> AsyncIterator[tuple[N8nClient, list[str]]]:
    """A client whose names resolve so."""
    resolve, asked = resolver(*found)
    transport = GuardedTransport(allowed, resolve)
    async with N8nClient(url, allowed=allowed, transport=transport, timeout=2.0) as client:
        yield client, asked


async def test_a_name_without_addresses() -> None:
    async with resolving("http://gone.example", LOOPBACK, []) as (n8n, _):
        with pytest.raises(CallNotSent, match="no address"):
            await n8n.workflow("w1")


async def test_a_resolver_that_fails_or_hangs() -> None:
    async def fail(host: str, port: int) -> list[Address]:
        raise OSError("no DNS here")

    async def hang(host: str, port: int) -> list[Address]:
        await asyncio.sleep(60)
        return []

    for resolve in (fail, hang):
        transport = GuardedTransport(LOOPBACK, resolve)
        async with N8nClient(
            "http://x.example", allowed=LOOPBACK, transport=transport, timeout=0.3
        ) as n8n:
            with pytest.raises(CallNotSent):
                await n8n.workflow("w1")


async def test_a_name_is_dialled_by_its_address_and_called_by_its_name() -> None:
    async with hostile(answers(200)) as server:
        allowed = AllowList.parse(f"n8n.example:{server.port}")
        url = f"http://n8n.example:{server.port}"
        async with resolving(url, allowed, ["127.0.0.1"]) as (n8n, asked):
            assert (await n8n.post_webhook("orders", b"{}", HEADERS)).status == 200
    assert asked == ["n8n.example"]
    assert server.requests[0].headers["host"] == f"n8n.example:{server.port}"


async def test_the_next_address_is_tried() -> None:
    """The first one refuses: nothing listens on that port of 127.0.0.2."""
    async with hostile(answers(200)) as server:
        url = f"http://n8n.example:{server.port}"
        async with resolving(url, LOOPBACK, ["127.0.0.2", "127.0.0.1"]) as (n8n, _):
            assert (await n8n.post_webhook("orders", b"{}", HEADERS)).status == 200


# The guard


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x", "http://localhost/x", "http://[::1]/x", "http://169.254.169.254/x",
        "http://0.0.0.0/x", "http://10.0.0.1:5678/x", "http://[::ffff:127.0.0.1]/x",
        "http://2130706433/x", "http://user:pw@8.8.8.8/x", "ftp://8.8.8.8/x", "file:///etc/passwd",
        "http://8.8.8.8:22/x", "http:8.8.8.8/x", "unix:///var/run/docker.sock", "http://127.1/x",
    ],
)  # fmt: skip
async def test_the_guard_refuses(url: str) -> None:
    async with N8nClient("https://n8n.example.com", allowed=AllowList()) as n8n:
        with pytest.raises(CallRefused):
            await n8n.post_webhook(url, b"{}", [])


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "10.1.2.3", "::1", "fd00::1"])
async def test_a_name_that_resolves_inside_is_refused(address: str) -> None:
    async with resolving("http://evil.example", AllowList(), [address]) as (n8n, _):
        with pytest.raises(CallRefused, match="not a public address") as caught:
            await n8n.post_webhook("orders", b"{}", HEADERS)
    assert caught.value.target == "http://evil.example:80"


async def test_only_the_permitted_addresses_of_a_name_are_dialled() -> None:
    async with hostile(answers(200)) as server:
        allowed = AllowList.parse("127.0.0.2/32")
        url = f"http://mixed.example:{server.port}"
        async with resolving(url, allowed, ["127.0.0.1", "127.0.0.2"]) as (n8n, _):
            with pytest.raises(CallNotSent):
                await n8n.post_webhook("orders", b"{}", HEADERS)
    assert server.connections == 0, "127.0.0.1 listens, and is not allowed"


async def test_dns_rebinding_gains_nothing() -> None:
    """A name is public when it is checked, and inside when it is dialled: it is the same answer."""
    async with hostile(answers(200)) as server:
        allowed = AllowList.parse(f"203.0.113.9:{server.port}")
        url = f"http://rebind.example:{server.port}"
        async with resolving(url, allowed, ["203.0.113.9"], ["127.0.0.1"]) as (n8n, asked):
            with pytest.raises(CallNotSent):
                await n8n.post_webhook("orders", b"{}", HEADERS, timeout=0.3)
            assert asked == ["rebind.example"], "asked once, dialled what was checked"
            with pytest.raises(CallRefused):
                await n8n.post_webhook("orders", b"{}", HEADERS)
    assert server.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to", ["self", "http://169.254.169.254/latest/meta-data/"])
async def test_redirects_are_not_followed(status: int, to: str) -> None:
    async def answer(request: Request) -> None:
        host = request.headers["host"]
        location = f"http://{host}/inside" if to == "self" else to
        request.respond(status, b"", None, ((b"location", location.encode()),))

    async with calling(answer, api_key="key") as (n8n, server):
        assert (await n8n.post_webhook("orders", b"{}", HEADERS)).status == status
        with pytest.raises(N8nAnswerInvalid, match="redirect"):
            await n8n.workflow("w1")
    assert len(server.requests) == 2


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with calling(answers(200)) as (n8n, server):
        assert (await n8n.post_webhook("orders", b"{}", HEADERS)).status == 200
    assert server.requests[0].line == "POST /webhook/orders HTTP/1.1"


async def test_cookies_do_not_stay() -> None:
    async with calling(answers(200, set_cookie=b"a=b; Path=/")) as (n8n, server):
        for _ in range(2):
            await n8n.post_webhook("orders", b"{}", HEADERS)
    assert all("cookie" not in request.headers for request in server.requests)
