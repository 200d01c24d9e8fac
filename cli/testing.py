"""``send-test``: one signed event, to see the whole way work."""

from __future__ import annotations

import json
from typing import Any, cast

from prefect.settings import PREFECT_UI_URL

from ..core.errors import ConfigurationError
from ..core.settings import Settings
from ..ledger.database import Database
from ..ledger.registry import endpoint_by_slug
from ..receiver.secrets import block_secrets
from .processes import Say
from .sending import PATH, send, signed_headers, test_event
from .serving import database_url


async def send_test(settings: Settings, slug: str, type: str, body: str, say: Say) -> None:
    """Send the event and say what became of it.

    Raises:
        ConfigurationError: no such endpoint, no receiver, a body that is no JSON object, or the
            receiver refuses the event.
    """
    fields = _fields(body)
    database = Database(database_url(settings), pool_size=1)
    try:
        async with database.transaction(settings.tenant_id) as connection:
            endpoint = await endpoint_by_slug(connection, settings.tenant_id, slug)
    finally:
        await database.close()
    if endpoint is None:
        raise ConfigurationError(f"There is no endpoint {slug!r}; `prefect-n8n up` lists them.")
    key = (await block_secrets(endpoint.credentials_block))[0]
    id, raw = test_event(type, fields)
    answer = send(
        settings.receiver_url + PATH + slug,
        signed_headers(endpoint.scheme, key, id, raw),
        raw,
    )
    say(f"{answer.status_code} {answer.text}")
    if answer.status_code != 202:
        raise ConfigurationError("The receiver did not take the event; its answer is above.")
    ui = PREFECT_UI_URL.value()
    say(f"Its runs appear in {ui}/runs, what became of it in `prefect-n8n status`." if ui else "")


def _fields(body: str) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise ConfigurationError(f"--body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ConfigurationError("--body must be a JSON object, such as '{\"total\": 12.5}'.")
    return cast(dict[str, Any], fields)
