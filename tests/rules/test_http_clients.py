"""Foreign targets are dialled in one place: a second client would be one without the guard."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OUTSIDE = {"tests", "benchmarks", "examples", "docs", "build", "dist"}
MODULES = sorted(
    path
    for path in ROOT.rglob("*.py")
    if path.relative_to(ROOT).parts[0] not in OUTSIDE
    and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)

CLIENTS = {
    "httpx", "httpcore", "requests", "urllib3", "aiohttp", "http.client", "urllib.request",
    "websockets", "ftplib", "smtplib", "telnetlib", "xmlrpc",
}  # fmt: skip

GUARDED = {"blocks/client.py", "blocks/network.py"}
NOT_FOREIGN = {
    "launcher/prefect_api.py": "the errors of Prefect's own client",
    "blocks/loading.py": "the errors of Prefect's own client",
    "cli/prefect_server.py": "asks the Prefect server that `up` has started whether it is ready",
    "cli/workers.py": "asks the receiver that `up` has started whether it is ready",
    "cli/sending.py": "posts a test event to our own receiver",
}
"""Who else may import an HTTP client, and what for: none of them calls a target of a user's."""


def imported(path: Path) -> Iterator[str]:
    """Every absolute import, within functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def clients_in(path: Path) -> set[str]:
    return {
        client
        for name in imported(path)
        for client in CLIENTS
        if name == client or name.startswith(client + ".")
    }


def test_only_the_guard_and_what_is_named_import_an_http_client() -> None:
    found = {str(path.relative_to(ROOT)) for path in MODULES if clients_in(path)}
    assert found == GUARDED | set(NOT_FOREIGN)


def test_nobody_opens_connections_by_hand() -> None:
    """But for the guard itself, and `up`, which looks for free ports."""
    calls = {"open_connection", "create_connection", "connect_tcp", "sock_connect"}
    found = {
        str(path.relative_to(ROOT))
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in calls
    }
    assert found <= {"blocks/network.py"}


def test_httpx_is_used_through_the_guarded_transport_alone() -> None:
    """Not through its own client, which follows redirects, reads proxies and keeps cookies."""
    for name in GUARDED:
        used = {
            node.attr
            for node in ast.walk(ast.parse((ROOT / name).read_text("utf-8")))
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "httpx"
        }
        assert used <= {
            "AsyncBaseTransport", "AsyncByteStream", "Request", "Response", "create_ssl_context"
        }  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "import httpx", "import httpx as h", "from httpx import get", "import urllib.request",
        "from urllib import request", "from urllib.request import urlopen", "import http.client",
        "def f():\n    import requests", "from httpcore._async import x", "from http import client",
    ],
)  # fmt: skip
def test_the_rule_sees_every_way_to_import(line: str, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(line)
    assert clients_in(path)


def test_the_rule_lets_harmless_parts_be(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("import http\nfrom urllib.parse import quote\nfrom .httpx import x\n")
    assert clients_in(path) == set()
