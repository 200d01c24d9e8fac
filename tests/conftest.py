"""Fixtures that every kind of test may use: a PostgreSQL cluster and a database for each test."""

from __future__ import annotations

pytest_plugins = ["support.postgres", "support.receiver"]
