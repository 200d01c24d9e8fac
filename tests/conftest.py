"""Fixtures that every kind of test may use, away from what the user's environment says."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest

_OURS = ("PREFECT_N8N_TEST_", "PREFECT_N8N_REQUIRE_")
for _name in list(os.environ):
    if _name.startswith(("PREFECT_", "N8N_")) and not _name.startswith(_OURS):
        del os.environ[_name]
os.environ.pop("DATABASE_URL", None)
# Before Prefect is imported: it reads profiles from its home, and writes results there.
_HOME = tempfile.mkdtemp(prefix="pn8n-home-")
os.environ |= {
    "PREFECT_HOME": _HOME,
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "DO_NOT_TRACK": "1",
}

pytest_plugins = [
    "support.postgres",
    "support.receiver",
    "support.prefect_server",
    "support.bridge",
    "support.command",
    "support.outgoing",
    "support.falling",
    "support.n8n",
    "support.n8n_receiving",
]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove Prefect's home of this test run."""
    shutil.rmtree(_HOME, ignore_errors=True)
