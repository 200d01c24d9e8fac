"""Bearer tokens of operators. A browser may give the token as the password of Basic."""

from __future__ import annotations

import base64
import binascii

from starlette.requests import Request

from ..core.errors import RequestError
from ..ledger.database import Database
from ..ledger.registry import Token, resolve_token
from .patience import QUERY_SECONDS, in_time
from .problems import TOKEN_INVALID


class Unauthorized(RequestError):
    """No known token came with the request."""

    status = 401
    code = TOKEN_INVALID


async def require(request: Request, database: Database, scope: str) -> Token:
    """Return the request's token if it holds ``scope`` (``admin`` holds all).

    Raises:
        Unauthorized: no token, or an unknown or expired one.
        RequestError: 403, the token lacks the scope.
    """
    presented = _presented(request.headers.get("authorization", ""))
    if presented is None:
        raise Unauthorized("Send an API token: Authorization: Bearer <token>.")
    async with in_time(QUERY_SECONDS), database.transaction(None) as connection:
        token = await resolve_token(connection, presented)
    if token is None:
        raise Unauthorized("The API token is not known or has expired.")
    if not token.scopes & {scope, "admin"}:
        raise RequestError(f"The token lacks the scope {scope!r}.", code="scope", status=403)
    return token


def _presented(header: str) -> str | None:
    kind, _, value = header.partition(" ")
    if kind.lower() == "bearer" and value:
        return value.strip()
    if kind.lower() == "basic":
        try:
            pair = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError):
            return None
        return pair.partition(":")[2] or None
    return None
