"""``config``: every setting under its true variable, and no secret."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefect_n8n.cli.reporting import describe_settings
from prefect_n8n.core.redaction import MASK
from prefect_n8n.core.settings import Settings

SECRETS = [
    "DATABASE_URL", "PREFECT_N8N_LAUNCHER_DATABASE_URL", "PREFECT_N8N_MIGRATION_DATABASE_URL",
    "N8N_API_KEY", "N8N_WEBHOOK_SECRET",
]  # fmt: skip


def pairs(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """(variable, value, description)."""
    lines = list(describe_settings(settings))
    for head, text in zip(lines[::2], lines[1::2], strict=True):
        variable, _, value = head.partition("=")
        yield variable, value, text


def test_every_setting_has_two_lines() -> None:
    found = list(pairs(Settings()))
    assert len(found) == len(Settings.model_fields)
    for variable, _, text in found:
        assert variable == variable.upper()
        assert text.startswith("    ")
        assert text.strip() not in ("", "None")


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "postgresql://user:hunter2@host/database")
    found = {variable: value for variable, value, _ in pairs(Settings())}
    assert [found[name] for name in SECRETS] == [MASK] * len(SECRETS)
    assert "hunter2" not in "".join(describe_settings(Settings()))


def test_what_is_not_set_is_empty() -> None:
    found = {variable: value for variable, value, _ in pairs(Settings())}
    assert {found[name] for name in [*SECRETS, "N8N_BASE_URL", "PREFECT_N8N_PUBLIC_URL"]} == {""}
    assert found["PREFECT_N8N_PORT"] == "8788"


def test_variables_are_the_ones_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the name printed, setting it changes what is printed."""
    plain = {variable: value for variable, value, _ in pairs(Settings())}
    new = {
        "PREFECT_N8N_TENANT_ID": "00000000-0000-4000-8000-0000000000aa",
        "PREFECT_N8N_ALLOW_SUPERUSER": "True",
        **dict.fromkeys(SECRETS, MASK),
    }
    new = {name: new.get(name, "7.5" if "." in was else "77") for name, was in plain.items()}
    for name, value in new.items():
        monkeypatch.setenv(name, value)
    assert {name for name, value in plain.items() if value == new[name]} == set()
    changed = {variable: value for variable, value, _ in pairs(Settings())}
    unread = {name for name in plain if changed[name] == plain[name]}
    assert unread == set()
