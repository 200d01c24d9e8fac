"""Prefect blocks: what operators fill in once in the Prefect UI."""

from .credentials import N8nCredentials
from .workflow import N8nWorkflow

__all__ = ["N8nCredentials", "N8nWorkflow"]
