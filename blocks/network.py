"""The guarded wire: no call leaves but to an address that was checked when it was dialled.

``GuardedTransport`` is an httpx transport, and the one place where foreign targets are dialled. A
name is resolved once, every address that is not allowed is dropped, and one of the rest is dialled
as it is, under the name's own SNI and ``Host``: a name that resolves to another address at the next
question (DNS rebinding) gains nothing. It is used without httpx's client, so there are no
redirects, no proxies or other hints of the environment, no unix sockets, no cookies, no log lines
with URLs, and no decompression.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, cast

import httpcore
import httpx

from ..core.errors import CallFailed, CallNotSent, CallRefused, OutcomeUnknown
from ..core.urls import Address, AllowList, Target, check_address, check_url

CONNECT_SECONDS = 5.0
"""For the name and TCP together, and once more for TLS."""
KEEPALIVE_SECONDS = 2.0
"""Less than servers wait (Node: 5 s): a request must not meet a connection that is being closed."""
MAX_CONNECTIONS = 64
DNS_THREADS = 8

Resolve = Callable[[str, int], Awaitable[list[Address]]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. ``headers`` have lower-case names, repeated ones joined by commas;
    ``seconds`` is how long the call took in all."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


async def resolve(host: str, port: int) -> list[Address]:
    """Return all addresses of a name, in the system's order of preference.

    Raises:
        OSError: there are none, or no DNS.
    """
    loop = asyncio.get_running_loop()
    found = await loop.run_in_executor(
        _dns_threads(), lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    )
    # A scope ("fe80::1%eth0") comes with link-local addresses only.
    texts = (str(info[4][0]).partition("%")[0] for info in found)
    return [ip_address(text) for text in dict.fromkeys(texts)]


@lru_cache
def _dns_threads() -> ThreadPoolExecutor:
    # Not asyncio's own threads: a few names with slow servers would hold everything else up.
    return ThreadPoolExecutor(DNS_THREADS, thread_name_prefix="prefect-n8n-dns")


@lru_cache
def _tls() -> ssl.SSLContext:
    # SSL_CERT_FILE and SSL_CERT_DIR are obeyed: a private n8n often has a private authority.
    return httpx.create_ssl_context(trust_env=True)


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Dials addresses that are public or allowed, and nothing else: no unix sockets either."""

    def __init__(self, allowed: AllowList, resolve: Resolve = resolve) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._dialler = cast(httpcore.AsyncNetworkBackend, httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first permitted address that answers.

        Raises:
            CallRefused: no address of the name is permitted.
            CallNotSent: the name has no address, or none of them answers in ``timeout`` seconds.
        """
        deadline = time.monotonic() + (CONNECT_SECONDS if timeout is None else timeout)
        addresses = await self._permitted(Target("http", host, port, "/"), deadline)
        for number, address in enumerate(addresses):
            # The first may be of a family that goes nowhere from here: the others get their share.
            share = max(0.0, deadline - time.monotonic()) / (len(addresses) - number)
            try:
                return _Stream(
                    await self._dialler.connect_tcp(
                        str(address), port, share, local_address, socket_options
                    )
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
                if number + 1 == len(addresses):
                    raise CallNotSent(f"No connection: {_why(failed)}") from failed
        raise CallNotSent("The name has no address.")

    async def sleep(self, seconds: float) -> None:
        """Sleep, as the interface asks for; nothing is tried again here."""
        await asyncio.sleep(seconds)

    async def _permitted(self, target: Target, deadline: float) -> list[Address]:
        """The target's addresses but for those that may not be dialled."""
        addresses = [target.address] if target.address else await self._lookup(target, deadline)
        permitted: list[Address] = []
        refused: CallRefused | None = None
        for address in addresses:
            try:
                check_address(target, address, self._allowed)
            except CallRefused as error:
                refused = refused or error
            else:
                permitted.append(address)
        if refused is not None and not permitted:
            raise refused
        return permitted

    async def _lookup(self, target: Target, deadline: float) -> list[Address]:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await self._resolve(target.host, target.port)
        except TimeoutError as error:
            raise CallNotSent("Its name was not resolved in time.") from error
        except (OSError, UnicodeError) as error:
            raise CallNotSent(f"Its name was not resolved: {_why(error)}") from error


class _Stream(httpcore.AsyncNetworkStream):
    """httpcore's stream, closed also where our own time limit cuts off a TLS handshake."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._inner.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._inner.start_tls(ssl_context, server_hostname, timeout)
        except asyncio.CancelledError:
            await self._inner.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class GuardedTransport(httpx.AsyncBaseTransport):
    """An httpx transport that checks every URL, and every address when it is dialled.

    Connections are kept for reuse for two seconds; they belong to the event loop they were made in.
    """

    def __init__(self, allowed: AllowList, resolve: Resolve = resolve) -> None:
        self._allowed = allowed
        self._backend = GuardedBackend(allowed, resolve)
        self._pools: dict[str, httpcore.AsyncConnectionPool] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request and return its answer, whose body is still to be read.

        Raises:
            CallRefused: the URL or its addresses are not allowed.
            CallNotSent: no connection.
            httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError: as httpcore.
        """
        target = check_url(str(request.url), self._allowed)
        assert isinstance(request.stream, httpx.AsyncByteStream)
        answer = await self._pool(target.scheme).handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=target.scheme,
                    host=target.host,
                    port=target.port,
                    target=target.path_and_query,
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=_Body(answer),
        )

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            await pool.aclose()

    def _pool(self, scheme: str) -> httpcore.AsyncConnectionPool:
        """One pool for each scheme: without https the certificates need not be loaded."""
        if scheme not in self._pools:
            self._pools[scheme] = httpcore.AsyncConnectionPool(
                ssl_context=_tls() if scheme == "https" else None,
                max_connections=MAX_CONNECTIONS,
                keepalive_expiry=KEEPALIVE_SECONDS,
                network_backend=self._backend,
            )
        return self._pools[scheme]


