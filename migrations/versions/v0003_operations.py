"""What operators need: see the files it runs."""

from __future__ import annotations

from pathlib import Path

from alembic import op
from sqlalchemy import text

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

FILES = ("0003_registry.sql",)


def upgrade() -> None:
    """Run them; a ledger is never taken back to an older version."""
    for name in FILES:
        op.execute(text(Path(__file__).with_name(name).read_text("utf-8")))
