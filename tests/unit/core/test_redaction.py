"""Redaction: secret-looking keys and headers are masked at every depth, in a copy."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_n8n.core.redaction import MASK, redact, redact_headers, redact_url

SECRET_NAMES = [
    "password", "Password", "PASSWD", "passphrase", "pass", "db_pass", "password_confirmation",
    "userPassword2", "secret", "client_secret", "clientSecret", "token", "access_token", "tokens",
    "refreshToken", "api_key", "apiKey", "api-key", "X-API-Key", "authorization", "Cookie",
    "set-cookie", "signature", "private_key", "privateKey", "credentials", "card_number",
    "cardNumber", "cvv", "iban", "ssn",
]  # fmt: skip
PLAIN_NAMES = ["order", "name", "email", "note", "key", "passenger", "passed", "id", "number", ""]


@pytest.mark.parametrize("name", SECRET_NAMES)
@pytest.mark.parametrize("value", ["hunter2", 7, None, True, ["hunter2"], {"deep": "hunter2"}])
def test_secret_looking_keys_are_masked(name: str, value: Any) -> None:
    assert redact({name: value, "order": 7}) == {name: MASK, "order": 7}


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_other_keys_are_kept(name: str) -> None:
    assert redact({name: ["kept", 1.5, None]}) == {name: ["kept", 1.5, None]}


def test_nested_objects_and_lists() -> None:
    value = {"users": [{"name": "a", "password": "p"}, [{"auth": {"token": "t", "kind": "k"}}]]}
    masked = {"users": [{"name": "a", "password": MASK}, [{"auth": {"token": MASK, "kind": "k"}}]]}
    assert redact(value) == masked
    assert redact([value, "x"]) == [masked, "x"]


@pytest.mark.parametrize("value", [None, True, 0, 1.5, "password", "", [], {}])
def test_scalars_and_empty_values_stay(value: Any) -> None:
    assert redact(value) == value


RESUME = "http://n8n.example/webhook-waiting/38"


@pytest.mark.parametrize(
    "name", ["callback_url", "callbackUrl", "resumeUrl", "resume_url", "Callback-URL"]
)
def test_the_query_of_a_callback_is_masked(name: str) -> None:
    assert redact({name: f"{RESUME}?x=hunter2"}) == {name: f"{RESUME}?{MASK}"}
    assert redact({name: RESUME}) == {name: RESUME}
    assert redact({name: 7, "a": {name: None}}) == {name: 7, "a": {name: None}}


@pytest.mark.parametrize("query", ["signature=hunter2", "a=b&X-Amz-Signature=hunter2", "token=a?b"])
def test_a_signed_address_is_masked_wherever_it_stands(query: str) -> None:
    assert redact({"links": [f"{RESUME}?{query}"]}) == {"links": [f"{RESUME}?{MASK}"]}


@pytest.mark.parametrize("text", [f"{RESUME}?page=2", RESUME, "signature=1", "see a?token=1"])
def test_other_texts_stay(text: str) -> None:
    assert redact([text]) == [text]


def test_an_address_is_masked_behind_its_first_question_mark() -> None:
    assert redact_url(f"{RESUME}?a=b?c=d#e") == f"{RESUME}?{MASK}"
    assert redact_url(RESUME) == RESUME


names = st.one_of(st.sampled_from(SECRET_NAMES + PLAIN_NAMES), st.text())
documents = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.lists(inner) | st.dictionaries(names, inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(documents)
def test_the_input_is_not_changed(document: Any) -> None:
    before = copy.deepcopy(document)
    result = redact(document)
    assert document == before
    assert redact(result) == result


@settings(deadline=None)
@given(documents, st.sampled_from(SECRET_NAMES))
def test_nothing_below_a_secret_key_is_left(document: Any, name: str) -> None:
    result = redact([{"outer": {name: [document, "hunter2-marker"]}}])
    assert result == [{"outer": {name: MASK}}]
    assert "hunter2-marker" not in json.dumps(result)


def test_the_copy_shares_nothing() -> None:
    document: dict[str, Any] = {"rows": [{"name": "a"}]}
    result = redact(document)
    result["rows"][0]["name"] = "changed"
    result["rows"].append(1)
    assert document == {"rows": [{"name": "a"}]}


# Headers


@pytest.mark.parametrize(
    "name",
    [
        b"authorization", b"proxy-authorization", b"cookie", b"set-cookie", b"x-api-key",
        b"x-n8n-signature", b"webhook-signature", b"x-hub-signature-256", b"x-gitlab-token",
        b"Authorization", b"X-CSRF-TOKEN",
    ],
)  # fmt: skip
def test_secret_looking_headers_are_masked(name: bytes) -> None:
    assert redact_headers([(name, b"hunter2")]) == {name.decode(): MASK}


def test_other_headers_are_text() -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"webhook-id", b"msg_1"),
        (b"x-odd", b"\xe9"),
    ]
    assert redact_headers(headers) == {
        "content-type": "application/json",
        "webhook-id": "msg_1",
        "x-odd": "é",
    }


def test_repeated_headers_are_joined_in_order() -> None:
    headers = [(b"via", b"a"), (b"accept", b"x"), (b"via", b"b"), (b"via", b"")]
    assert redact_headers(headers) == {"via": "a, b, ", "accept": "x"}


def test_repeated_secret_headers_leak_nothing() -> None:
    result = redact_headers([(b"cookie", b"hunter2"), (b"cookie", b"hunter3")])
    assert result == {"cookie": f"{MASK}, {MASK}"}


def test_header_input_is_not_changed() -> None:
    headers = [(b"cookie", b"hunter2"), (b"via", b"a\x00")]
    before = list(headers)
    redact_headers(headers)
    assert headers == before
    assert redact_headers([]) == {}


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([b"via", b"cookie", b"x-\xff"]), st.binary())))
def test_header_values_can_be_stored(headers: list[tuple[bytes, bytes]]) -> None:
    result = redact_headers(headers)
    assert set(result) == {name.decode("latin-1") for name, _ in headers}
    for value in result.values():
        assert "\x00" not in value
        value.encode("utf-8")
