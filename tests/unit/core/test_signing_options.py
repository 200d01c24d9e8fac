"""Options and secrets of signatures as people write them: what is understood, what is refused."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_n8n.core.errors import ConfigurationError
from prefect_n8n.core.signing import (
    MIN_SECRET_BYTES,
    HmacScheme,
    StandardScheme,
    new_secret,
    scheme_of,
    secret_bytes,
    whsec,
)

# Options


def test_schemes_by_name() -> None:
    assert scheme_of("standard") == scheme_of("standard", {}) == StandardScheme()
    assert scheme_of("hmac") == scheme_of("hmac", {}) == HmacScheme()


def test_hmac_options() -> None:
    options: dict[str, object] = {
        "header": "X-Hub-Signature-256",
        "prefix": "",
        "encoding": "base64",
        "timestamp_header": "X-Stamp",
        "timestamp_required": True,
    }
    before = dict(options)
    expected = HmacScheme(b"x-hub-signature-256", b"", "base64", b"x-stamp", True)
    assert scheme_of("hmac", options) == expected
    assert options == before
    assert scheme_of("hmac", {"timestamp_header": None}) == HmacScheme(timestamp_header=None)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("", {}), ("none", {}), ("HMAC", {}), ("standard", {"header": "x"}),
        ("hmac", {"secret": "x"}), ("hmac", {"encoding": "hexa"}), ("hmac", {"encoding": None}),
        ("hmac", {"encoding": ["hex"]}), ("hmac", {"timestamp_required": "yes"}),
        ("hmac", {"timestamp_required": 1}), ("hmac", {"header": ""}), ("hmac", {"header": None}),
        ("hmac", {"header": "x y"}), ("hmac", {"header": "x\n"}), ("hmac", {"header": "é"}),
        ("hmac", {"header": "x" * 65}), ("hmac", {"timestamp_header": ""}),
        ("hmac", {"timestamp_header": 5}), ("hmac", {"prefix": "é"}), ("hmac", {"prefix": None}),
        ("hmac", {"prefix": 5}), ("hmac", {"prefix": "sha256= "}), ("hmac", {"prefix": "a\n"}),
        ("hmac", {"timestamp_required": True, "timestamp_header": None}),
    ],
)  # fmt: skip
def test_options_not_understood(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        scheme_of(name, options)


# Secrets as text


def test_whsec_is_decoded() -> None:
    key = bytes(range(MIN_SECRET_BYTES))
    assert secret_bytes("whsec_" + base64.b64encode(key).decode()) == key


def test_other_text_is_its_own_utf8_key() -> None:
    assert secret_bytes("é" * 12) == "é".encode() * 12
    assert secret_bytes("WHSEC_" + "A" * 32) == b"WHSEC_" + b"A" * 32


@pytest.mark.parametrize(
    "text",
    [
        "", "x" * 23, "é" * 11, "whsec_", "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + "A" * 33, "whsec_" + "A" * 32 + "\n", "whsec_" + "-" * 32, "whsec_" + "é" * 32,
        "whsec_" + "\ud800" * 32, "\ud800" * 32, "whsec_ " + "A" * 32,
    ],
    ids=ascii,
)  # fmt: skip
def test_secrets_refused(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        secret_bytes(text)
    assert len(text) < MIN_SECRET_BYTES - 1 or text not in str(caught.value)


@settings(deadline=None)
@given(st.text())
def test_secret_bytes_raises_only_configuration_errors(text: str) -> None:
    for candidate in (text, "whsec_" + text):
        try:
            assert len(secret_bytes(candidate)) >= MIN_SECRET_BYTES
        except ConfigurationError:
            continue


def test_new_secrets_are_printable_long_and_different() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    for text in made:
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", text)
        assert len(secret_bytes(text)) >= 32


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=MIN_SECRET_BYTES))
def test_whsec_notation_keeps_the_key(text: str) -> None:
    if not text.startswith("whsec_"):
        assert secret_bytes(whsec(text)) == text.encode()
        assert whsec(whsec(text)) == whsec(text)
