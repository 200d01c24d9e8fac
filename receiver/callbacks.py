"""``callback_url``: where the sender of an event wants its flow's result delivered."""

from __future__ import annotations

from typing import Any

from ..core.errors import CallRefused, RequestError
from ..core.urls import AllowList, check_url

FIELD = "callback_url"
MAX_LENGTH = 2048


class CallbackRefused(RequestError):
    """The body's callback URL is none that we call."""

    status = 422
    code = "callback-refused"


def callback_of(payload: dict[str, Any], allowed: AllowList) -> str | None:
    """Return the event's callback URL, whole, or None where it has none.

    Raises:
        CallbackRefused: it is none that we call. The message names its host at most.
    """
    url = payload.get(FIELD)
    if url is None or url == "":
        return None
    if not isinstance(url, str) or len(url) > MAX_LENGTH:
        raise CallbackRefused(f"{FIELD}: it must be a text of at most {MAX_LENGTH} characters.")
    try:
        check_url(url, allowed)
    except CallRefused as error:
        raise CallbackRefused(f"{FIELD}: {error}") from None
    return url
