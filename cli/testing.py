"""``send-test``: one signed event, to see the whole way work."""

from __future__ import annotations

import json
from typing import Any, cast

from prefect.settings import PREFECT_UI_URL

from ..core.errors import ConfigurationError, PrefectUnavailable, SecretsUnusable
from ..core.settings import Settings
from ..ledger.database import Database
from ..ledger.registry import Endpoint, Offer, endpoint_by_slug, offers
from ..receiver.secrets import block_secrets
from .given import shown_address
from .processes import Say
from .sending import PATH, example_type, send, signed_headers, takes, test_event
from .serving import database_url


async def send_test(settings: Settings, slug: str, type: str | None, body: str, say: Say) -> None:
    """Send the event and say what became of it. Without ``type`` it is one that a trigger takes.

    Raises:
        ConfigurationError: no such endpoint, no receiver, no Prefect, a body that is no JSON
            object, or the receiver refuses the event.
    """
    fields = _fields(body)
    endpoint, offer = await _look_up(settings, slug)
    key = await _key_of(endpoint.credentials_block)
    id, raw = test_event(example_type(offer.types) if type is None else type, fields)
    answer = send(
        settings.receiver_url + PATH + slug,
        signed_headers(endpoint.scheme, key, id, raw),
        raw,
    )
    say(f"{answer.status_code} {answer.text}")
    if answer.status_code != 202:
        raise ConfigurationError("The receiver did not take the event; its answer is above.")
    sent = _type_in(raw, endpoint.event_type_field)
    if not takes(offer.types, sent):
        takers = f"its triggers take {', '.join(offer.types)}" if offer.types else "it has none"
        say(f"Nothing is started: no trigger of endpoint {slug} takes type {sent!r} ({takers}).")
    elif ui := PREFECT_UI_URL.value():
        say(f"Its runs appear in {ui}/runs, what became of it in `prefect-n8n status`.")


async def _look_up(settings: Settings, slug: str) -> tuple[Endpoint, Offer]:
    database = Database(database_url(settings), pool_size=1)
    try:
        async with database.transaction(settings.tenant_id) as connection:
            endpoint = await endpoint_by_slug(connection, settings.tenant_id, slug)
            known = {each.slug: each for each in await offers(connection, settings.tenant_id)}
    finally:
        await database.close()
    if endpoint is None:
        raise ConfigurationError(
            f"There is no endpoint {slug!r}; there are: {', '.join(known) or 'none'}."
        )
    return endpoint, known[slug]


async def _key_of(block: str) -> bytes:
    try:
        return (await block_secrets(block))[0]
    except SecretsUnusable as error:
        raise ConfigurationError(str(error)) from None
    except PrefectUnavailable:
        raise ConfigurationError(
            f"Prefect, which keeps the webhook secret, does not answer at {shown_address()}:"
            " start it, or set PREFECT_API_URL to where it is."
        ) from None


def _type_in(raw: bytes, field: str) -> str:
    value: Any = json.loads(raw)
    for part in field.split("."):
        value = cast(dict[str, Any], value).get(part) if isinstance(value, dict) else None
    return "" if value is None else str(value)


def _fields(body: str) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise ConfigurationError(f"--body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ConfigurationError("--body must be a JSON object, such as '{\"total\": 12.5}'.")
    return cast(dict[str, Any], fields)
