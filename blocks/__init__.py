"""Prefect blocks: what operators fill in once in the Prefect UI."""

from .credentials import N8nCredentials

__all__ = ["N8nCredentials"]