class _Body(httpx.AsyncByteStream):
    """The body of an answer as httpcore reads it."""

    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._answer.aiter_stream():
            yield chunk

    async def aclose(self) -> None:
        await self._answer.aclose()


class _Progress:
    """How far a call came. httpcore reports each step before it takes it."""

    def __init__(self) -> None:
        self.sent = False
        self.status: int | None = None

    async def __call__(self, step: str, _info: object) -> None:
        # Asked for before the first byte, on a connection of whatever age.
        if step.endswith("send_request_headers.started"):
            self.sent = True


async def call(
    transport: httpx.AsyncBaseTransport,
    target: Target,
    method: str,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
    *,
    max_answer: int,
    seconds: float,
) -> Answer:
    """Send one request and read its whole answer, of any status, within ``seconds`` in all.

    ``headers`` are sent as they are, after ``Host``, ``Content-Length`` and ``Accept-Encoding``.
    An answer of more than ``max_answer`` bytes is not read to its end.

    Raises:
        CallRefused: the guard does not allow the target; nothing was sent.
        CallNotSent: not a byte of the request was sent.
        OutcomeUnknown: anything that happened later; ``status`` where the answer's head came.
    """
    progress = _Progress()
    request = httpx.Request(
        method,
        target.url,
        headers=[(b"host", target.authority.encode()), (b"accept-encoding", b"identity"), *headers],
        content=body,
        extensions={"timeout": {"connect": CONNECT_SECONDS}, "trace": progress},
    )
    begun = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            response = await transport.handle_async_request(request)
            progress.status = response.status_code
            try:
                content = await _read(response, max_answer)
            finally:
                await response.aclose()
    except CallFailed as error:
        error.target = target.origin
        error.status = progress.status
        raise
    except Exception as error:
        # All, because whatever went wrong after the request left, its outcome is not known.
        raise _failed(error, progress, target, seconds) from error
    names = {name: ", ".join(response.headers.get_list(name)) for name in response.headers}
    return Answer(response.status_code, names, content, time.monotonic() - begun)


async def _read(response: httpx.Response, limit: int) -> bytes:
    """The body as it came, up to the limit: it is counted while it is read."""
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > limit:
            raise OutcomeUnknown(f"The answer is larger than {limit} bytes.")
    return bytes(content)


def _failed(error: Exception, progress: _Progress, target: Target, seconds: float) -> CallFailed:
    """Say what became of a call that ended without a whole answer."""
    late = f"No whole answer within {seconds:g} seconds."
    if not progress.sent:
        message = (
            "No connection in time."
            if isinstance(error, TimeoutError | httpcore.TimeoutException)
            else f"No connection: {_why(error)}"
        )
        return CallNotSent(message, target=target.origin)
    message = (
        late if isinstance(error, TimeoutError) else f"The request was sent, then: {_why(error)}"
    )
    return OutcomeUnknown(message, target=target.origin, status=progress.status)


def _why(error: BaseException) -> str:
    """The innermost reason, without class names where the system has a sentence."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError) and error.errno:
        # asyncio's own sentence names the address, which is not everyone's to know.
        known = not isinstance(error, socket.gaierror | ssl.SSLError)
        return os.strerror(error.errno) if known else error.strerror or str(error)
    return str(error) or type(error).__name__
