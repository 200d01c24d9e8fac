"""Prefect imports this package in every process, its server too, and swallows errors. So that
import must be cheap and quiet: no database, no web framework, nothing opened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.xdist_group("import_cost")

MAX_SECONDS = 0.05
HEAVY = {"sqlalchemy", "sqlmodel", "starlette", "uvicorn", "alembic", "psycopg", "h11", "cyclopts"}

# CPU seconds of this thread, the best of several imports: what else the machine does, and whether
# byte code was there at first, then does not count. `import prefect` is not repeated: it is slow.
MEASURE = """
import json, sys, threading, time
import prefect
before, threads, events = set(sys.modules), threading.active_count(), []

def hear(event, args):
    if listening and event.split(".")[0] in ("socket", "subprocess", "sqlite3", "urllib", "ftplib",
                                             "smtplib", "tempfile", "shutil", "ctypes", "mmap"):
        events.append(event)
    elif listening and event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        events.append(f"{event} {args[0]} {args[1]}")
    elif listening and event in ("os.mkdir", "os.system", "os.fork", "os.exec", "os.posix_spawn",
                                 "os.putenv", "signal.pthread_kill", "sys.settrace"):
        events.append(event)

listening = True
sys.addaudithook(hear)
import prefect_n8n
listening = False
new = sorted(set(sys.modules) - before)

def again():
    for name in [name for name in sys.modules if name.split(".")[0] == "prefect_n8n"]:
        del sys.modules[name]
    begun = time.thread_time()
    import prefect_n8n
    return time.thread_time() - begun

seconds = min(again() for _ in range(7))
print(json.dumps({"known": "prefect_n8n" in before, "new": new, "events": events,
                  "threads": threading.active_count() - threads, "seconds": seconds}))
"""

COLLECTIONS = """
from prefect.plugins import load_prefect_collections
print(type(load_prefect_collections()["prefect_n8n"]).__name__)
"""


def python(code: str, folder: Path) -> str:
    """Run code in a fresh interpreter away from the checkout; return what it printed last."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What importing the package did in a process that had imported Prefect."""
    return json.loads(python(MEASURE, tmp_path_factory.mktemp("import")))


def test_prefect_alone_does_not_import_us(measured: dict[str, Any]) -> None:
    """Otherwise nothing here measures anything."""
    assert not measured["known"]


def test_only_light_modules_come_along(measured: dict[str, Any]) -> None:
    others = {name.split(".")[0] for name in measured["new"]} - {"prefect_n8n"}
    assert others & HEAVY == set()
    assert others - set(sys.stdlib_module_names) == set(), "Prefect has not imported these already"


def test_nothing_of_the_ledger_or_the_edge_comes_along(measured: dict[str, Any]) -> None:
    rooms = {name.split(".")[1] for name in measured["new"] if name.startswith("prefect_n8n.")}
    assert rooms <= {"blocks", "core"}


def test_nothing_is_opened_or_started(measured: dict[str, Any]) -> None:
    # Python itself keeps byte code.
    assert [event for event in measured["events"] if ".pyc" not in event] == []
    assert measured["threads"] == 0


def test_it_takes_no_time(measured: dict[str, Any]) -> None:
    assert measured["seconds"] < MAX_SECONDS


def test_prefect_finds_us_as_a_collection(tmp_path: Path) -> None:
    assert python(COLLECTIONS, tmp_path) == "module"
