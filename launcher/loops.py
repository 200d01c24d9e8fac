"""Loops that go on for ever: woken by a bell or after a time, slower while something is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from ..core.errors import LoopEnded, Unavailable

logger = logging.getLogger("prefect_n8n.launcher")

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 5.0
WORTH_A_WORD = 30.0

T = TypeVar("T")


class Bell:
    """Wakes one waiter; rings while nobody waits are kept as one."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake the waiter, now or when it next waits."""
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Wait for a ring, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass
        self._event.clear()


async def until_available(name: str, attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeat ``attempt`` until what it needs is there; return its result.

    Starting together, everyone waits for everyone: only a long wait is worth a word.
    """
    begun = said = time.monotonic()
    while True:
        try:
            return await attempt()
        except Unavailable as error:
            if time.monotonic() - said >= WORTH_A_WORD:
                said = time.monotonic()
                logger.warning("%s: %s Waiting since %.0f s.", name, error, said - begun)
        await asyncio.sleep(1.0)


async def until_stopped(stop: asyncio.Event, loops: Sequence[asyncio.Task[None]]) -> None:
    """Wait until ``stop`` is set, while all the loops go on.

    Raises:
        LoopEnded: one of them ended first, however it did.
    """
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({stopping, *loops}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    ended = next((loop for loop in loops if loop.done()), None)
    if ended is not None and not stop.is_set():
        error = None if ended.cancelled() else ended.exception()
        why = "it was cancelled" if error is None else f"{type(error).__name__}: {error}"
        raise LoopEnded(f"The launcher's loop {ended.get_name()!r} ended ({why}).") from error


async def forever(
    name: str, turn: Callable[[], Awaitable[None]], *, every: float, bell: Bell | None = None
) -> None:
    """Call ``turn`` for ever: at each ring, and every so many seconds.

    A failed turn is logged once and tried again after 1, 2, 4, … at most 5 seconds.
    """
    bell = bell or Bell()
    if (task := asyncio.current_task()) is not None:
        task.set_name(name)
    failures, pause = 0, FIRST_PAUSE
    while True:
        try:
            await turn()
        except Exception as error:
            if not isinstance(error, Unavailable):
                logger.exception("%s: unexpected error", name)
            elif failures == 0:
                logger.warning("%s: %s Trying again.", name, error)
            await asyncio.sleep(pause)
            failures, pause = failures + 1, min(2 * pause, LONGEST_PAUSE)
            continue
        if failures:
            logger.info("%s: works again", name)
            failures, pause = 0, FIRST_PAUSE
        await bell.wait(every)
