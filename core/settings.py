"""Settings from the environment. ``prefect-n8n config`` prints them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from uuid import UUID

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from .urls import AllowList

DEFAULT_TENANT = UUID("00000000-0000-4000-8000-000000000001")
"""The tenant of an installation that has only one."""


class Settings(BaseSettings):
    """Settings of all processes; names without an alias are read from ``PREFECT_N8N_<NAME>``.

    Times are in seconds, sizes in bytes.
    """

    model_config = SettingsConfigDict(
        env_prefix="PREFECT_N8N_", extra="ignore", populate_by_name=True
    )

    database_url: SecretStr | None = Field(
        default=None,
        validation_alias="DATABASE_URL",
        description="PostgreSQL 14 or newer, as postgresql://user:password@host/database.",
    )
    launcher_database_url: SecretStr | None = Field(
        default=None, description="A login of its own for the launcher; else DATABASE_URL."
    )
    migration_database_url: SecretStr | None = Field(
        default=None, description="A login of its own for migrations; else DATABASE_URL."
    )
    n8n_base_url: str | None = Field(
        default=None,
        validation_alias="N8N_BASE_URL",
        description="Where n8n is, as http://host:5678.",
    )
    n8n_api_key: SecretStr | None = Field(
        default=None, validation_alias="N8N_API_KEY", description="Key of n8n's public API."
    )
    n8n_webhook_url: str | None = Field(
        default=None,
        validation_alias="N8N_WEBHOOK_URL",
        description="Base of n8n's webhooks, where it is not N8N_BASE_URL/webhook.",
    )
    n8n_webhook_secret: SecretStr | None = Field(
        default=None,
        validation_alias="N8N_WEBHOOK_SECRET",
        description="Secret shared with n8n; several, newest first, are parted by commas.",
    )
    allowed_targets: str = Field(
        default="",
        description=(
            "Targets that may be called although they are not public: hosts, addresses and networks"
            " as host, host:port, 10.1.2.3 or 10.0.0.0/8, parted by commas."
        ),
    )
    tenant_id: UUID = Field(default=DEFAULT_TENANT, description="The tenant of this process.")
    allow_superuser: bool = Field(
        default=False,
        description="Development only: serve although the database login bypasses row security.",
    )
    data_dir: Path = Field(
        default=Path(".prefect-n8n"), description="Where `up` keeps its embedded parts."
    )
    host: str = Field(default="127.0.0.1", description="Address the receiver listens on.")
    port: int = Field(default=8788, description="Port the receiver listens on.")
    public_url: str | None = Field(
        default=None, description="How others reach the receiver, where not http://host:port."
    )
    receive_deadline: float = Field(
        default=10.0, gt=0, description="Longest time for one request's head and body."
    )
    max_waiting: int = Field(
        default=2000, gt=0, description="Requests that may wait for a commit; more get 503."
    )
    max_waiters: int = Field(
        default=1000, ge=0, description="Requests that may wait for a result; more get 202 at once."
    )
    lease_seconds: float = Field(
        default=60.0, gt=0, description="A lost launcher's work is taken over after this time."
    )
    poll_seconds: float = Field(
        default=1.0, gt=0, description="How often the launcher looks without being woken."
    )
    prefect_poll_seconds: float = Field(
        default=5.0, gt=0, description="How often Prefect is asked for runs that are due."
    )
    drain_seconds: float = Field(
        default=10.0, ge=0, description="How long runs may take to end when the launcher stops."
    )
    reconcile_seconds: float = Field(
        default=30.0, gt=0, description="How often runs are compared with Prefect."
    )
    max_claims: int = Field(
        default=20, gt=0, description="Claims without an end after which an event is dead."
    )
    runner_threads: int = Field(default=4, gt=0, description="Threads of the resident runner.")
    runner_slots: int = Field(
        default=16, gt=0, description="Flow runs the resident runner holds at once."
    )

    @property
    def receiver_url(self) -> str:
        """The receiver's address as others reach it, without a slash at its end."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104
        return (self.public_url or f"http://{host}:{self.port}").rstrip("/")

    def allow_list(self) -> AllowList:
        """Return the targets that may be called although they are not public.

        These are ``allowed_targets``, and n8n where this process is told that it is.

        Raises:
            ConfigurationError: ``allowed_targets`` or an address of n8n cannot be read.
        """
        return AllowList.parse(self.allowed_targets).with_urls(
            url for url in (self.n8n_base_url, self.n8n_webhook_url) if url
        )


@lru_cache
def settings() -> Settings:
    """Return this process's settings, read once from the environment."""
    return Settings()
