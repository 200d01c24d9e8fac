"""Ports that cannot be listened on, and URLs that must not be written to files."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from prefect_n8n.cli import ports
from prefect_n8n.cli.databases import has_password
from prefect_n8n.cli.ports import check_free
from prefect_n8n.core.errors import ConfigurationError


class Probe:
    """A socket that binds as it is told."""

    def __init__(self, error: OSError | None) -> None:
        self.error = error
        self.family: int | None = None
        self.bound: Any = None

    def __call__(self, family: int, kind: int) -> Probe:
        self.family = family
        return self

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *error: object) -> None: ...

    def setsockopt(self, *option: int) -> None:
        assert option == (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def bind(self, address: Any) -> None:
        self.bound = address
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]
)
def test_a_free_port(monkeypatch: pytest.MonkeyPatch, host: str, family: int) -> None:
    probe = Probe(None)
    monkeypatch.setattr(ports.socket, "socket", probe)
    check_free(host, 8788, "--port", "the receiver")
    assert (probe.family, probe.bound) == (family, (host, 8788))


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.EADDRINUSE, "in use"), "is in use"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be used: .*Permission denied"),
        (socket.gaierror(-2, "Name not known"), "cannot be used: .*Name not known"),
    ],
)
def test_a_port_that_is_not(monkeypatch: pytest.MonkeyPatch, error: OSError, why: str) -> None:
    monkeypatch.setattr(ports.socket, "socket", Probe(error))
    with pytest.raises(ConfigurationError, match=why) as caught:
        check_free("127.0.0.1", 8788, "--port", "the receiver")
    assert str(caught.value).startswith("Port 8788 of 127.0.0.1, wanted for the receiver, ")
    assert str(caught.value).endswith("choose another with --port.")


@pytest.mark.parametrize("port", [-1, 0, 65536, 70000])
def test_numbers_that_are_no_ports(port: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"^--port is {port}: .* 1 to 65535\.$"):
        check_free("127.0.0.1", port, "--port", "the receiver")


@pytest.mark.parametrize(
    "value",
    [
        "postgresql://user:hunter2@host/database",
        "postgresql+psycopg://user:p%40ss@host:5432/database?sslmode=require",
        "postgresql://user@host/database?password=hunter2",
        "postgresql://user@host/database?sslpassword=hunter2",
        "http://user:hunter2@127.0.0.1:4200/api",
        "what is this://?",
    ],
)
def test_urls_with_a_password(value: str) -> None:
    assert has_password(value)


@pytest.mark.parametrize(
    "value",
    [
        "", "true", "127.0.0.1", ".prefect-n8n", "http://127.0.0.1:4200/api",
        "http://[::1]:4200/api", "postgresql://user@host/database", "postgresql:///database",
        "postgresql://user:@/database?host=/tmp/socket",
    ],
)  # fmt: skip
def test_values_without_one(value: str) -> None:
    assert not has_password(value)
