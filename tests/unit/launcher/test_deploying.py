"""Whose triggers a launcher retires: of flows that its file had and has no more, no others'."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect import Flow

from prefect_n8n import webhook
from prefect_n8n.flows.webhook import WebhookFlow
from prefect_n8n.launcher.deploying import gone


def flow(name: str) -> WebhookFlow:
    def on_event() -> None: ...

    return webhook("orders")(Flow(on_event, name=name))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "new" / "flows.py"
    path.parent.mkdir()
    path.touch()
    return path


def test_what_the_file_has_no_more(file: Path) -> None:
    known = {"a/orders": f"{file}:a", "b/orders": f"{file}:b", "c/orders": f"{file}x:c"}
    assert gone([flow("a")], file, known, only=False) == {"b/orders": f"{file}:b"}
    assert gone([flow("a"), flow("b")], file, known, only=False) == {}


def test_what_the_file_had_where_it_was_before(file: Path) -> None:
    old = file.parents[1] / "old" / "flows.py"
    known = {"a/orders": f"{old}:a", "b/orders": f"{old}:b"}
    assert gone([flow("a")], file, known, only=False) == {"b/orders": f"{old}:b"}


def test_files_of_others_are_theirs(file: Path) -> None:
    """Also where they have this one's name: they are on another machine, or in another folder."""
    there = file.parents[1] / "flows.py"
    there.touch()
    known = {
        "b/orders": "/srv/flows.py:b",
        "c/orders": "/srv/others.py:c",
        "d/orders": f"{there}:d",
        "a/orders": f"{there}:a",
    }
    assert gone([flow("a")], file, known, only=False) == {}


def test_an_only_launcher_leaves_no_other(file: Path) -> None:
    known = {"a/orders": f"{file}:a", "b/orders": "/srv/b.py:b", "c/orders": f"{file}:c"}
    assert set(gone([flow("a")], file, known, only=True)) == {"b/orders", "c/orders"}
    assert set(gone([], None, known, only=True)) == known.keys()
    assert gone([], None, known, only=False) == {}
