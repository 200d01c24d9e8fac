"""``callback_url``: where the sender of an event wants its flow's result delivered."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from ..core.errors import RequestError

FIELD = "callback_url"
MAX_LENGTH = 2048

_PRINTABLE = re.compile(r"[!-~]+")


class CallbackRefused(RequestError):
    """The body's callback URL is none that we call."""

    status = 422
    code = "callback-refused"


def callback_of(payload: dict[str, Any]) -> str | None:
    """Return the event's callback URL, whole, or None where it has none.

    Raises:
        CallbackRefused: it is none that we call. The message does not repeat it.
    """
    url = payload.get(FIELD)
    if url is None or url == "":
        return None
    problem = _problem(url)
    if problem is not None:
        raise CallbackRefused(f"The body's {FIELD!r} {problem}.")
    return str(url)


def _problem(url: object) -> str | None:
    if not isinstance(url, str):
        return "must be a text"
    if len(url) > MAX_LENGTH:
        return f"is longer than {MAX_LENGTH} characters"
    if not _PRINTABLE.fullmatch(url):
        return "has a character that no URL has"
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("http", "https") or not named:
        return "must be a whole http:// or https:// URL"
    if "@" in parts.netloc:
        return "must not hold a user or a password"
    return None
