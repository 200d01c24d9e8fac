"""The shape of a callback URL."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_n8n.receiver.callbacks import CallbackRefused, callback_of

RESUME = "https://n8n.example/webhook-waiting/38?signature=" + "0" * 64


@pytest.mark.parametrize("body", [{}, {"callback_url": None}, {"callback_url": ""}])
def test_an_event_need_not_have_one(body: dict[str, Any]) -> None:
    assert callback_of(body) is None


@pytest.mark.parametrize(
    "url",
    [
        RESUME,
        "https://n8n.example:8443/a?b=c&d=%20",
        "https://n8n.example",
        "https://n8n.example/" + "a" * 2028,
    ],
)
def test_it_is_taken_whole(url: str) -> None:
    assert callback_of({"callback_url": url}) == url


@pytest.mark.parametrize(
    "url",
    [
        38,
        True,
        ["https://n8n.example"],
        {"url": "https://n8n.example"},
        "/webhook-waiting/38?signature=secret",
        "//n8n.example/a?signature=secret",
        "n8n.example/a?signature=secret",
        "ftp://n8n.example/a?signature=secret",
        "javascript:alert(1)",
        "https://?signature=secret",
        "https:///a?signature=secret",
        "https://user@n8n.example/a?signature=secret",
        "https://user:secret@n8n.example/a",
        "https://@n8n.example/a?signature=secret",
        "https://n8n.example:port/a?signature=secret",
        "https://n8n.example:0/a?signature=secret",
        "https://n8n.example:99999/a?signature=secret",
        "https://[::1/a?signature=secret",
        "https://n8n.example/a b?signature=secret",
        " https://n8n.example/a?signature=secret",
        "https://n8n.example/a?signature=secret\n",
        "https://n8n.exämple/a?signature=secret",
        "https://n8n.example/" + "a" * 2029,
    ],
)
def test_all_else_is_refused_without_repeating_it(url: object) -> None:
    with pytest.raises(CallbackRefused) as caught:
        callback_of({"callback_url": url})
    assert (caught.value.status, caught.value.code) == (422, "callback-refused")
    assert "secret" not in str(caught.value)
