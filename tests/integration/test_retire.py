"""Triggers of files that are not loaded any more, on a real Prefect and ledger."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from sqlalchemy import text

from prefect_n8n.core.settings import DEFAULT_TENANT, Settings
from prefect_n8n.flows.webhook import WebhookFlow
from prefect_n8n.launcher import deploying
from support.bridge import Bridge

pytestmark = pytest.mark.xdist_group("prefect")


async def load(
    bridge: Bridge, file: str, *flows: WebhookFlow, only: bool = False
) -> dict[str, str]:
    """Register the flows as those of a file; return the state of every trigger."""
    await deploying.deploy(
        flows,
        bridge.folder / file,
        database=bridge.database,
        client=bridge.client,
        settings=Settings(),
        only=only,
    )
    async with bridge.database.transaction(DEFAULT_TENANT) as connection:
        rows = await connection.execute(
            text("SELECT name, state FROM prefect_n8n.workflow_triggers")
        )
        return {row.name.partition("-")[0]: row.state for row in rows}


def flows_of(bridge: Bridge, names: Sequence[str]) -> list[WebhookFlow]:
    """A flow of each name."""

    def flow(name: str) -> WebhookFlow:
        def handler() -> None: ...

        handler.__name__ = name
        return bridge.webhook(handler)

    return [flow(name) for name in names]


@pytest.mark.parametrize("page", [1, 200])
async def test_up_keeps_the_triggers_of_its_own_file_alone(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, page: int
) -> None:
    monkeypatch.setattr(deploying, "PAGE", page)
    a, b, c = flows_of(bridge, "abc")
    assert await load(bridge, "one.py", a, b, only=True) == {"a": "on", "b": "on"}
    assert await load(bridge, "two.py", c, only=True) == {
        "a": "retired", "b": "retired", "c": "on",
    }  # fmt: skip
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert all(f"{bridge.folder / 'one.py'}:" in line for line in said)
    assert await load(bridge, "one.py", a, only=True) == {"a": "on", "b": "retired", "c": "retired"}


async def test_launchers_of_several_files_leave_each_other_alone(bridge: Bridge) -> None:
    a, b, c = flows_of(bridge, "abc")
    await load(bridge, "one.py", a, b)
    assert await load(bridge, "two.py", c) == {"a": "on", "b": "on", "c": "on"}
    assert await load(bridge, "one.py", a) == {"a": "on", "b": "retired", "c": "on"}


async def test_a_file_that_was_moved_is_the_same_file(bridge: Bridge) -> None:
    a, b, c = flows_of(bridge, "abc")
    await load(bridge, "old/one.py", a, b)
    await load(bridge, "two.py", c)
    assert await load(bridge, "new/one.py", a) == {"a": "on", "b": "retired", "c": "on"}
