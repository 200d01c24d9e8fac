"""The seven tables with row security, grants, and the audit chain."""

from __future__ import annotations

from pathlib import Path

from alembic import op
from sqlalchemy import text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create everything; there is nothing before this version to go back to."""
    for name in ("0001_tables.sql", "0001_security.sql"):
        op.execute(text(Path(__file__).with_name(name).read_text("utf-8")))
