"""Calling user functions: results, exceptions and context pass; cancelling stops them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from prefect_n8n.flows import calling
from prefect_n8n.flows.calling import call

where: ContextVar[str] = ContextVar("where", default="nowhere")


class Expected(Exception):
    pass


async def test_results_pass() -> None:
    async def slow(a: int, b: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        return a, b

    def plain(a: int, b: int) -> tuple[int, int]:
        return a, b

    assert await call(slow, {"a": 1, "b": 2}) == (1, 2)
    assert await call(plain, {"b": 1, "a": 2}) == (2, 1)


async def test_any_name_can_be_given() -> None:
    """Fields of a body may be called like parameters of what calls the function."""
    names = {"fn": 1, "callable": 2, "self": 3, "arguments": 4, "context": 5}
    assert await call(lambda **fields: fields, names) == names


async def test_a_sync_function_does_not_hold_the_loop() -> None:
    release = threading.Event()

    def blocking() -> str:
        return threading.current_thread().name if release.wait(5) else "never released"

    work = asyncio.create_task(call(blocking, {}))
    await asyncio.sleep(0.01)
    release.set()
    assert (await work).startswith("prefect-n8n-flow")


@pytest.mark.parametrize("error", [Expected("why"), ValueError(), KeyError("k")])
async def test_exceptions_pass(error: Exception) -> None:
    async def slow() -> None:
        raise error

    def plain() -> None:
        raise error

    for fn in (slow, plain):
        with pytest.raises(type(error)) as caught:
            await call(fn, {})
        assert caught.value is error


def test_stop_iteration_ends_the_call() -> None:
    """``next()`` of something empty: no future can hold it, and the call would never end."""
    errors: list[Exception] = []

    def plain() -> object:
        return next(iter([]))

    def run() -> None:
        try:
            asyncio.run(call(plain, {}))
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(5)
    assert [str(error) for error in errors] == ["plain raised StopIteration"]


async def test_context_is_kept() -> None:
    async def slow() -> str:
        return where.get()

    def plain() -> str:
        before = where.get()
        where.set("changed")
        return before

    where.set("here")
    assert await call(slow, {}) == "here"
    assert await call(plain, {}) == "here"
    assert where.get() == "here"


async def test_cancelling_stops_a_sync_function() -> None:
    started, ended = threading.Event(), threading.Event()

    def endless() -> None:
        try:
            started.set()
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                pass
        finally:
            ended.set()

    work = asyncio.create_task(call(endless, {}))
    assert await asyncio.to_thread(started.wait, 5)
    begun = time.monotonic()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert ended.is_set(), "the function goes on although its run has ended"
    assert time.monotonic() - begun < 5


def in_a_with(lock: threading.Lock, started: threading.Event, until: float) -> None:
    with lock:
        started.set()
        while time.monotonic() < until:
            pass


def in_a_with_that_begins_with_one(
    lock: threading.Lock, started: threading.Event, until: float
) -> None:
    inner = threading.Lock()
    with lock:
        started.set()
        while time.monotonic() < until:
            with inner:
                pass
        assert not inner.locked()


def in_a_call(lock: threading.Lock, started: threading.Event, until: float) -> None:
    with lock:
        while time.monotonic() < until:
            in_a_with(threading.Lock(), started, until)


def in_one_line(lock: threading.Lock, started: threading.Event, until: float) -> None:
    started.set()
    while time.monotonic() < until: pass  # fmt: skip  # noqa: E701


def in_a_long_call(lock: threading.Lock, started: threading.Event, until: float) -> None:
    with lock:
        while time.monotonic() < until:
            started.set()
            time.sleep(1.5)
            time.sleep(1.5)
            time.sleep(1.5)


LOOPS = [in_a_with, in_a_with_that_begins_with_one, in_a_call, in_one_line, in_a_long_call]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("n", range(3))
async def test_what_a_stopped_function_holds_is_given_back(
    loop: Callable[..., None], n: int
) -> None:
    """On 3.12 and 3.13 an exception from another thread may pass by what is around a loop."""
    locks = [threading.Lock() for _ in range(3)]
    works: list[asyncio.Task[None]] = []
    for lock in locks:
        started = threading.Event()
        arguments = {"lock": lock, "started": started, "until": time.monotonic() + 10}
        works.append(asyncio.create_task(call(loop, arguments)))
        assert await asyncio.to_thread(started.wait, 5)
    begun = time.monotonic()
    works[n].cancel()
    with pytest.raises(asyncio.CancelledError):
        await works[n]
    assert not locks[n].locked()
    assert not any(work.done() for work in works if work is not works[n]), "others are stopped"
    for work in works:
        work.cancel()
    await asyncio.gather(*works, return_exceptions=True)
    assert not any(lock.locked() for lock in locks)
    assert time.monotonic() - begun < 8


async def test_a_function_that_has_not_begun_does_not_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = threading.Event()
    ran: list[bool] = []

    class Late(calling.ThreadPoolExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            return super().submit(lambda: release.wait(5) and fn(*args, **kwargs))

    monkeypatch.setattr(calling, "ThreadPoolExecutor", Late)
    work = asyncio.create_task(call(lambda: ran.append(True), {}))
    await asyncio.sleep(0.01)
    work.cancel()
    await asyncio.sleep(0.01)
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert ran == []


async def test_a_user_cannot_swallow_the_stop_by_accident() -> None:
    started = threading.Event()

    def careless() -> None:
        started.set()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                while time.monotonic() < deadline:
                    pass
            except Exception:
                continue

    work = asyncio.create_task(call(careless, {}))
    assert await asyncio.to_thread(started.wait, 5)
    begun = time.monotonic()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert time.monotonic() - begun < 5


async def test_cancelling_stops_an_async_function() -> None:
    stopped = asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    work = asyncio.create_task(call(endless, {}))
    await asyncio.sleep(0.01)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert stopped.is_set()
