"""``send-test`` where Prefect, which keeps the secret, is of no help."""

from __future__ import annotations

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_n8n.cli import testing
from prefect_n8n.core.errors import ConfigurationError, PrefectUnavailable, SecretsUnusable


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PrefectUnavailable("Prefect did not answer: ConnectError"), "at http://prefect:4200/api:"),
        (SecretsUnusable("Block n8n-credentials/a has no webhook secret."), "no webhook secret"),
    ],
)
async def test_it_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: PrefectUnavailable, words: str
) -> None:
    async def fails(_: str) -> tuple[bytes, ...]:
        raise error

    monkeypatch.setattr(testing, "block_secrets", fails)
    with (
        temporary_settings({PREFECT_API_URL: "http://me:hunter2@prefect:4200/api"}),
        pytest.raises(ConfigurationError, match=words) as caught,
    ):
        await testing._key_of("a")  # pyright: ignore[reportPrivateUsage]
    assert "hunter2" not in str(caught.value)
