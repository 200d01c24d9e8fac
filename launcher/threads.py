"""Warm threads with an event loop each, in which flow runs are executed.

One loop does not scale: entering and leaving a deployment's run blocks its thread for a while.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from ..flows.inbox import close_database

T = TypeVar("T")


class LoopThread:
    """A daemon thread that runs an event loop, in a copy of its maker's context."""

    def __init__(self, name: str) -> None:
        self.busy = 0
        self._loop = asyncio.new_event_loop()
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name=name, daemon=True
        )
        self._thread.start()

    def submit(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Run a coroutine there; cancelling the future cancels it."""
        self.busy += 1
        future = asyncio.run_coroutine_threadsafe(work(), self._loop)
        future.add_done_callback(self._done)
        return future

    def stop(self) -> None:
        """End the loop once its database connections are closed."""
        asyncio.run_coroutine_threadsafe(close_database(), self._loop).add_done_callback(
            lambda _: self._loop.call_soon_threadsafe(self._loop.stop)
        )
        self._thread.join(timeout=5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _done(self, _: Future[Any]) -> None:
        self.busy -= 1


class LoopThreads:
    """Several loop threads; work goes to the least busy one."""

    def __init__(self, count: int) -> None:
        self._threads = [LoopThread(f"prefect-n8n-runner-{i}") for i in range(count)]

    def submit(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Run a coroutine in one of the threads."""
        return min(self._threads, key=lambda thread: thread.busy).submit(work)

    def stop(self) -> None:
        """Stop all threads."""
        for thread in self._threads:
            thread.stop()
