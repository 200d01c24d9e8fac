"""The embedded Prefect server of ``up``: Prefect's own, with its UI, on PostgreSQL."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
from sqlalchemy import make_url

from .processes import Child


def prefect_server(*, database_url: str, host: str, port: int, folder: Path) -> Child:
    """Describe the server process. Its API is at ``http://host:port/api``."""
    client_env = server_env(folder, host, port)
    api = client_env["PREFECT_API_URL"]

    async def ready(_: int) -> bool:
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            return (await client.get(f"{api}/health")).status_code == 200

    url = make_url(database_url).set(drivername="postgresql+asyncpg")
    env = client_env | {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": url.render_as_string(hide_password=False),
        "PREFECT_SERVER_UI_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "DO_NOT_TRACK": "1",
    }
    argv = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    log = folder / "logs" / "prefect.log"
    return Child("The Prefect server", argv, env, ready, log=log)


def server_env(folder: Path, host: str, port: int) -> dict[str, str]:
    """Return what makes Prefect's client use this server, whatever the user's profile says."""
    return {
        "PREFECT_API_URL": f"http://{host}:{port}/api",
        "PREFECT_PROFILES_PATH": str(folder / "profiles.toml"),
    }
