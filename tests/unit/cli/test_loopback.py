"""What `up` lets its children call besides what the user allows."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from prefect_n8n.cli import local
from prefect_n8n.cli.up import Up, with_loopback
from prefect_n8n.core.errors import ConfigurationError
from prefect_n8n.core.urls import AllowList


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        ("", "127.0.0.0/8,::1"),
        ("n8n:5678", "n8n:5678,127.0.0.0/8,::1"),
        (" n8n , 10.0.0.0/8\n", "n8n,10.0.0.0/8,127.0.0.0/8,::1"),
        ("127.0.0.0/8,::1", "127.0.0.0/8,::1"),
        ("::1,n8n", "n8n,127.0.0.0/8,::1"),
    ],
)
def test_what_the_user_gives_stays(given: str, whole: str) -> None:
    assert with_loopback(given) == whole
    allowed = AllowList.parse(whole)
    assert allowed.allows("localhost", 27123, ip_address("127.0.0.1"))
    assert allowed.allows("::1", 80)
    assert not allowed.allows("x", 80, ip_address("169.254.169.254"))


def test_what_cannot_be_read_is_said_at_once() -> None:
    with pytest.raises(ConfigurationError, match="ALLOWED_TARGETS"):
        with_loopback("n8n/x")


async def test_up_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Enough(Exception):
        """The first step has been taken."""

    used: dict[str, str] = {}

    def use(env: dict[str, str]) -> None:
        used.update(env)
        raise Enough

    monkeypatch.setattr(local, "use", use)
    up = Up(None, tmp_path, "127.0.0.1", 8788, 4200, print)
    with pytest.raises(Enough):
        await up()
    assert used["PREFECT_N8N_ALLOWED_TARGETS"] == "127.0.0.0/8,::1"
    assert up.env["PREFECT_N8N_ALLOWED_TARGETS"] == "127.0.0.0/8,::1"
