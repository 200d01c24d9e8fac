"""The Prefect that PREFECT_API_URL gives: whether it answers, and its address without secrets."""

from __future__ import annotations

from urllib.parse import urlsplit

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from ..core.errors import ConfigurationError, PrefectRefused, PrefectUnavailable
from ..launcher.prefect_api import bounded


def shown_address() -> str:
    """Return the address of Prefect's API without user, password and query; "" without any."""
    parts = urlsplit(PREFECT_API_URL.value() or "")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


async def check_prefect() -> None:
    """Make sure that the given Prefect answers.

    Raises:
        ConfigurationError: it does not; the message names its address.
    """
    try:
        async with bounded(), get_client() as client:
            await client.hello()
    except (PrefectUnavailable, PrefectRefused, ObjectNotFound) as error:
        why = "not found" if isinstance(error, ObjectNotFound) else str(error).rstrip(".")
        raise ConfigurationError(
            f"There is no working Prefect at {shown_address()} ({why}): start it there, or unset"
            " PREFECT_API_URL to have `prefect-n8n up` start one."
        ) from None
