"""Every command and every snippet of README and docs, run as a reader runs them."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from support.documents import ROOT, Reader, Snippet, pages, snippets
from support.n8n import N8n
from support.n8n_receiving import SECRET, receiving
from support.up import Up, new_up

N8N_PAGES = ("README.md", "n8n-api.md", "run-n8n-workflows.md")
"""Pages whose snippets call n8n."""

UP = "pip install uv && uv run prefect-n8n up examples/orders.py\n"
TESTS = "pip install uv && uv run pytest tests\n"
"""README's two commands: with the one, each test here begins; the other one runs these tests."""

EXAMPLE = "examples/orders.py"

CRM = """
from prefect_n8n import N8nCredentials, N8nWorkflow, OutboundEndpoint

credentials = N8nCredentials.load("default")
N8nWorkflow(credentials=credentials, webhook="{path}").save("crm", overwrite=True)
crm = OutboundEndpoint("crm", url="{path}")
"""
"""What README's snippets call."""


@asynccontextmanager
async def reading(**env: str) -> AsyncIterator[Up]:
    """Start ``up`` as README's first command says, in a folder that has the examples."""
    async with new_up(**env) as up:
        shutil.copytree(ROOT / "examples", up.folder / "examples")
        await up.start(EXAMPLE)
        yield up


def in_order(chosen: list[Path]) -> list[Snippet]:
    """Return the pages' snippets, but README's two commands."""
    found = [snippet for page in chosen for snippet in snippets(page)]
    return [snippet for snippet in found if snippet.text not in (UP, TESTS)]


def test_readme_has_its_two_commands() -> None:
    readme = [snippet.text for snippet in snippets(ROOT / "README.md")]
    assert UP in readme
    assert TESTS in readme
    assert "uv run pytest tests" in (ROOT / ".ci" / "run").read_text()
    assert (ROOT / EXAMPLE).exists()


async def read(reader: Reader, found: list[Snippet]) -> None:
    """Run all snippets, and tell of all that fail."""
    reader.prepare()
    failures: list[str] = []
    for snippet in found:
        try:
            await reader.run(snippet)
        except (AssertionError, ValueError) as error:
            failures.append(f"{snippet.place}: {error}")
    assert not failures, "\n\n".join(failures)


def words_of(up: Up) -> dict[str, str]:
    """What the pages call by its usual place, and where it is here."""
    return {
        "127.0.0.1:8788": f"127.0.0.1:{up.port}",
        "localhost:8788": f"localhost:{up.port}",
        "127.0.0.1:4200": f"127.0.0.1:{up.prefect_port}",
        "localhost:4200": f"localhost:{up.prefect_port}",
    }


async def test_pages() -> None:
    chosen = [page for page in pages() if page.name not in N8N_PAGES]
    async with reading() as up:
        await read(Reader(up, words_of(up)), in_order(chosen))


@pytest.mark.n8n
@pytest.mark.xdist_group("n8n")
async def test_pages_about_n8n(n8n: N8n, calls_n8n: None) -> None:
    env = {
        "N8N_BASE_URL": n8n.url,
        "N8N_API_KEY": n8n.api_key,
        "N8N_WEBHOOK_SECRET": SECRET,
    }
    chosen = [page for page in pages() if page.name in N8N_PAGES]
    async with receiving(n8n) as there, reading(**env) as up:
        words = words_of(up) | {
            "http://localhost:5678": n8n.url,
            "the API key": n8n.api_key,
            "the text of n8n's credential `Prefect webhook secret`": SECRET,
        }
        crm = Snippet(Path(__file__), 1, "python", CRM.format(path=there.path))
        await read(Reader(up, words), [crm, *in_order(chosen)])
