"""What the tables are made of: their metadata, and the kinds of their columns."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import CheckConstraint, Column, DateTime, MetaData, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import SQLModel

SCHEMA = "prefect_n8n"
metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    },
)


class LedgerTable(SQLModel):
    """Base of our tables: metadata of their own, apart from the user's SQLModel tables."""

    metadata: ClassVar[MetaData] = metadata  # pyright: ignore[reportIncompatibleVariableOverride]


def one_of(column: str, words: type[StrEnum] | tuple[str, ...]) -> CheckConstraint:
    """Return a named CHECK that ``column`` holds one of the words."""
    listed = ", ".join(f"'{word!s}'" for word in words)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def text_column(*, nullable: bool = False, default: str | None = None) -> Any:
    """Return a text column."""
    server = None if default is None else text(f"'{default}'")
    return Column(Text, nullable=nullable, server_default=server)


def time(*, nullable: bool = False, now: bool = False) -> Any:
    """Return a timestamptz column; ``now`` makes it default to the time of the insert."""
    return Column(
        DateTime(timezone=True), nullable=nullable, server_default=text("now()") if now else None
    )


def jsonb(*, nullable: bool = False, default: str | None = "{}") -> Any:
    """Return a jsonb column."""
    server = None if nullable or default is None else text(f"'{default}'::jsonb")
    return Column(JSONB, nullable=nullable, server_default=server)


def number(default: int = 0) -> Any:
    """Return the keywords of an integer column with a default."""
    return {"server_default": text(str(default))}


def text_array() -> Any:
    """Return a text[] column, empty by default."""
    return Column(ARRAY(Text), nullable=False, server_default=text("'{}'::text[]"))
