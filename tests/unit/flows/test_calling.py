"""Calling user functions: results, exceptions and context pass; cancelling stops them."""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import ContextVar

import pytest

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
