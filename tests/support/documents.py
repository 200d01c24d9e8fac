"""The snippets of README and docs, and a reader who runs them as they stand.

A snippet in ``bash`` is run in the folder of a running ``up``, with its ports in the place of the
usual ones; one in ``python`` is run as a program, and what it declares is registered as ``up FILE``
would. ``json`` and ``yaml`` are read. A language that is not known here fails, so that no snippet
escapes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from support.prefect_server import free_port
from support.up import Up

ROOT = Path(__file__).parents[2]
SECONDS = 90.0
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

FOLLOWS = re.compile(
    r"^(?:uv run )?prefect-n8n (?:serve|launch|events tail)\b|^curl\b.* -N\b|^curl -N\b"
)
"""Commands that go on until they are stopped."""

FINDS = re.compile(r"--dry-run|prefect-n8n doctor|prefect-n8n n8n check")
"""Commands whose exit code 1 says that they found something."""

DECLARES = re.compile(r"\bOutboundEndpoint\(|@webhook\(")

REGISTER = """
import asyncio, sys
from pathlib import Path
from prefect.client.orchestration import get_client
from prefect_n8n.core.settings import settings
from prefect_n8n.launcher.deploying import deploy
from prefect_n8n.launcher.loading import load_file
from prefect_n8n.ledger.database import Database

file = load_file(Path(sys.argv[1]))

async def main():
    database = Database(settings().database_url.get_secret_value())
    async with get_client() as client:
        await deploy(file.flows, file.path, endpoints=file.endpoints, database=database,
                     client=client, settings=settings())
    await database.close()

asyncio.run(main())
"""


@dataclass(frozen=True)
class Snippet:
    """One fenced block: where it begins, its language, its text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        """Page and line, as an editor opens them."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return all pages for users."""
    folders = [ROOT, ROOT / "docs", ROOT / "n8n", ROOT / "benchmarks"]
    return [page for folder in folders for page in sorted(folder.glob("*.md"))]


def snippets(page: Path) -> Iterator[Snippet]:
    """Yield the page's fenced blocks in their order."""
    text = page.read_text("utf-8")
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Snippet(page, line, found[1], found[2])


@dataclass
class Reader:
    """Runs snippets beside a running ``up``; ``words`` are replaced in them."""

    up: Up
    words: Mapping[str, str] = field(default_factory=dict[str, str])

    def prepare(self) -> None:
        """Put the commands that a reader has on the path: ours, Python, uv and pip."""
        folder = self.up.folder / "bin"
        folder.mkdir()
        python = Path(sys.executable).parent
        ports = f"--port {self.up.port} --prefect-port {self.up.prefect_port}"
        commands = {
            "pip": "exit 0",
            "uv": 'test "$1" = run && shift && exec "$@"',
            "python": f'exec {python}/python "$@"',
            "prefect": f'exec {python}/prefect "$@"',
            "prefect-n8n": f'test "$1" != up || set -- "$@" {ports}\n'
            f'exec {python}/prefect-n8n "$@"',
        }
        for name, command in commands.items():
            (folder / name).write_text(f"#!/bin/sh\n{command}\n")
            (folder / name).chmod(0o755)

    async def run(self, snippet: Snippet) -> None:
        """Run it.

        Raises:
            AssertionError: it fails; the message has what was printed.
        """
        text = snippet.text
        for usual, here in self.words.items():
            text = text.replace(usual, here)
        match snippet.language:
            case "bash" | "sh":
                for command in commands_of(text):
                    await self._command(command)
            case "python":
                await self._python(text, snippet.place)
            case "json":
                json.loads(text.replace("…", ""))
            case "yaml":
                assert yaml.safe_load(text)
            case "text" | "javascript":
                pass
            case _:
                raise AssertionError(f"a snippet in {snippet.language!r}")

    async def _command(self, command: str) -> None:
        if FOLLOWS.search(command):
            await self._follow(command)
            return
        code, output = await self._process(["bash", "-euo", "pipefail", "-c", command])
        found = (0, 1) if FINDS.search(command) else (0,)
        assert code in found, f"{command}\nended with {code}:\n{output}"

    async def _python(self, text: str, place: str) -> None:
        file = self.up.folder / f"snippet_{re.sub(r'[^a-z0-9]', '_', place.lower())}.py"
        file.write_text(text)
        run = ["-c", REGISTER] if DECLARES.search(text) else []
        code, output = await self._process([sys.executable, *run, str(file)])
        assert code == 0, f"ended with {code}:\n{output}"

    async def _process(self, argv: list[str]) -> tuple[int, str]:
        """Run a process at a terminal where every question is answered with yes."""
        ours, its = pty.openpty()
        os.write(ours, b"y\n" * 5)
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                cwd=self.up.folder,
                env=self._env(),
                stdin=its,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                async with asyncio.timeout(SECONDS):
                    output, _ = await process.communicate()
            except TimeoutError:
                os.killpg(process.pid, signal.SIGKILL)
                return -1, f"it did not end within {SECONDS:.0f} s"
        finally:
            os.close(ours)
            os.close(its)
        assert process.returncode is not None
        return process.returncode, output.decode()

    async def _follow(self, command: str) -> None:
        """Let it say something, then stop it as Ctrl-C does."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", f"exec {command}" if ";" not in command else command),
            cwd=self.up.folder,
            env=self._env() | {"PREFECT_N8N_PORT": str(free_port())},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(SECONDS):
                said = await process.stdout.readline()
                os.killpg(process.pid, signal.SIGINT)
                said += await process.stdout.read()
                code = await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert code in (0, 130, -signal.SIGINT), f"{command}\n{said.decode()}"
        assert b"Traceback" not in said, f"{command}\n{said.decode()}"

    def _env(self) -> dict[str, str]:
        known = json.loads((self.up.folder / ".prefect-n8n" / "up.json").read_text())
        path = f"{self.up.folder / 'bin'}:{os.environ['PATH']}"
        return self.up.env | known | {"PATH": path}


def commands_of(text: str) -> list[str]:
    """Part a script into its commands, each with the lines that belong to it."""
    commands: list[str] = []
    for line in text.splitlines():
        if commands and not _is_whole(commands[-1]):
            commands[-1] += f"\n{line}"
        elif line.strip() and not line.startswith("#"):
            commands.append(line)
    return commands


def _is_whole(command: str) -> bool:
    if command.endswith("\\"):
        return False
    if document := re.search(r"<<-?\s*'?(\w+)'?", command):
        return command.rstrip().endswith(f"\n{document[1]}")
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True
