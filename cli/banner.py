"""The last words of ``up``: where everything is, and how to send a first event."""

from __future__ import annotations

import os
from pathlib import Path

from ..core.settings import Settings
from ..ledger.database import Database
from ..ledger.registry import Offer, offers
from .preparing import Prepared
from .processes import Say
from .sending import PATH, curl, example_type, signed_headers, test_event


async def show(
    say: Say, *, settings: Settings, database: Database, prepared: Prepared, token: Path
) -> None:
    """Print the addresses, what was made now, and a signed request to try."""
    async with database.transaction(settings.tenant_id) as connection:
        endpoints = await offers(connection, settings.tenant_id)
    base = settings.receiver_url
    say("")
    say(f"  Prefect UI  {os.environ['PREFECT_API_URL'].removesuffix('/api')}/runs")
    for offer in endpoints:
        takes = f"starts {', '.join(offer.deployments)}" if offer.deployments else "starts nothing"
        say(f"  Endpoint    {base}{PATH}{offer.slug}  ({offer.scheme} signatures; {takes})")
    say(f'  Status      curl -H "Authorization: Bearer $(cat {_short(token)})" {base}{PATH[:-1]}')
    if prepared.new_credentials and settings.n8n_webhook_secret is None:
        secret = prepared.credentials.webhook_secrets[0].get_secret_value()
        say(f"  Secret      {secret}")
        say("              Shown this once; kept in block n8n-credentials/default. Give it to n8n")
        say("              as the Hmac Secret of a Crypto credential.")
    _show_trial(say, endpoints, base, prepared)


def _show_trial(say: Say, endpoints: list[Offer], base: str, prepared: Prepared) -> None:
    offer = next((o for o in endpoints if o.deployments), endpoints[0])
    type = example_type(offer.types)
    id, body = test_event(type, {})
    headers = signed_headers(offer.scheme, prepared.credentials.keys()[0], id, body)
    say("")
    say("Send a signed event, from this folder in another terminal:")
    say(f"  {command()} send-test {offer.slug} --type {type}")
    say("or, within five minutes:")
    say(f"  {curl(base + PATH + offer.slug, headers, body)}")
    say("")


def command() -> str:
    """Return how the user starts our commands."""
    return "uv run prefect-n8n" if "UV_RUN_RECURSION_DEPTH" in os.environ else "prefect-n8n"


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
