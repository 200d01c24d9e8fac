"""``up`` as a newcomer meets it: ready, tried, stopped without a trace, started again; refused."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

import pytest

from support.bridge import until
from support.up import Up, new_up

pytestmark = pytest.mark.xdist_group("n8n")

EXAMPLE = Path(__file__).parents[2] / "examples" / "orders.py"


async def test_up_is_tried_stopped_and_finds_its_data_again() -> None:
    async with new_up() as up:
        (up.folder / "orders.py").write_text(EXAMPLE.read_text())
        await up.start("orders.py")
        shown = up.output
        assert "Secret      " in shown
        assert f"http://127.0.0.1:{up.prefect_port}/runs" in shown
        code, said = await up.command("send-test", "orders", "--type", "order.created")
        assert (code, "202" in said) == (0, True), said
        await run_curl(shown)
        await until(lambda: has_completed(up, 2), what="two completed events")
        for process in up.processes():
            if "launch" in process.cmdline():
                process.send_signal(signal.SIGKILL)
        await until(lambda: said_so(up, "The launcher was lost (signal 9)"), what="the loss")

        assert await up.stop() == 0
        await until(lambda: none_left(up), what="the end of every process")
        assert "Stopped." in up.output

        await up.start("orders.py")
        assert "Secret      " not in up.output
        assert (await up.status())["events"]["completed"] == 2
        _, said = await up.command("status")
        assert '"completed": 2' in said
        _, said = await up.command("up", "orders.py")
        assert "Another `prefect-n8n up`" in said


async def run_curl(shown: str) -> None:
    """Run the command that ``up`` printed, as it stands."""
    (line,) = (line for line in shown.splitlines() if line.startswith("  curl -i "))
    process = await asyncio.create_subprocess_shell(line, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert b"202 Accepted" in output, output


async def has_completed(up: Up, events: int) -> bool:
    """Whether so many events are completed."""
    return (await up.status())["events"]["completed"] == events


async def said_so(up: Up, text: str) -> bool:
    """Whether it was printed."""
    return text in up.output


async def none_left(up: Up) -> bool:
    """Whether no process of it is left."""
    return not up.processes()


async def test_what_cannot_work_is_one_clear_sentence() -> None:
    async with new_up() as up:
        ports = ["--port", str(up.port), "--prefect-port", str(up.prefect_port)]
        with socket.create_server(("127.0.0.1", up.port)):
            code, said = await up.command("up", *ports)
            assert (code, said.count("\n")) == (2, 1), said
            assert f"Port {up.port} " in said
            assert "--port" in said

        (up.folder / "bad.py").write_text("import nothing_of_that_name\n")
        code, said = await up.command("launch", "bad.py")
        assert (code, said.count("\n")) == (2, 1), said
        assert "bad.py, line 1" in said

        foreign = up.folder / "foreign" / "postgres"
        foreign.mkdir(parents=True)
        (foreign / "PG_VERSION").write_text("13\n")
        code, said = await up.command("up", "--data-dir", str(up.folder / "foreign"), *ports)
        assert code == 2
        assert "PostgreSQL 13" in said
        assert "Traceback" not in said
