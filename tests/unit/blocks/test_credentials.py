"""The credentials block: Prefect's rules for blocks, secrets that stay secret, and its client."""

from __future__ import annotations

import base64
from typing import Any
from uuid import UUID

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from prefect_n8n.blocks import credentials
from prefect_n8n.blocks.credentials import N8nCredentials
from prefect_n8n.blocks.defaults import credentials_from
from prefect_n8n.core.errors import ConfigurationError
from prefect_n8n.core.settings import Settings

SECRET = "hunter2-hunter2-hunter2-new"
OLD = "hunter2-hunter2-hunter2-old"


class TestPrefectsRules(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return N8nCredentials

    @pytest.mark.skip(reason="It downloads the logo.")
    def test_has_a_valid_image(self, block: type[Block]) -> None: ...


def full() -> N8nCredentials:
    return N8nCredentials.model_validate(
        {
            "base_url": "https://n8n.example.com",
            "api_key": "hunter2-key",
            "webhook_secrets": [SECRET, OLD],
        }
    )


def test_its_names_stay() -> None:
    """Stored blocks are found by them."""
    assert N8nCredentials.get_block_type_slug() == "n8n-credentials"
    assert set(N8nCredentials.model_fields) == {
        "base_url", "api_key", "webhook_url", "webhook_secrets",
    }  # fmt: skip


def test_prefect_knows_which_fields_are_secret() -> None:
    """It masks those, and no others, in its UI and API."""
    block_schema: dict[str, Any] = N8nCredentials.model_json_schema()
    assert sorted(block_schema["secret_fields"]) == ["api_key", "webhook_secrets"]


def test_secrets_are_masked() -> None:
    made = full()
    assert isinstance(made.api_key, SecretStr)
    assert all(isinstance(secret, SecretStr) for secret in made.webhook_secrets)
    for text in (repr(made), str(made), made.model_dump_json(), f"{made.model_dump()}"):
        assert "hunter2" not in text


def test_keys_in_their_order() -> None:
    text = "whsec_" + base64.b64encode(b"k" * 32).decode()
    made = N8nCredentials.model_validate({"webhook_secrets": [text, OLD]})
    assert made.keys() == (b"k" * 32, OLD.encode())
    assert N8nCredentials().keys() == ()


def test_a_short_secret_is_a_sentence_without_it() -> None:
    made = N8nCredentials.model_validate({"webhook_secrets": [SECRET, "hunter2"]})
    with pytest.raises(ConfigurationError, match="7 bytes is too short: use 24") as caught:
        made.keys()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("base", ["https://n8n.example.com", "https://n8n.example.com/n8n/"])
def test_the_client(base: str) -> None:
    client = N8nCredentials.model_validate({"base_url": base}).get_client()
    assert client.base_url == base.rstrip("/")
    assert client.webhook_address("orders") == f"{base.rstrip('/')}/webhook/orders"


def test_the_client_with_webhooks_elsewhere() -> None:
    made = N8nCredentials.model_validate({"webhook_url": "https://hooks.example.com/in/"})
    assert made.get_client().webhook_address("orders") == "https://hooks.example.com/in/orders"


def test_wrong_addresses_are_refused() -> None:
    for value in ("", "localhost:5678", "ftp://n8n.example.com"):
        with pytest.raises(ValidationError):
            N8nCredentials.model_validate({"base_url": value})


@pytest.mark.parametrize("in_run", [False, True])
def test_outside_of_runs_its_use_is_no_event(monkeypatch: pytest.MonkeyPatch, in_run: bool) -> None:
    """Receivers load it every few seconds, and commands would wait for the event to be taken."""
    monkeypatch.setattr(credentials.FlowRunContext, "get", lambda: object() if in_run else None)
    made = full()
    made._block_document_id, made._block_document_name = UUID(int=1), "default"  # pyright: ignore[reportPrivateUsage]
    assert (made._event_method_called_resources() is not None) is in_run  # pyright: ignore[reportPrivateUsage]


# From the environment


def test_from_a_full_environment() -> None:
    made = credentials_from(
        Settings(
            n8n_base_url="https://n8n.example.com",
            n8n_api_key=SecretStr("hunter2-key"),
            n8n_webhook_url="https://hooks.example.com/webhook",
            n8n_webhook_secret=SecretStr(f" {SECRET} , ,{OLD},"),
        )
    )
    assert str(made.base_url) == "https://n8n.example.com/"
    assert str(made.webhook_url) == "https://hooks.example.com/webhook"
    assert made.api_key is not None
    assert made.api_key.get_secret_value() == "hunter2-key"
    assert made.keys() == (SECRET.encode(), OLD.encode())


@pytest.mark.parametrize("given", [None, "", " ", ","])
def test_a_secret_is_generated_where_none_is_given(given: str | None) -> None:
    secret = None if given is None else SecretStr(given)
    texts: set[str] = set()
    for _ in range(2):
        made = credentials_from(Settings(n8n_webhook_secret=secret))
        (only,) = made.webhook_secrets
        texts.add(only.get_secret_value())
    assert len(texts) == 2
    for text in texts:
        # n8n's Crypto node keys with the text: it must be what a person can copy.
        assert len(text) >= 32
        assert text.isascii()
        assert text.isprintable()
        assert " " not in text
    assert made.api_key is None
    assert made.webhook_url is None


def test_a_short_secret_in_the_environment_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="too short") as caught:
        credentials_from(Settings(n8n_webhook_secret=SecretStr(f"{SECRET},hunter2")))
    assert "hunter2" not in str(caught.value)
