"""Outbound endpoints, attempts, fallbacks and redrives."""

from __future__ import annotations

from pathlib import Path

from alembic import op
from sqlalchemy import text

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them; a ledger is never taken back to an older version."""
    for name in ("0002_tables.sql", "0002_security.sql"):
        op.execute(text(Path(__file__).with_name(name).read_text("utf-8")))
