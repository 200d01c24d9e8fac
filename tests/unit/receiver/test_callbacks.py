"""The shape of a callback URL."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_n8n.core.urls import AllowList
from prefect_n8n.receiver.callbacks import CallbackRefused, callback_of

NONE = AllowList.parse("")

RESUME = "https://n8n.example/webhook-waiting/38?signature=" + "0" * 64


@pytest.mark.parametrize("body", [{}, {"callback_url": None}, {"callback_url": ""}])
def test_an_event_need_not_have_one(body: dict[str, Any]) -> None:
    assert callback_of(body, NONE) is None


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
    assert callback_of({"callback_url": url}, NONE) == url


@pytest.mark.parametrize(
    "url",
    [
        38,
        True,
        ["https://n8n.example"],
        {"url": "https://n8n.example"},
        "/webhook-waiting/38?signature=hunter2",
        "//n8n.example/a?signature=hunter2",
        "n8n.example/a?signature=hunter2",
        "ftp://n8n.example/a?signature=hunter2",
        "javascript:alert(1)",
        "https://?signature=hunter2",
        "https:///a?signature=hunter2",
        "https://user@n8n.example/a?signature=hunter2",
        "https://user:hunter2@n8n.example/a",
        "https://@n8n.example/a?signature=hunter2",
        "https://n8n.example:port/a?signature=hunter2",
        "https://n8n.example:0/a?signature=hunter2",
        "https://n8n.example:99999/a?signature=hunter2",
        "https://[::1/a?signature=hunter2",
        "https://n8n.example/a b?signature=hunter2",
        " https://n8n.example/a?signature=hunter2",
        "https://n8n.example/a?signature=hunter2\n",
        "http://127.0.0.1/webhook-waiting/38?signature=hunter2",
        "http://169.254.169.254/latest?signature=hunter2",
        "http://[::1]:5678/a?signature=hunter2",
        "http://2130706433/a?signature=hunter2",
        "http://n8n.example:22/a?signature=hunter2",
        "https://n8n.example/" + "a" * 2029,
    ],
)
def test_all_else_is_refused_without_repeating_it(url: object) -> None:
    with pytest.raises(CallbackRefused) as caught:
        callback_of({"callback_url": url}, NONE)
    assert (caught.value.status, caught.value.code) == (422, "callback-refused")
    assert "hunter2" not in str(caught.value)


def test_what_settings_allow_is_taken() -> None:
    url = "http://127.0.0.1:25678/webhook-waiting/38?signature=hunter2"
    assert callback_of({"callback_url": url}, AllowList.parse("127.0.0.0/8")) == url
