"""A launcher that has lost a part of itself ends as a whole."""

from __future__ import annotations

import asyncio

import pytest

from prefect_n8n.core.errors import LoopEnded
from support.bridge import Bridge, until

pytestmark = pytest.mark.xdist_group("prefect")


async def loops(name: str) -> list[asyncio.Task[object]]:
    """The loops of that name which go on."""
    return [task for task in asyncio.all_tasks() if task.get_name() == name]


async def test_a_launcher_without_one_of_its_loops_ends(bridge: Bridge) -> None:
    with pytest.raises(LoopEnded, match="'leases' ended"):
        await lose_a_loop(bridge)


async def lose_a_loop(bridge: Bridge) -> None:
    """Run a launcher, end one of its loops, and wait for the end of another."""
    async with bridge.launcher():
        (lost,) = await until(lambda: loops("leases"), what="the loop")
        lost.cancel()

        async def ended() -> bool:
            return not await loops("inbox")

        await until(ended, what="the end of the others")
