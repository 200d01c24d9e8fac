"""Masks secrets in what people and logs see. The stored event keeps its body as it came."""

from __future__ import annotations

import re
from typing import Any, cast

MASK = "********"

_SECRET_NAME = re.compile(
    r"pass(word|wd|phrase)|pass$|secret|token|api[-_]?key|authorization|cookie|signature"
    r"|private[-_]?key|credential|card[-_]?number|cvv|iban|ssn",
    re.IGNORECASE,
)

# Whoever has an address of this kind may call it, whatever its parameters are named.
_SECRET_URL_NAME = re.compile(r"(callback|resume)[-_]?url", re.IGNORECASE)
_URL = re.compile(r"https?://[^\s?#]*\?", re.IGNORECASE)


def redact(value: Any) -> Any:
    """Return a copy of a JSON value with the values of secret-looking keys masked, and the queries
    of addresses that a secret opens."""
    if isinstance(value, dict):
        fields = cast(dict[str, Any], value)
        return {k: _redact_field(k, v) for k, v in fields.items()}
    if isinstance(value, list):
        return [redact(item) for item in cast(list[Any], value)]
    if (
        isinstance(value, str)
        and _URL.match(value)
        and _SECRET_NAME.search(value.partition("?")[2])
    ):
        return redact_url(value)
    return value


def redact_url(url: str) -> str:
    """Return the address with its query, if it has one, masked."""
    address, mark, _ = url.partition("?")
    return address + mark + MASK if mark else url


def _redact_field(name: str, value: Any) -> Any:
    if _SECRET_NAME.search(name):
        return MASK
    if _SECRET_URL_NAME.fullmatch(name) and isinstance(value, str):
        return redact_url(value)
    return redact(value)


def redact_headers(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers as text for storage, secret-looking ones masked, repeated ones joined."""
    result: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1")
        value = MASK if _SECRET_NAME.search(name) else raw_value.decode("latin-1")
        value = value.replace("\x00", "")
        result[name] = f"{result[name]}, {value}" if name in result else value
    return result
