"""Accepted requests a second at 32 connections, beside pgbench inserting the same row.

Both write through PostgreSQL with synchronous commit: the receiver verifies a signature, parses
strict JSON, groups commits and chains an audit entry; pgbench does one INSERT for a transaction.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import tempfile
import time
from pathlib import Path

import httpx
from parts import COMMAND, SECRET, ground, process, wait_for

from prefect_n8n.cli.postgres import EmbeddedPostgres
from prefect_n8n.cli.sending import signed_headers, test_event
from prefect_n8n.core.signing import StandardScheme, sign

CONNECTIONS = 32
SECONDS = 8.0
EACH = 400
ROUNDS = 3
BODY = json.dumps({"type": "order.created", "total": 12.5, "note": "x" * 200}).encode()
INSERT = r"""
\set id random(1, 9000000000000000000)
INSERT INTO prefect_n8n.webhook_events
  (tenant_id, id, endpoint_id, event_id, type, body, body_hash, payload, headers)
SELECT e.tenant_id, gen_random_uuid(), e.id, 'bench_' || :id, 'order.created',
  convert_to(:body, 'utf8'), sha256(convert_to(:body, 'utf8')), (:body)::jsonb, '{}'::jsonb
FROM prefect_n8n.webhook_endpoints e WHERE e.slug = 'default';
"""


def request(name: str) -> bytes:
    """Return a signed request, as bytes on the wire."""
    stamp = int(time.time())
    pairs = sign(StandardScheme(), SECRET.encode(), BODY, event_id=name, timestamp=stamp)
    signed = b"".join(name + b": " + value + b"\r\n" for name, value in pairs)
    return (
        b"POST /api/webhooks/n8n/default HTTP/1.1\r\nhost: localhost\r\n"
        b"content-type: application/json\r\n"
        + signed
        + b"content-length: "
        + str(len(BODY)).encode()
        + b"\r\n\r\n"
        + BODY
    )


class Connection(asyncio.Protocol):
    """Sends signed requests one after another, each when the one before was accepted."""

    def __init__(self, requests: list[bytes]) -> None:
        self.accepted = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests = iter(requests)
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not self._answer.endswith(b"}"):
            return
        if not self._answer.startswith(b"HTTP/1.1 202"):
            self.ended.set_exception(SystemExit(self._answer.decode()))
            return
        self.accepted += 1
        self._answer = b""
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(error or SystemExit("the receiver closed a connection"))

    def _next(self) -> None:
        if (request := next(self._requests, None)) is not None:
            self._transport.write(request)
        elif not self.ended.done():
            self.ended.set_result(None)
            self._transport.close()


async def send_all(port: int, name: str) -> float:
    """Send what was signed before the clock started; return accepted requests a second."""
    signed = [[request(f"{name}c{c}n{n}") for n in range(EACH)] for c in range(CONNECTIONS)]
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    made = [
        await loop.create_connection(lambda r=r: Connection(r), "127.0.0.1", port) for r in signed
    ]
    await asyncio.gather(*(connection.ended for _, connection in made))
    return CONNECTIONS * EACH / (time.perf_counter() - begun)


def pgbench(folder: Path, postgres: EmbeddedPostgres) -> float:
    """Return single-row inserts a second."""
    program = postgres.server.bin_path / "pgbench"
    url = postgres.url_of("prefect_n8n")
    script = folder / "insert.sql"
    script.write_text(INSERT.replace(":body", "'" + BODY.decode() + "'"))
    done = subprocess.run(
        [
            str(program),
            "-n",
            "-c",
            str(CONNECTIONS),
            "-j",
            "2",
            "-T",
            f"{SECONDS:.0f}",
            "-f",
            str(script),
            url,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"tps = ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout
    return float(found[1])


def main() -> None:
    """Alternate the two, and print each round and the ratio of the medians."""
    with tempfile.TemporaryDirectory(prefix="pn8n-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with ground(folder) as (postgres, env):
            port = int(env["PREFECT_N8N_PORT"])
            serve = [*COMMAND, "serve", "--no-launcher"]
            with process(serve, env, folder / "serve.log"):
                wait_for(f"http://127.0.0.1:{port}/healthz")
                wait_for_default(port)
                rounds = [
                    (asyncio.run(send_all(port, f"r{i}")), pgbench(folder, postgres))
                    for i in range(ROUNDS)
                ]
    for mine, theirs in rounds:
        print(f"accepted {mine:7.0f}/s   pgbench single-row inserts {theirs:7.0f}/s")
    mine, theirs = (sorted(column)[ROUNDS // 2] for column in zip(*rounds, strict=True))
    print(f"ratio of the medians: {mine / theirs:.2f}")


def wait_for_default(port: int) -> None:
    """Wait until the default endpoint takes events."""
    url = f"http://127.0.0.1:{port}/api/webhooks/n8n/default"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        id, body = test_event("warm", {})
        headers = signed_headers("standard", SECRET.encode(), id, body)
        if httpx.post(url, content=body, headers=headers, trust_env=False).status_code == 202:
            return
        time.sleep(0.2)
    raise SystemExit("the default endpoint does not take events")


if __name__ == "__main__":
    main()
