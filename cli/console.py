"""What the commands print, and how processes log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console

from ..core.errors import PrefectN8nError

_console = Console(highlight=False, soft_wrap=True)


def say(text: str = "", *, style: str | None = None) -> None:
    """Print a line."""
    _console.print(text, style=style, markup=False)


@contextmanager
def sentences() -> Generator[None]:
    """Turn our errors into one sentence and exit code 2: they say what to do, a trace does not."""
    try:
        yield
    except PrefectN8nError as error:
        sys.stderr.write(f"prefect-n8n: {error}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def log_to_stderr() -> None:
    """Log our own messages, with times; of the HTTP clients' only warnings: they log addresses."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        logging.Formatter("%(asctime)s | %(levelname)-7s | %(name)s - %(message)s", "%H:%M:%S")
    )
    ours = logging.getLogger("prefect_n8n")
    ours.handlers[:] = [handler]
    ours.propagate = False
    ours.setLevel(logging.INFO)
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Prefect's workers say at the end that they are sending what is left, which is their work.
    for name in ("EventsWorker", "APILogWorker"):
        logging.getLogger(name).setLevel(logging.ERROR)
