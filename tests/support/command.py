"""Launchers in processes of their own, as ``prefect-n8n launch FILE`` starts them, to be killed."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from support import killed_launcher
from support.bridge import QUICK, Bridge
from support.prefect_server import die_with_parent

FLOW = """\
import asyncio, os
from pathlib import Path
from prefect import flow
from prefect_n8n import WebhookEvent, webhook

@webhook({name!r})
@flow(name="kill-{name}")
async def on_order(event: WebhookEvent):
    with Path({log!r}).open("a") as log:
        log.write(event.id + "\\n")
    if (hold := Path({hold!r})).exists():
        await asyncio.sleep(60)
"""


class Command:
    """Launcher processes over one file of flows."""

    def __init__(self, bridge: Bridge) -> None:
        self.log = bridge.folder / "bodies.log"
        self.hold = bridge.folder / "hold"
        self.file = bridge.folder / "flows.py"
        self.output = bridge.folder / "launcher.log"
        self.file.write_text(FLOW.format(name=bridge.name, log=str(self.log), hold=str(self.hold)))
        self._env = os.environ | {
            "DATABASE_URL": bridge.ledger.app_url,
            "PREFECT_N8N_LAUNCHER_DATABASE_URL": bridge.ledger.launcher_url,
            "PREFECT_N8N_DATA_DIR": str(bridge.folder),
            **{f"PREFECT_N8N_{name}".upper(): str(value) for name, value in QUICK.items()},
            "PREFECT_N8N_LEASE_SECONDS": "2",
        }

    @property
    def bodies(self) -> Counter[str]:
        """How often the user's code ran, by event id."""
        return Counter(self.log.read_text().split() if self.log.exists() else [])

    @asynccontextmanager
    async def running(
        self, kill_at: str | None = None, **env: str
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run a launcher, and kill it at the end if it still lives."""
        with self.output.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(Path(killed_launcher.__file__)),
                "launch",
                str(self.file),
                env=self._env | env | ({"KILL_AT": kill_at} if kill_at else {}),
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent,
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.fixture
def command(bridge: Bridge) -> Command:
    """Launchers of this test."""
    return Command(bridge)
