"""Async work for sync callers, and work that must end although its caller is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import anyio
from prefect._internal.compatibility.async_dispatch import async_dispatch

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

LOOK_SECONDS = 0.2
"""A thread waits in slices: an exception that is injected into it is raised between them."""


def dual(
    async_method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[
    [Callable[Concatenate[S, P], T]], Callable[Concatenate[S, P], T | Coroutine[Any, Any, T]]
]:
    """Make a sync method that in async code is ``async_method``, as Prefect's own blocks have them.

    Prefect decides by the run: in an async flow such methods give a coroutine. But ``@webhook``
    runs a sync function in an async flow, in a thread of its own, where nobody could await that.
    """

    def decorate(
        sync_method: Callable[Concatenate[S, P], T],
    ) -> Callable[Concatenate[S, P], T | Coroutine[Any, Any, T]]:
        prefects = async_dispatch(async_method)(sync_method)

        @wraps(sync_method)
        def method(self: S, *args: P.args, **kwargs: P.kwargs) -> T | Coroutine[Any, Any, T]:
            if "_sync" not in kwargs and not _in_event_loop():
                return sync_method(self, *args, **kwargs)
            return prefects(self, *args, **kwargs)

        cast(Any, method).aio = async_method
        return method

    return decorate


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run_blocking(work: Coroutine[Any, Any, T], *, leave_seconds: float) -> T:
    """Run a coroutine to its end and return its result, from a thread that may not await.

    It runs in a thread of its own. Whatever interrupts the caller meanwhile (a cancelled or
    timed-out run, Ctrl-C) cancels the coroutine, which gets ``leave_seconds`` to clean up.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(work, context=contextvars.copy_context())
    # Not Thread.join(): when that is interrupted, Python 3.11 takes the thread for ended.
    done = threading.Event()
    thread = threading.Thread(
        target=_run, args=(loop, task, done), name="prefect-n8n-blocking", daemon=True
    )
    try:
        thread.start()
        while not done.wait(LOOK_SECONDS):
            pass
    except BaseException:
        with contextlib.suppress(RuntimeError):  # it has just ended
            loop.call_soon_threadsafe(task.cancel)
        done.wait(leave_seconds)
        raise
    return task.result()


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], done: threading.Event) -> None:
    try:
        loop.run_until_complete(asyncio.wait([task]))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
        done.set()


async def finish(work: Coroutine[Any, Any, None], *, seconds: float) -> bool:
    """Run a coroutine to its end, at most ``seconds``, although this task is being cancelled.

    Returns whether it ended in time. Its own failure is raised.
    """

    async def bounded() -> bool:
        try:
            async with asyncio.timeout(seconds):
                await work
        except TimeoutError:
            return False
        return True

    task = asyncio.create_task(bounded())
    # Prefect's time limits are anyio scopes, which cancel every await again.
    with anyio.CancelScope(shield=True):
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
    return task.result()
