"""The last words of ``up``: where everything is, and how to send a first event."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from ..blocks.defaults import given_secrets
from ..core.settings import Settings
from ..ledger.database import Database
from ..ledger.registry import Offer, offers
from .preparing import Prepared
from .processes import Say
from .sending import PATH, curl, example_type, signed_headers, test_event

DATA_DIR = "PREFECT_N8N_DATA_DIR"


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
    reading = f"$(cat {shlex.quote(_short(token))})"
    say(f'  Status      curl -H "Authorization: Bearer {reading}" {base}{PATH[:-1]}')
    if prepared.unshown.exists() and not given_secrets(settings):
        secret = prepared.credentials.webhook_secrets[0].get_secret_value()
        say(f"  Secret      {secret}")
        say("              Shown this once; kept in block n8n-credentials/default. Give it to n8n")
        say("              as the Hmac Secret of a Crypto credential.")
        prepared.unshown.unlink()
    _show_trial(say, endpoints, base, prepared, token.parent)


def _show_trial(
    say: Say, endpoints: list[Offer], base: str, prepared: Prepared, folder: Path
) -> None:
    offer = next((o for o in endpoints if o.deployments), endpoints[0])
    type = example_type(offer.types)
    id, body = test_event(type, {})
    headers = signed_headers(offer.scheme, prepared.credentials.keys()[0], id, body)
    say("")
    say("Send a signed event, from this folder in another terminal:")
    say(f"  {command(folder)} send-test {offer.slug} --type {shlex.quote(type)}")
    say("or, within five minutes:")
    say(f"  {curl(base + PATH + offer.slug, headers, body)}")
    say("")


def command(folder: Path) -> str:
    """Return how the user starts our commands, for the ``up`` whose data is in ``folder``."""
    name = "uv run prefect-n8n" if "UV_RUN_RECURSION_DEPTH" in os.environ else "prefect-n8n"
    usual = Path.cwd() / str(Settings.model_fields["data_dir"].default)
    return name if folder == usual else f"{DATA_DIR}={shlex.quote(_short(folder))} {name}"


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
