"""The answers of the receiving route: 202 at once, or 200 with what the flow returned."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from ..ledger.answers import Answer
from ..ledger.inbox import Recorded

APPLIED = "preference-applied"


def accepted(recorded: Recorded) -> Response:
    """Answer 202: the event is committed."""
    return _json(202, _fields(recorded), {})


def accepted_later(recorded: Recorded, location: str, *, waited: int | None) -> Response:
    """Answer 202 to a sender that wanted to wait; ``waited`` seconds did not suffice.

    ``location`` is where the result is going to be; ``waited`` is None where we did not wait so
    long.
    """
    headers = {"location": location}
    if waited is not None:
        headers[APPLIED] = f"wait={waited}"
    return _json(202, _fields(recorded), headers)


def ended(recorded: Recorded, answer: Answer) -> Response:
    """Answer 200: the event has ended, well or not."""
    body = _fields(recorded) | answer.outcome() | {"executions": answer.links}
    return _json(200, body, {APPLIED: "wait"})


def _fields(recorded: Recorded) -> dict[str, Any]:
    return {
        "id": str(recorded.id),
        "state": recorded.state,
        "duplicate": recorded.duplicate,
    }


def _json(status: int, body: dict[str, Any], headers: dict[str, str]) -> Response:
    return JSONResponse(body, status, headers={"cache-control": "no-store"} | headers)
