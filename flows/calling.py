"""Calls a user's function, async or not, so that cancelling the run stops it."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .stopping import stop


async def call(fn: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Await an async function; run any other in a thread of its own.

    A sync function is stopped at its next line of Python when the run is cancelled: a thread
    cannot be interrupted inside a blocking call.
    """
    if inspect.iscoroutinefunction(fn):
        return await fn(**arguments)
    return await _in_thread(fn, arguments)


async def _in_thread(fn: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    thread: list[int] = []
    cancelled = False
    context = contextvars.copy_context()

    def work() -> Any:
        thread.append(threading.get_ident())
        if cancelled:
            return None
        try:
            return context.run(fn, **arguments)
        except StopIteration as error:
            # No future takes it: the run would never end. A coroutine says the same.
            raise RuntimeError(f"{fn.__name__} raised StopIteration") from error

    pool = ThreadPoolExecutor(1, thread_name_prefix="prefect-n8n-flow")
    done = asyncio.get_running_loop().run_in_executor(pool, work)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        cancelled = True
        if thread:
            await stop(thread[0], done)
        else:
            await asyncio.wait([done])
        if not done.cancelled():
            done.exception()
        raise
    finally:
        pool.shutdown(wait=False)
