"""Signed test events: sent by ``send-test``, shown as a curl command by ``up``."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any
from uuid import uuid4

import httpx

from ..core.errors import ConfigurationError
from ..core.signing import scheme_of, sign

PATH = "/api/webhooks/n8n/"

_SET = re.compile(r"\[([^\]!])[^\]]*\]")
"""A set of characters in a glob, with its first one as group."""


def takes(types: Sequence[str], type: str) -> bool:
    """Whether triggers of ``types``, which are globs, take events of that type."""
    return any(fnmatchcase(type, glob) for glob in types)


def example_type(types: Sequence[str]) -> str:
    """Return an event type that triggers of ``types`` take, if one can be made up; else "test"."""
    for glob in types:
        made = _SET.sub(r"\1", glob).replace("*", "test").replace("?", "x")
        if takes([glob], made):
            return made
    return "test"


def test_event(type: str, fields: dict[str, Any]) -> tuple[str, bytes]:
    """Return the id and the body of a test event."""
    id = f"test-{uuid4().hex[:12]}"
    body = {"id": id, "type": type} | fields
    return str(body["id"]), json.dumps(body, ensure_ascii=False).encode()


def signed_headers(scheme: str, key: bytes, id: str, body: bytes) -> dict[str, str]:
    """Return the headers that sign ``body`` now; they hold for five minutes."""
    pairs = sign(scheme_of(scheme), key, body, event_id=id, timestamp=int(time.time()))
    signed = {name.decode(): value.decode() for name, value in pairs}
    return {"content-type": "application/json"} | signed


def curl(url: str, headers: dict[str, str], body: bytes) -> str:
    """Return a curl command for a POSIX shell."""
    parts = ["curl", "-i", url]
    for name, value in headers.items():
        parts += ["-H", f"{name}: {value}"]
    return shlex.join([*parts, "--data-binary", body.decode()])


def send(url: str, headers: dict[str, str], body: bytes) -> httpx.Response:
    """Post the event.

    Raises:
        ConfigurationError: there is no receiver.
    """
    try:
        return httpx.post(url, content=body, headers=headers, timeout=15, trust_env=False)
    except httpx.TransportError as error:
        raise ConfigurationError(
            f"No receiver answers at {url}: start one with `prefect-n8n up FILE`, or set"
            " PREFECT_N8N_PUBLIC_URL to where it is."
        ) from error
