"""``POST /api/webhooks/n8n/{endpoint}``: verify, parse, commit, 202. The order is the safety.

Only what is committed is waited for: ``Prefer: wait=N`` changes the answer, never the event.
"""

from __future__ import annotations

import hashlib
import re
import time
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response

from ..core.errors import BodyInvalid, EventConflict, RequestError
from ..core.redaction import redact_headers
from ..core.signing import Headers, Proof, claim_of, verify
from ..core.strict_json import parse_object
from ..core.urls import AllowList
from ..ledger.inbox import Arrival
from ..ledger.registry import Endpoint
from . import answering
from .admission import Admission
from .callbacks import callback_of
from .edge import read_body
from .lookup import Lookup
from .preferences import wait_of
from .waiting import Waiters

DEFAULT_ENDPOINT = "default"
MAX_TEXT = 256

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_JSON_TYPE = re.compile(
    rb"application/(?:[\w.+-]+\+)?json\s*(?:;\s*charset=\"?utf-8\"?\s*)?", re.IGNORECASE
)


class Intake:
    """The receiving route.

    ``events_url`` is where operators see events, without their id; ``allowed`` what callbacks may
    go to besides public addresses.
    """

    def __init__(
        self,
        lookup: Lookup,
        admission: Admission,
        waiters: Waiters,
        *,
        events_url: str,
        allowed: AllowList,
    ) -> None:
        self._lookup = lookup
        self._admission = admission
        self._waiters = waiters
        self._events_url = events_url
        self._allowed = allowed

    async def __call__(self, request: Request) -> Response:
        """Answer 202 once the event is committed, or 200 once it has ended, if it was preferred to
        wait for that; see the errors for every other answer."""
        headers: Headers = request.scope["headers"]
        door = await self._lookup.find(request.path_params.get("endpoint", DEFAULT_ENDPOINT))
        claim = claim_of(door.scheme, headers)
        check_identity_encoding(headers)
        body = await read_body(request.scope, request.receive, door.endpoint.max_body)
        proof = verify(claim, body, door.secrets, now=time.time())
        check_json_type(headers)
        arrival = arrival_of(door.endpoint, proof, headers, body, self._allowed)
        tenant = door.endpoint.tenant_id
        recorded = await self._admission.accept(tenant, arrival)
        if not recorded.same_body:
            raise EventConflict("This event id is known with another body.")
        seconds = wait_of(headers)
        if seconds is None:
            return answering.accepted(recorded)
        waited = await self._waiters.wait(tenant, recorded.id, seconds, request.receive)
        if waited.answer is not None:
            return answering.ended(recorded, waited.answer)
        location = f"{self._events_url}/{recorded.id}"
        return answering.accepted_later(
            recorded, location, waited=seconds if waited.whole else None
        )


def arrival_of(
    endpoint: Endpoint, proof: Proof, headers: Headers, body: bytes, allowed: AllowList
) -> Arrival:
    """Turn a verified request into an arrival.

    Raises:
        BodyInvalid: not a strict JSON object, or its id or type is not a short text.
        CallbackRefused: its callback URL is none that we call.
    """
    payload = parse_object(body)
    return Arrival(
        endpoint_id=endpoint.id,
        event_id=_event_id(endpoint, proof, payload, body),
        type=_short_text(_field(payload, endpoint.event_type_field), endpoint.event_type_field),
        body=body,
        body_hash=hashlib.sha256(body).digest(),
        headers=redact_headers(list(headers)),
        traceparent=_traceparent(headers),
        callback_url=callback_of(payload, allowed),
    )


def _event_id(endpoint: Endpoint, proof: Proof, payload: dict[str, Any], body: bytes) -> str:
    """The dedup key comes from what is signed alone: a header that is not could be changed."""
    if proof.event_id is not None:
        return proof.event_id
    value = _short_text(_field(payload, endpoint.event_id_field), endpoint.event_id_field)
    if value:
        return value
    stamp = "" if proof.timestamp is None else str(proof.timestamp)
    return "sha256:" + hashlib.sha256(stamp.encode() + b"." + body).hexdigest()


def _field(payload: dict[str, Any], path: str) -> Any:
    value: Any = payload
    for part in path.split("."):
        value = cast(dict[str, Any], value).get(part) if isinstance(value, dict) else None
    return value


def _short_text(value: Any, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise BodyInvalid(f"The body's {name!r} must be a printable text of at most {MAX_TEXT}.")
    return value


def _traceparent(headers: Headers) -> str | None:
    found = [value for name, value in headers if name == b"traceparent"]
    return found[0].decode() if len(found) == 1 and _TRACEPARENT.fullmatch(found[0]) else None


def check_identity_encoding(headers: Headers) -> None:
    """Demand a body that is not compressed.

    Raises:
        RequestError: 415.
    """
    encodings = [value.lower() for name, value in headers if name == b"content-encoding"]
    if encodings not in ([], [b"identity"]):
        raise RequestError(
            "A compressed body is not accepted.", code="encoding-unsupported", status=415
        )


def check_json_type(headers: Headers) -> None:
    """Demand JSON in UTF-8.

    Raises:
        RequestError: 415.
    """
    types = [value.strip() for name, value in headers if name == b"content-type"]
    if len(types) != 1 or not _JSON_TYPE.fullmatch(types[0]):
        raise RequestError(
            "The content type must be application/json.", code="not-json", status=415
        )
