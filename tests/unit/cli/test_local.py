"""What a running ``up`` leaves for other commands is its owner's alone."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from prefect_n8n.cli import local


def test_what_is_published_is_for_the_owner_alone(tmp_path: Path) -> None:
    left = tmp_path / "up.json.new"
    left.write_text("of one that was killed")
    left.chmod(0o666)
    local.publish(tmp_path, {"PREFECT_API_URL": "http://127.0.0.1:4200/api"})
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text()) == {"PREFECT_API_URL": "http://127.0.0.1:4200/api"}
    local.withdraw(tmp_path)
    assert list(tmp_path.iterdir()) == []
