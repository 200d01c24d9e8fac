"""The outermost ring: refuses requests whose framing two servers could read in two ways."""

from __future__ import annotations

import logging
from http import HTTPStatus

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..core.errors import BodyInvalid, RequestError, Unavailable
from .problems import problem, refused, unavailable

MAX_HEAD = 65_536
"""Bytes of a request's target and headers."""

logger = logging.getLogger("prefect_n8n.receiver")

BAD_FRAMING = BodyInvalid(
    "The request's Host or framing headers are not clear.", code="bad-framing"
)


class Edge:
    """ASGI middleware: framing rules before, and the table of error answers around ``app``."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            check_framing(scope["http_version"], scope["headers"])
            check_size(scope)
            await self.app(scope, receive, watched)
        except RequestError as error:
            await refused(error)(scope, receive, send)
        except Unavailable as error:
            logger.warning("not available: %s", error)
            await unavailable(error)(scope, receive, send)
        except ClientDisconnect:
            logger.info("the client went away")
        except Exception:
            logger.exception("unexpected error")
            if not started:
                answer = problem(
                    HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "Something went wrong here."
                )
                await answer(scope, receive, send)


def check_framing(version: str, headers: list[tuple[bytes, bytes]]) -> None:
    """Demand one Host, no Transfer-Encoding but ``chunked``, and one way to tell the body's end.

    HTTP/1.0 needs no Host and has no Transfer-Encoding.

    Raises:
        BodyInvalid: the framing is not clear (RFC 9112 section 6.1).
    """
    names = [name for name, _ in headers]
    encodings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    old = version == "1.0"
    clear = (
        version in ("1.0", "1.1")
        and names.count(b"host") in ((0, 1) if old else (1,))
        and encodings in ([[]] if old else [[], [b"chunked"]])
        and names.count(b"content-length") + len(encodings) <= 1
    )
    if not clear:
        raise BAD_FRAMING


def check_size(scope: Scope) -> None:
    """Demand a head within its limit: h11 passes over one that came in one piece.

    Raises:
        RequestError: 431, it is larger.
    """
    size = len(scope["raw_path"]) + len(scope["query_string"])
    size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if size > MAX_HEAD:
        raise RequestError("The request's head is too large.", code="head-too-large", status=431)


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Read the whole body, counting its bytes as they come.

    Raises:
        RequestError: 413, more than ``limit`` bytes came or are declared.
        ClientDisconnect: the sender went away before the end.
    """
    too_large = RequestError(
        f"The body is larger than {limit} bytes.", code="body-too-large", status=413
    )
    # One that is declared is refused before it is sent; what is not declared is counted.
    if any(name == b"content-length" and int(value) > limit for name, value in scope["headers"]):
        raise too_large
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > limit:
            raise too_large
        if not message.get("more_body", False):
            return bytes(body)
