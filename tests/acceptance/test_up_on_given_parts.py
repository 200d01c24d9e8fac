"""``up`` on the user's own PostgreSQL and Prefect."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.bridge import until
from support.postgres import Cluster
from support.up import Up, new_up

pytestmark = pytest.mark.xdist_group("prefect")

EXAMPLE = Path(__file__).parents[2] / "examples" / "orders.py"


async def test_a_given_database_and_prefect_are_used_instead(
    cluster: Cluster, prefect_api: str
) -> None:
    name = cluster.create()
    url = cluster.url_of(name)
    async with new_up(DATABASE_URL=url, PREFECT_API_URL=prefect_api) as up:
        (up.folder / "orders.py").write_text(EXAMPLE.read_text())
        await up.start("orders.py")
        assert "Starting PostgreSQL" not in up.output
        assert "Starting Prefect" not in up.output
        assert "bypasses row security" in up.output
        assert prefect_api.removesuffix("/api") in up.output
        code, said = await up.command("send-test", "orders", "--type", "order.created")
        assert code == 0, said
        await until(lambda: completed(up), what="the completed event")
        assert await up.stop() == 0
        assert not (up.folder / ".prefect-n8n" / "postgres").exists()
    cluster.drop(name)


async def completed(up: Up) -> bool:
    """Whether the event is completed."""
    return (await up.status())["events"]["completed"] == 1
