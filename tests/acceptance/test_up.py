"""``up`` as a newcomer meets it: ready, tried, stopped without a trace, started again; refused."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from support.bridge import until
from support.up import COMMAND, Up, new_up

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

        for port in ("-1", "70000"):
            code, said = await up.command("up", "--port", port)
            assert (code, said.count("\n")) == (2, 1), said
            assert f"--port is {port}: a port is a number" in said

        (up.folder / "bad.py").write_text("import nothing_of_that_name\n")
        code, said = await up.command("launch", "bad.py")
        assert (code, said.count("\n")) == (2, 1), said
        assert "bad.py, line 1" in said
        code, said = await up.command("up", "bad.py", *ports)
        assert (code, said.count("\n")) == (2, 2), said
        assert "bad.py, line 1" in said
        (up.folder / "bad.py").write_text("raise SystemExit(0)\n")
        code, said = await up.command("up", "bad.py", *ports)
        assert (code, said.count("\n")) == (2, 2), said
        assert "ended the process" in said
        assert not (up.folder / ".prefect-n8n" / "postgres").exists(), "nothing was started"

        foreign = up.folder / "foreign" / "postgres"
        foreign.mkdir(parents=True)
        (foreign / "PG_VERSION").write_text("13\n")
        code, said = await up.command("up", "--data-dir", str(up.folder / "foreign"), *ports)
        assert code == 2
        assert "PostgreSQL 13" in said
        assert "Traceback" not in said

        up.env["PREFECT_API_URL"] = f"http://me:hunter2@127.0.0.1:{up.prefect_port}/api"
        code, said = await up.command("up", *ports)
        assert (code, said.count("\n")) == (2, 2), said
        assert f"no working Prefect at http://127.0.0.1:{up.prefect_port}/api" in said
        assert "hunter2" not in said


@pytest.mark.parametrize("seconds", [0.3, 1.0, 1.8, 3.0, 4.0])
async def test_ctrl_c_is_quiet_at_any_time(seconds: float) -> None:
    async with new_up() as up:
        (up.folder / "orders.py").write_text(EXAMPLE.read_text())
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await up.start("orders.py")
        code = await up.stop()
        assert code in (0, 130, -signal.SIGINT), up.output
        for noise in ("Traceback", "KeyboardInterrupt", "initdb", "Error", "ERROR"):
            assert noise not in up.output
        await until(lambda: none_left(up), what="the end of every process")


async def test_a_secret_is_shown_until_it_was_and_commands_work_as_printed() -> None:
    async with new_up() as up:
        (up.folder / "orders.py").write_text(EXAMPLE.read_text())
        there = up.folder / "my data" / "n8n"
        # The launcher does not come, so nothing is shown.
        slow = "import pathlib, time\nwhile pathlib.Path('slow').exists(): time.sleep(0.1)\n"
        (up.folder / "slow.py").write_text(slow + EXAMPLE.read_text())
        starting = asyncio.create_task(up.start("slow.py", "--data-dir", "my data/n8n"))
        await until(lambda: said_so(up, "Starting PostgreSQL"), what="a loaded file")
        (up.folder / "slow").touch()
        await until(lambda: said_so(up, "Starting the launcher"), what="blocks", seconds=90)
        starting.cancel()
        assert await up.stop() == 0
        (up.folder / "slow").unlink()
        assert "Secret      " not in up.output
        assert (there / "secret-not-shown-yet").stat().st_mode & 0o777 == 0o600
        await up.start("orders.py", "--data-dir", "my data/n8n")
        assert "Secret      " in up.output
        assert not (there / "secret-not-shown-yet").exists()
        printed = [line.strip() for line in up.output.splitlines() if line.startswith("  ")]
        (send,) = (line for line in printed if " send-test " in line)
        (status,) = (line for line in printed if line.startswith("Status"))
        assert "202 {" in await shell(up, send)
        assert '"events"' in await shell(up, status.removeprefix("Status").strip())
        await run_curl(up.output)
        assert (there / "up.json").stat().st_mode & 0o777 == 0o600


async def shell(up: Up, line: str) -> str:
    """Run a line as the user would paste it."""
    path = f"{Path(COMMAND[0]).parent}:{up.env['PATH']}"
    process = await asyncio.create_subprocess_shell(
        line, cwd=up.folder, env=up.env | {"PATH": path}, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return output.decode()


async def test_up_says_what_it_does_not_load_any_more() -> None:
    async with new_up() as up:
        (up.folder / "orders.py").write_text(EXAMPLE.read_text())
        (up.folder / "other.py").write_text(
            "from prefect import flow\nfrom prefect_n8n import webhook\n\n"
            '@webhook("orders")\n@flow\ndef other() -> None: ...\n'
        )
        await up.start("orders.py")
        await up.stop()
        await up.start("other.py")
        (line,) = (line for line in up.output.splitlines() if "is retired" in line)
        assert "trigger on-order is retired" in line
        code, said = await up.command("send-test", "orders")
        assert code == 0, said
        assert said.count("\n") == 2, said
        await until(lambda: has_completed(up, 1), what="the completed event")
        for process in up.processes():
            if process.name() == "postgres" and "-D" in process.cmdline():
                process.send_signal(signal.SIGKILL)
        await until(lambda: said_so(up, "PostgreSQL was lost; it is"), what="the loss")
        await asyncio.sleep(7)
        assert up.output.count("PostgreSQL was lost; it is started again.") == 1
        assert (await up.status())["events"]["completed"] == 1
