"""The request header ``Prefer`` (RFC 7240). What it does not say clearly is passed over."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..core.signing import Headers

MAX_WAIT = 55
"""Seconds. Proxies between n8n and us often give up after 60."""

# Possessive, so that a hostile header is read once.
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_WORD = rf'(?:{_NAME}|"(?:[^"\\]|\\.)*+")'
_VALUE = rf"[ \t]*+=[ \t]*+{_WORD}"
_PREFERENCE = re.compile(
    rf"[ \t]*+(?P<name>{_NAME})(?:[ \t]*+=[ \t]*+(?P<value>{_WORD}))?+"
    rf"(?:[ \t]*+;[ \t]*+(?:{_NAME}(?:{_VALUE})?+)?+)*+[ \t]*+(?:,|$)"
)
_EMPTY = re.compile(r"[ \t]*+,")


def wait_of(headers: Headers) -> int | None:
    """Return how many seconds (0 to 55) the sender prefers to wait for the result; None: it does
    not.

    Of several ``wait`` the first counts. A value that is no whole number is passed over.
    """
    text = b",".join(value for name, value in headers if name == b"prefer").decode("latin-1")
    for name, value in _preferences(text):
        if name.lower() == "wait":
            return _seconds(value or "")
    return None


def _seconds(value: str) -> int | None:
    if not (value.isascii() and value.isdigit()):
        return None
    digits = value.lstrip("0") or "0"
    return MAX_WAIT if len(digits) > 2 else min(int(digits), MAX_WAIT)


def _preferences(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield names and values until the end, or the first that is not well-formed."""
    at = 0
    while at < len(text):
        if empty := _EMPTY.match(text, at):
            at = empty.end()
            continue
        found = _PREFERENCE.match(text, at)
        if found is None:
            return
        yield found["name"], found["value"]
        at = found.end()
