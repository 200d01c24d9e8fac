"""The credentials block: where n8n is, its API key, and the webhook secrets shared with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from prefect.blocks.abstract import CredentialsBlock
from prefect.context import FlowRunContext, TaskRunContext
from pydantic import Field, HttpUrl, SecretStr

from ..core.signing import secret_bytes

if TYPE_CHECKING:
    from prefect.blocks.core import ResourceTuple

    from .client import N8nClient


class N8nCredentials(CredentialsBlock):
    """Credentials of one n8n instance: base URL, API key, and webhook secrets.

    Example:
        ```python
        from prefect_n8n import N8nCredentials

        credentials = N8nCredentials.load("BLOCK_NAME")
        async with credentials.get_client() as n8n:
            async for workflow in n8n.workflows(active=True):
                print(workflow.name)
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

    def _event_method_called_resources(self) -> ResourceTuple | None:
        # Outside of runs nobody asks who used the block, and each refresh of a receiver's secrets
        # would be an event; a command that ends would wait for Prefect to take it.
        in_run = FlowRunContext.get() or TaskRunContext.get()
        return super()._event_method_called_resources() if in_run else None

    def get_client(self) -> N8nClient:
        """Return a client for this n8n: ``async with credentials.get_client() as n8n``.

        It calls public addresses, and those that this process's settings allow.

        Raises:
            ConfigurationError: the settings' allow-list cannot be read.
        """
        # Here, because every process that imports Prefect imports this module.
        from .client import N8nClient

        return N8nClient(
            str(self.base_url),
            api_key=self.api_key.get_secret_value() if self.api_key else None,
            webhook_url=str(self.webhook_url) if self.webhook_url else None,
        )

    def keys(self) -> tuple[bytes, ...]:
        """Return the HMAC keys of the webhook secrets, in their order.

        Raises:
            ConfigurationError: a secret is too short or not in its notation.
        """
        return tuple(secret_bytes(secret.get_secret_value()) for secret in self.webhook_secrets)
