"""Warm threads with an event loop each, in which flow runs are executed.

One loop does not scale: entering and leaving a deployment's run blocks its thread for a while.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from ..flows.inbox import close_database

T = TypeVar("T")


class Work(Generic[T]):
    """A coroutine under way in another thread."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, T]]
    ) -> None:
        self._loop = loop
        self._ended: Future[asyncio.Task[T]] = Future()
        self._task: asyncio.Task[T] | None = None
        # Runs there in a copy of the context here.
        loop.call_soon_threadsafe(self._start, make)

    async def result(self) -> T | None:
        """Wait until it has really ended; None where it was cancelled."""
        task = await asyncio.shield(asyncio.wrap_future(self._ended))
        return None if task.cancelled() else task.result()

    def cancel(self) -> None:
        """Ask it to stop."""
        self._loop.call_soon_threadsafe(self._cancel)

    def _start(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._task = self._loop.create_task(make())
        self._task.add_done_callback(self._ended.set_result)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


class LoopThread:
    """A daemon thread that runs an event loop."""

    def __init__(self, name: str) -> None:
        self.busy = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Work[T]:
        """Run a coroutine there."""
        return Work(self._loop, make)

    def stop(self) -> None:
        """End the loop once its database connections are closed."""
        closing = asyncio.run_coroutine_threadsafe(close_database(), self._loop)
        closing.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._loop.stop))
        self._thread.join(timeout=5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()


class LoopThreads:
    """Several loop threads; work goes to the least busy one."""

    def __init__(self, count: int) -> None:
        self._threads = [LoopThread(f"prefect-n8n-runner-{i}") for i in range(count)]

    async def run(
        self, make: Callable[[], Coroutine[Any, Any, T]], on_start: Callable[[Work[T]], None]
    ) -> T | None:
        """Run a coroutine in one of the threads; ``on_start`` gets the handle to cancel it."""
        thread = min(self._threads, key=lambda thread: thread.busy)
        thread.busy += 1
        try:
            work = thread.submit(make)
            on_start(work)
            return await work.result()
        finally:
            thread.busy -= 1

    def stop(self) -> None:
        """Stop all threads."""
        for thread in self._threads:
            thread.stop()
