"""Answers in RFC 9457 problem+json. They carry a stable type and nothing of our insides."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import JSONResponse, Response

from ..core.errors import LedgerUnavailable, RequestError, Unavailable

TYPE_PREFIX = "urn:prefect-n8n:problem:"
RETRY_AFTER_SECONDS = 5
TOKEN_INVALID = "token-invalid"  # noqa: S105 - a problem's name

# A browser that is told of Basic asks its user, for the link in a run opens one.
_CHALLENGES = {TOKEN_INVALID: 'Basic realm="prefect-n8n", Bearer'}


class ProblemResponse(JSONResponse):
    """A problem+json answer."""

    media_type = "application/problem+json"


def problem(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    """Build a problem answer; ``code`` ends its ``type``."""
    body = {
        "type": TYPE_PREFIX + code,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return ProblemResponse(body, status, headers={"cache-control": "no-store", **(headers or {})})


def refused(error: RequestError) -> Response:
    """The answer to a request its sender has to change. Closes the connection: its body may not
    have been read."""
    headers = {"connection": "close"}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = _CHALLENGES.get(error.code, "Signature")
    return problem(error.status, error.code, str(error), headers)


def unavailable(error: Unavailable) -> Response:
    """The answer where nothing was committed and the same request may succeed later."""
    what = "The event was not stored" if isinstance(error, LedgerUnavailable) else "Not ready"
    return problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "unavailable",
        f"{what}; send the same request again.",
        {"retry-after": str(RETRY_AFTER_SECONDS)},
    )
