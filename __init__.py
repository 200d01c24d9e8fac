"""prefect-n8n: the bridge between n8n and Prefect that never loses, repeats or forges work.

Blocks are imported eagerly, because ``prefect block register -m prefect_n8n`` scans this module;
all else on first use, because Prefect imports this package on its own in every process.
"""

from __future__ import annotations

from .blocks import N8nCredentials

__version__ = "0.1.0"
__all__ = ["N8nCredentials"]
