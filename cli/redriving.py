"""``events redrive``: count, ask, and do it once."""

from __future__ import annotations

import getpass
import json as json_format
import socket
import sys
from datetime import UTC, datetime
from uuid import UUID, uuid4

from ..core.errors import ConfigurationError
from ..core.settings import Settings
from ..ledger import redrives
from ..ledger.database import Database
from ..ledger.redrives import Selection
from .processes import Say
from .serving import database_url


def aware(at: datetime | None) -> datetime | None:
    """Take a time without a zone as UTC."""
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


class Redriving:
    """One press of redrive, from the command line."""

    def __init__(
        self,
        settings: Settings,
        selection: Selection,
        *,
        rate: float,
        press: UUID | None,
        json: bool,
        say: Say,
    ) -> None:
        self._settings = settings
        self._selection = selection
        self._rate = rate
        self._press = press or uuid4()
        self._json = json
        self._say = say

    async def run(self, *, dry_run: bool, yes: bool) -> None:
        """Say how many events fit; unless only that was asked for, ask, and redrive them.

        Raises:
            ConfigurationError: what is selected cannot be, or nobody is there to be asked.
            LedgerUnavailable: PostgreSQL is away.
        """
        database = Database(database_url(self._settings), pool_size=1)
        try:
            fitting = await self._preview(database)
            taken = min(fitting, self._selection.limit)
            if dry_run:
                self._tell(fitting, f"{_events(fitting)} fit; {taken} would be redriven.")
            elif taken == 0:
                self._tell(0, "No event fits: nothing is redriven.", redriven=0)
            elif yes or self._confirmed(fitting, taken):
                await self._do(database, fitting)
            else:
                self._say("Nothing is redriven.")
        finally:
            await database.close()

    async def _preview(self, database: Database) -> int:
        async with database.transaction(self._settings.tenant_id) as connection:
            return await redrives.preview(connection, self._settings.tenant_id, self._selection)

    async def _do(self, database: Database, fitting: int) -> None:
        async with database.transaction(self._settings.tenant_id) as connection:
            done = await redrives.redrive(
                connection,
                self._settings.tenant_id,
                self._press,
                self._selection,
                rate=self._rate,
                actor=f"{getpass.getuser()}@{socket.gethostname()}",
            )
        before = ", by this press before" if done.repeated else ""
        seconds = max(done.events - 1, 0) / self._rate
        self._tell(
            fitting,
            f"{_events(done.events)} redriven{before} (press {self._press}); the last is due in"
            f" {seconds:.0f} s.",
            redriven=done.events,
        )

    def _confirmed(self, fitting: int, taken: int) -> bool:
        if self._json or not sys.stdin.isatty():
            raise ConfigurationError(
                f"{_events(fitting)} fit. Give --yes to redrive {taken}, or --dry-run to count."
            )
        more = f" of {fitting}, the oldest" if taken < fitting else ""
        self._say(f"{_events(taken)}{more} will be redriven, {self._rate:g} a second.")
        return input("Go on? [y/N] ").strip().lower() in ("y", "yes")

    def _tell(self, fitting: int, sentence: str, *, redriven: int | None = None) -> None:
        if not self._json:
            self._say(sentence)
            return
        answer: dict[str, object] = {"fitting": fitting}
        if redriven is not None:
            answer |= {"redriven": redriven, "press": str(self._press), "rate": self._rate}
        self._say(json_format.dumps(answer))


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"
