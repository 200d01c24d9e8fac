"""Test events: signed as the receiver asks, and a curl command that any shell takes."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_n8n.cli import sending
from prefect_n8n.core.errors import ConfigurationError, SignatureInvalid
from prefect_n8n.core.settings import Settings
from prefect_n8n.core.signing import claim_of, scheme_of, verify

KEY = b"k" * 32
NASTY = 'it\'s "quoted" $HOME `id` \\ ; & | > #\n\té ✓ {}!'


@pytest.mark.parametrize("scheme", ["standard", "hmac"])
def test_headers_verify(scheme: str) -> None:
    id, body = sending.test_event("order.created", {"note": NASTY})
    headers = sending.signed_headers(scheme, KEY, id, body)
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    claim = claim_of(scheme_of(scheme), raw)
    proof = verify(claim, body, [KEY], now=time.time())
    assert proof.timestamp is not None
    assert proof.event_id == (id if scheme == "standard" else None)
    assert headers["content-type"] == "application/json"
    with pytest.raises(SignatureInvalid):
        verify(claim, body + b" ", [KEY], now=time.time())
    with pytest.raises(SignatureInvalid):
        verify(claim, body, [b"x" * 32], now=time.time())


def test_events() -> None:
    id, body = sending.test_event("order.created", {"total": 1, "note": "é"})
    assert json.loads(body) == {"id": id, "type": "order.created", "total": 1, "note": "é"}
    assert sending.test_event("order.created", {})[0] != id


@pytest.mark.parametrize(
    ("types", "type"),
    [
        (["*"], "test"), (["order.*", "x"], "order.test"), (["order.?"], "order.x"),
        (["order.created"], "order.created"), (["[ab].x"], "a.x"), ([""], ""), ([], "test"),
        (["[!a]"], "test"), (["[!a]", "b"], "b"), (["["], "["),
    ],
)  # fmt: skip
def test_a_type_that_the_triggers_take(types: list[str], type: str) -> None:
    assert sending.example_type(types) == type


def test_what_triggers_take() -> None:
    assert sending.takes(["a", "order.*"], "order.created")
    assert not sending.takes(["a", "order.*"], "test")
    assert not sending.takes([], "test")


def test_an_id_and_type_of_the_users_own() -> None:
    id, body = sending.test_event("order.created", {"id": "mine", "type": "other"})
    assert id == "mine"
    assert json.loads(body) == {"id": "mine", "type": "other"}


def test_curl_passes_a_real_shell_unchanged() -> None:
    body = json.dumps({"note": NASTY}, ensure_ascii=False).encode()
    command = sending.curl("http://127.0.0.1:1/a?b=c&d=$e", {"x-a": NASTY.replace("\n", "")}, body)
    assert command.startswith("curl ")
    seen = subprocess.run(
        ["sh", "-c", "printf '%s\\0' " + command.removeprefix("curl ")],
        capture_output=True,
        check=True,
    )
    arguments = seen.stdout.decode().split("\0")[:-1]
    assert arguments[1] == "http://127.0.0.1:1/a?b=c&d=$e"
    assert arguments[3] == "x-a: " + NASTY.replace("\n", "")
    assert arguments[-2:] == ["--data-binary", body.decode()]


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.text()))
def test_curl_quotes_every_body(fields: dict[str, str]) -> None:
    body = json.dumps(fields).encode()
    parts = shlex.split(sending.curl("http://h", {"a": "b"}, body))
    assert parts == ["curl", "-i", "http://h", "-H", "a: b", "--data-binary", body.decode()]


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({}, "http://127.0.0.1:8788"),
        ({"host": "0.0.0.0", "port": 80}, "http://127.0.0.1:80"),
        ({"host": "::"}, "http://127.0.0.1:8788"),
        ({"host": "10.0.0.1"}, "http://10.0.0.1:8788"),
        ({"host": "0.0.0.0", "public_url": "https://a.example/n/"}, "https://a.example/n"),
    ],
)
def test_the_receivers_address(given: dict[str, Any], url: str) -> None:
    assert Settings(**given).receiver_url == url


def test_no_receiver_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> httpx.Response:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(sending.httpx, "post", refuse)
    with pytest.raises(ConfigurationError, match="No receiver answers at http://h: start one"):
        sending.send("http://h", {}, b"{}")
