"""The credentials block: where n8n is, its API key, and the webhook secrets shared with it."""

from __future__ import annotations

from typing import ClassVar

import httpx
from prefect.blocks.abstract import CredentialsBlock
from pydantic import Field, HttpUrl, SecretStr

from ..core.signing import secret_bytes

API_KEY_HEADER = "X-N8N-API-KEY"
TIMEOUT = httpx.Timeout(30.0, connect=5.0)


class N8nCredentials(CredentialsBlock):
    """Credentials of one n8n instance: base URL, API key, and webhook secrets.

    Example:
        ```python
        from prefect_n8n import N8nCredentials

        credentials = N8nCredentials.load("default")
        with credentials.get_client() as client:
            workflows = client.get("/workflows").json()
        ```
    """

    _block_type_name: ClassVar[str] = "n8n Credentials"  # pyright: ignore[reportIncompatibleVariableOverride]
    _block_type_slug: ClassVar[str] = "n8n-credentials"  # pyright: ignore[reportIncompatibleVariableOverride]
    _logo_url: ClassVar[HttpUrl] = HttpUrl("https://n8n.io/favicon.ico")  # pyright: ignore[reportIncompatibleVariableOverride]
    _documentation_url: ClassVar[HttpUrl] = HttpUrl("https://docs.n8n.io/api/")  # pyright: ignore[reportIncompatibleVariableOverride]

    base_url: HttpUrl = Field(
        default=HttpUrl("http://localhost:5678"),
        title="n8n base URL",
        description="Where n8n is, without a path of its API: http://host:5678.",
    )
    api_key: SecretStr | None = Field(
        default=None,
        title="API key",
        description="Key of n8n's public API, from n8n's Settings > n8n API.",
    )
    webhook_url: HttpUrl | None = Field(
        default=None,
        title="Webhook base URL",
        description="Base of n8n's webhooks where it is not <base URL>/webhook.",
    )
    webhook_secrets: list[SecretStr] = Field(
        default_factory=list[SecretStr],
        title="Webhook secrets",
        description=(
            "Secrets shared with n8n, newest first: the first signs, all verify. Printable text of"
            " 24 characters or more, or its whsec_ notation."
        ),
    )

    def get_client(self) -> httpx.Client:
        """Return a client for n8n's public API, version 1: ``client.get("/workflows")``."""
        headers = {"accept": "application/json"}
        if self.api_key is not None:
            headers[API_KEY_HEADER] = self.api_key.get_secret_value()
        return httpx.Client(
            base_url=str(self.base_url).rstrip("/") + "/api/v1",
            headers=headers,
            timeout=TIMEOUT,
            follow_redirects=False,
            trust_env=False,
        )

    def keys(self) -> tuple[bytes, ...]:
        """Return the HMAC keys of the webhook secrets, in their order.

        Raises:
            ConfigurationError: a secret is too short or not in its notation.
        """
        return tuple(secret_bytes(secret.get_secret_value()) for secret in self.webhook_secrets)
