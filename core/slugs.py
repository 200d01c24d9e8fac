"""The names that stand in addresses."""

from __future__ import annotations

import re

SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""An endpoint's name, as a whole. The ledger holds the same by a CHECK."""
