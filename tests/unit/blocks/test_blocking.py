"""Async work for sync callers: its result, and its end when the caller is interrupted."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import signal
import threading
import time
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from prefect.context import FlowRunContext

from prefect_n8n.blocks.blocking import dual, finish, run_blocking

VAR = contextvars.ContextVar("VAR", default="nothing")


class Stop(BaseException):
    """What is thrown into a thread."""


async def value() -> str:
    await asyncio.sleep(0)
    return VAR.get()


def test_the_result_and_the_callers_context() -> None:
    token = VAR.set("mine")
    assert run_blocking(value(), leave_seconds=1) == "mine"
    VAR.reset(token)


def test_the_error() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        run_blocking(work(), leave_seconds=1)


async def test_within_a_running_loop() -> None:
    assert run_blocking(value(), leave_seconds=1) == "nothing"


class Interrupted:
    """Work that says what happens to it."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.cleaned = False

    async def work(self) -> None:
        try:
            self.begun.set()
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            self.cleaned = True
            raise


def test_an_exception_thrown_into_the_thread_cancels_the_work_and_waits_for_its_end() -> None:
    """As Prefect's time limits and our cancelling do."""
    interrupted = Interrupted()
    seen: list[type[BaseException]] = []

    def caller() -> None:
        try:
            run_blocking(interrupted.work(), leave_seconds=5)
        except BaseException as error:
            seen.append(type(error))

    thread = threading.Thread(target=caller)
    thread.start()
    assert interrupted.begun.wait(5)
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Stop))
    thread.join(5)
    assert (seen, interrupted.cleaned) == ([Stop], True)


def test_a_signal_cancels_the_work() -> None:
    """As Prefect's time limit of a sync flow in the main thread does."""
    interrupted = Interrupted()

    def alarm(*_: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(Stop):
            run_blocking(interrupted.work(), leave_seconds=5)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted.cleaned


def test_work_that_does_not_leave_is_left_behind() -> None:
    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(0.5)
                return
            except asyncio.CancelledError:
                continue

    def alarm(*_: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    begun = time.monotonic()
    try:
        with pytest.raises(Stop):
            run_blocking(stubborn(), leave_seconds=0.1)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - begun < 0.45
    time.sleep(0.6)  # its thread ends within the test


async def test_finish_goes_on_under_any_cancelling() -> None:
    done: list[str] = []

    async def clean(name: str) -> None:
        await asyncio.sleep(0.05)
        done.append(name)

    async def cancelled() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            assert await finish(clean("task"), seconds=5)
            raise

    task = asyncio.create_task(cancelled())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0.01)
    task.cancel()  # twice: a second Ctrl-C
    await asyncio.wait([task])
    assert task.cancelled()

    with anyio.move_on_after(0.01):  # it cancels each await anew
        try:
            await asyncio.sleep(60)
        finally:
            assert await finish(clean("scope"), seconds=5)
    assert done == ["task", "scope"]


async def test_finish_has_an_end_of_its_own() -> None:
    assert not await finish(asyncio.sleep(60), seconds=0.01)


async def test_finish_raises_what_failed() -> None:
    async def fail() -> None:
        raise ValueError("it")

    with pytest.raises(ValueError, match="it"):
        await finish(fail(), seconds=1)


class Both:
    """A class with a dual method."""

    async def aget(self, given: int) -> tuple[str, int]:
        """Get it."""
        return "async", given

    @dual(aget)
    def get(self, given: int) -> tuple[str, int]:
        """Get it."""
        return "sync", given


async def test_a_dual_method_is_awaited_in_a_loop_and_not_in_a_thread() -> None:
    both: Any = Both()
    assert await both.get(1) == ("async", 1)
    assert both.get(2, _sync=True) == ("sync", 2)
    assert await asyncio.to_thread(both.get, given=3) == ("sync", 3)
    assert Both.get.aio is Both.aget  # type: ignore[attr-defined]


def in_context(isasync: bool) -> contextvars.Token[Any]:
    """Be in a flow run."""
    context = SimpleNamespace(flow=SimpleNamespace(isasync=isasync))
    return FlowRunContext.__var__.set(context)  # type: ignore[arg-type]


def test_a_dual_method_in_a_thread_of_an_async_flow_is_sync() -> None:
    """So a sync function under @webhook is called."""
    token = in_context(isasync=True)
    both: Any = Both()
    assert both.get(1) == ("sync", 1)
    FlowRunContext.__var__.reset(token)


async def test_a_dual_method_of_a_sync_flow_in_a_loop_is_sync() -> None:
    """As Prefect has it."""
    token = in_context(isasync=False)
    both: Any = Both()
    assert both.get(1) == ("sync", 1)
    FlowRunContext.__var__.reset(token)
