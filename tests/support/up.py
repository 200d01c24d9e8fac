"""``prefect-n8n up`` as a user starts it, in a process and a folder of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from support.prefect_server import die_with_parent, free_port

COMMAND = [str(Path(sys.executable).with_name("prefect-n8n"))]
READY_SECONDS = 120.0


@dataclass
class Up:
    """One folder in which ``up`` is run, and what it says there."""

    folder: Path
    env: dict[str, str]
    port: int
    prefect_port: int
    process: Process | None = None

    @property
    def url(self) -> str:
        """The receiver's base."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """All that was printed since the last start."""
        log = self.folder / "up.log"
        return log.read_text() if log.exists() else ""

    async def start(self, *arguments: str) -> None:
        """Start it and wait until it says that it is ready."""
        ports = ["--port", str(self.port), "--prefect-port", str(self.prefect_port)]
        with (self.folder / "up.log").open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *COMMAND,
                "up",
                *arguments,
                *ports,
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + READY_SECONDS
        while "Ready after" not in self.output:
            assert self.process.returncode is None, self.output
            assert time.monotonic() < deadline, self.output
            await asyncio.sleep(0.1)

    async def stop(self, number: int = signal.SIGINT) -> int:
        """Stop it as Ctrl-C does; return its exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(60):
            return await self.process.wait()

    def processes(self) -> list[psutil.Process]:
        """Return all processes that it started, PostgreSQL too."""
        mine: list[psutil.Process] = []
        for each in psutil.process_iter(["cmdline", "cwd", "status"]):
            text = " ".join(each.info["cmdline"] or [])
            here = each.info["cwd"] == str(self.folder) or str(self.folder) in text
            if here and each.info["status"] != "zombie":
                mine.append(each)
        return mine

    async def command(self, *arguments: str) -> tuple[int, str]:
        """Run another of our commands in the same folder; return its exit code and output."""
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *arguments,
            cwd=self.folder,
            env=self.env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    async def status(self) -> dict[str, Any]:
        """Return what the status address says."""
        token = (self.folder / ".prefect-n8n" / "token").read_text().strip()
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(
                f"{self.url}/api/webhooks/n8n", headers={"authorization": f"Bearer {token}"}
            )
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def runs(self) -> list[dict[str, Any]]:
        """Return all flow runs that its Prefect has."""
        address = f"http://127.0.0.1:{self.prefect_port}/api/flow_runs/filter"
        async with httpx.AsyncClient(trust_env=False) as client:
            return json.loads((await client.post(address, json={})).text)


def _open_folder() -> Path:
    # Not pytest's: it is closed to the user that PostgreSQL runs as where we are root.
    folder = Path(tempfile.mkdtemp(prefix="pn8n-up-"))
    folder.chmod(0o755)
    return folder


@asynccontextmanager
async def new_up(**env: str) -> AsyncIterator[Up]:
    """Return an ``up`` to start in a new folder; it is stopped, and the folder removed."""
    folder = _open_folder()
    kept = {k: v for k, v in os.environ.items() if k not in ("PREFECT_API_URL", "DATABASE_URL")}
    up = Up(folder, kept | env, free_port(), free_port())
    try:
        yield up
    finally:
        if up.process is not None:
            await up.stop()
        shutil.rmtree(folder, ignore_errors=True)
