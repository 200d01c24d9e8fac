"""A target is called so many times at once, over all threads."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from prefect_n8n.flows import pacing
from prefect_n8n.flows.pacing import paced


@pytest.fixture(autouse=True)
def _nothing_is_left() -> None:
    assert pacing._gates == {}


async def test_the_limit_holds_and_all_get_their_turn() -> None:
    busy = most = done = 0

    async def work() -> None:
        nonlocal busy, most, done
        async with paced("n8n", 3):
            busy += 1
            most = max(most, busy)
            await asyncio.sleep(0)
            busy -= 1
            done += 1

    await asyncio.gather(*(work() for _ in range(50)))
    assert (most, done) == (3, 50)
    assert pacing._gates == {}


async def test_targets_do_not_wait_for_each_other() -> None:
    async with paced("a", 1), asyncio.timeout(1), paced("b", 1):
        pass


async def test_places_are_given_in_the_order_of_arrival() -> None:
    order: list[int] = []

    async def work(number: int) -> None:
        async with paced("n8n", 1):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(work(i) for i in range(5)))
    assert order == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("woken", [False, True])
async def test_who_gives_up_takes_no_place(woken: bool) -> None:
    async with paced("n8n", 1):
        waiting = asyncio.create_task(_hold("n8n"))
        await asyncio.sleep(0)
        if not woken:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(1), paced("n8n", 1):
        pass
    assert pacing._gates == {}


async def _hold(target: str) -> None:
    async with paced(target, 1):
        await asyncio.sleep(60)


def test_it_holds_over_threads() -> None:
    busy = most = 0
    lock = threading.Lock()

    async def work() -> None:
        nonlocal busy, most
        async with paced("n8n", 2):
            with lock:
                busy += 1
                most = max(most, busy)
            time.sleep(0.001)  # noqa: ASYNC251 - the other threads are to run
            with lock:
                busy -= 1

    async def several() -> None:
        await asyncio.gather(*(work() for _ in range(20)))

    threads = [threading.Thread(target=lambda: asyncio.run(several())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert most == 2
    assert pacing._gates == {}


def test_a_waiter_whose_loop_is_gone_is_passed_over() -> None:
    async def hold_and_leave() -> None:
        async with paced("n8n", 1):
            loop = asyncio.new_event_loop()
            gone: asyncio.Future[None] = loop.create_future()
            pacing._gates["n8n"].waiting.append((loop, gone))
            loop.close()

    asyncio.run(hold_and_leave())
    assert pacing._gates == {}
