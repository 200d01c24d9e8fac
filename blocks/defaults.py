"""The block of the default endpoint, filled from the environment on first start."""

from __future__ import annotations

from collections.abc import Callable

from prefect.client.orchestration import PrefectClient

from ..core.settings import Settings
from ..core.signing import new_secret
from .credentials import N8nCredentials
from .saving import ensure_block

DEFAULT_BLOCK = "default"


async def ensure_default_credentials(
    client: PrefectClient, settings: Settings, *, before_generated: Callable[[], None] | None = None
) -> N8nCredentials:
    """Return block ``n8n-credentials/default``, made from ``N8N_*`` where it is missing.

    Without ``N8N_WEBHOOK_SECRET`` a secret is generated: printable text, because n8n's Crypto node
    keys with UTF-8; ``before_generated`` is called before it is saved, so that it is not forgotten
    to show it. An existing block is left as it is: operators edit it in the Prefect UI.
    """
    await N8nCredentials.aregister_type_and_schema(client=client)

    def make() -> N8nCredentials:
        made = credentials_from(settings)
        if before_generated is not None and not given_secrets(settings):
            before_generated()
        return made

    return await ensure_block(client, N8nCredentials, DEFAULT_BLOCK, make)


def credentials_from(settings: Settings) -> N8nCredentials:
    """Build the credentials that the environment describes."""
    values = {
        "base_url": settings.n8n_base_url,
        "api_key": settings.n8n_api_key,
        "webhook_url": settings.n8n_webhook_url,
        "webhook_secrets": given_secrets(settings) or [new_secret()],
    }
    credentials = N8nCredentials.model_validate(
        {name: value for name, value in values.items() if value is not None}
    )
    credentials.keys()
    return credentials


def given_secrets(settings: Settings) -> list[str]:
    """Return what ``N8N_WEBHOOK_SECRET`` gives, newest first; blanks alone give nothing."""
    given = settings.n8n_webhook_secret
    texts = given.get_secret_value().split(",") if given else []
    return [text.strip() for text in texts if text.strip()]
