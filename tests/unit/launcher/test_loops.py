"""Loops that go on for ever: how they wait, what they say, and that nothing ends them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from prefect_n8n.core.errors import LedgerUnavailable, LoopEnded, PrefectUnavailable
from prefect_n8n.launcher import loops
from prefect_n8n.launcher.loops import Bell, forever, until_available, until_stopped

LOGGER = "prefect_n8n.launcher"
really_sleep = asyncio.sleep


class Enough(BaseException):
    """Ends a loop that would go on."""


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await really_sleep(0)

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Clock:
    clock = Clock()
    monkeypatch.setattr(loops.asyncio, "sleep", clock.sleep)
    monkeypatch.setattr(loops.time, "monotonic", clock.monotonic)
    caplog.set_level(logging.INFO, LOGGER)
    return clock


def turns(*outcomes: BaseException | None) -> Callable[[], object]:
    """A turn that ends in each of the ways, one after the other."""
    left = list(outcomes)

    async def turn() -> None:
        outcome = left.pop(0)
        if outcome is not None:
            raise outcome

    return turn


async def run(*outcomes: BaseException | None) -> None:
    with pytest.raises(Enough):
        await forever("inbox", turns(*outcomes, Enough()), every=0.0)  # type: ignore[arg-type]


async def test_it_slows_down_and_recovers(clock: Clock) -> None:
    away = LedgerUnavailable("away.")
    await run(*[away] * 6, None, away, away, None)
    assert clock.slept == [1, 2, 4, 5, 5, 5, 1, 2]


async def test_being_away_is_said_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    await run(*[LedgerUnavailable("It is away.")] * 5, None, None)
    assert [record.getMessage() for record in caplog.records] == [
        "inbox: It is away. Trying again.",
        "inbox: works again",
    ]


async def test_a_new_outage_is_said_again(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    away = PrefectUnavailable("It is away.")
    await run(away, None, away, None)
    assert len(caplog.records) == 4


async def test_unexpected_errors_are_logged_with_their_trace(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    await run(ZeroDivisionError("why"), None)
    assert caplog.records[0].levelno == logging.ERROR
    assert "ZeroDivisionError: why" in caplog.text
    assert clock.slept == [1]


async def test_no_outage_is_too_long(clock: Clock) -> None:
    """Hours later it still tries: 2.0 ** 1024 is no float."""
    await run(*[LedgerUnavailable("away.")] * 1100, None)
    assert clock.slept[-1] == loops.LONGEST_PAUSE


async def test_it_can_be_cancelled() -> None:
    loop = asyncio.create_task(forever("inbox", turns(*[None] * 9), every=60))  # type: ignore[arg-type]
    await really_sleep(0.01)
    assert loop.get_name() == "inbox"
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop


async def test_a_ring_starts_the_next_turn() -> None:
    bell, count = Bell(), 0

    async def turn() -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise Enough

    loop = asyncio.create_task(forever("inbox", turn, every=60, bell=bell))
    for _ in range(2):
        await really_sleep(0.01)
        bell.ring()
    with pytest.raises(Enough):
        await asyncio.wait_for(loop, 5)


async def test_rings_while_nobody_waits_are_kept_as_one() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    async with asyncio.timeout(5):
        await bell.wait(60)
    began = asyncio.get_running_loop().time()
    await bell.wait(0.05)
    assert asyncio.get_running_loop().time() - began >= 0.04


async def test_until_available_is_quiet_at_first(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    left = 29

    async def attempt() -> str:
        nonlocal left
        left -= 1
        if left >= 0:
            raise PrefectUnavailable("It is away.")
        return "there"

    assert await until_available("default block", attempt) == "there"
    assert caplog.records == []
    left = 70
    assert await until_available("default block", attempt) == "there"
    assert [record.getMessage() for record in caplog.records] == [
        "default block: It is away. Waiting since 30 s.",
        "default block: It is away. Waiting since 60 s.",
    ]


async def test_until_available_waits_for_nothing_else(clock: Clock) -> None:
    async def attempt() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await until_available("default block", attempt)
    assert clock.slept == []


async def goes_on() -> None:
    await asyncio.Event().wait()


async def test_loops_go_on_until_stopped() -> None:
    stop = asyncio.Event()
    loop = asyncio.create_task(goes_on())
    waiting = asyncio.create_task(until_stopped(stop, [loop]))
    await really_sleep(0.01)
    assert not waiting.done()
    stop.set()
    await asyncio.wait_for(waiting, 5)
    assert not loop.done()
    loop.cancel()


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (OverflowError("too large"), "OverflowError: too large"),
        (asyncio.CancelledError(), "it was cancelled"),
        (Enough("why"), "Enough: why"),
    ],
)
async def test_a_loop_that_ends_ends_all(end: BaseException, why: str) -> None:
    """A launcher without one of its loops would look alive and do half of its work."""
    others = asyncio.create_task(goes_on())
    loop = asyncio.create_task(turns(end)(), name="inbox")  # type: ignore[arg-type]
    with pytest.raises(LoopEnded, match="loop 'inbox' ended") as caught:
        await asyncio.wait_for(until_stopped(asyncio.Event(), [others, loop]), 5)
    assert why in str(caught.value)
    others.cancel()
