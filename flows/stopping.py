"""Stops a sync function that runs in another thread, so that its ``finally`` blocks run.

CPython raises an exception that comes from another thread at the end of a call or at a jump back.
In 3.12 and 3.13 the jump that closes ``while x:`` is outside of the exception table's ranges:
raised there, the exception passes by the ``except``, ``finally`` and ``with`` around the loop, and
a lock stays locked. Where a function may come to such a jump, it is stopped at the first line of
the loop's body instead, which is inside of them.
"""

from __future__ import annotations

import asyncio
import ctypes
import dis
import sys
import threading
from collections import Counter
from functools import lru_cache
from types import CodeType
from typing import Any

PATIENCE = 0.5
"""Seconds to come to such a line. A call that does not return gets the exception at its end."""

_TOOL = 4
"""Of the ids for tools of ``sys.monitoring`` one that has no meaning of its own."""

# Not in 3.11, which needs none of this.
_monitoring: Any = getattr(sys, "monitoring", None)
_lock = threading.Lock()
_threads: set[int] = set()
"""Threads to be stopped at a line."""
_watched: Counter[CodeType] = Counter()


class Stop(BaseException):
    """Raised inside a function's thread when its run is cancelled."""


async def stop(thread: int, ended: asyncio.Future[Any]) -> None:
    """Raise ``Stop`` in the thread, once, and wait until what runs there has ended."""
    waits = True
    if codes := _unsafe(thread) if _can_watch() else []:
        _watch(codes, thread)
        try:
            await asyncio.wait([ended], timeout=PATIENCE)
        finally:
            waits = _unwatch(codes, thread)
    if waits and not ended.done():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Stop))
    await asyncio.wait([ended])


def _unsafe(thread: int) -> list[CodeType]:
    """Return the code under way in the thread that may come to a jump outside of its table."""
    codes: list[CodeType] = []
    frame = sys._current_frames().get(thread)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        if any(frame.f_lasti <= jump for jump, _ in jumps_outside(frame.f_code)):
            codes.append(frame.f_code)
        frame = frame.f_back
    return codes


@lru_cache(maxsize=1024)
def jumps_outside(code: CodeType) -> tuple[tuple[int, int], ...]:
    """Return the offsets of jumps back that the handler of their target does not cover: of the
    jump, and of the target."""
    found = dis.Bytecode(code)
    entries: list[Any] = list(getattr(found, "exception_entries", ()))

    def handler(offset: int) -> int | None:
        return next((e.target for e in entries if e.start <= offset < e.end), None)

    return tuple(
        (each.offset, each.argval)
        for each in (found if entries else ())
        if each.opname.startswith("JUMP_BACKWARD") and handler(each.offset) != handler(each.argval)
    )


def _can_watch() -> bool:
    if _monitoring is None:
        return False
    with _lock:
        if _monitoring.get_tool(_TOOL) is None:
            _monitoring.use_tool_id(_TOOL, __name__)
            _monitoring.register_callback(_TOOL, _monitoring.events.LINE, _on_line)
        return _monitoring.get_tool(_TOOL) == __name__


def _watch(codes: list[CodeType], thread: int) -> None:
    with _lock:
        _threads.add(thread)
        for code in codes:
            _watched[code] += 1
            _monitoring.set_local_events(_TOOL, code, _monitoring.events.LINE)


def _unwatch(codes: list[CodeType], thread: int) -> bool:
    """Say whether the thread was not stopped at a line."""
    with _lock:
        for code in codes:
            _watched[code] -= 1
            if not _watched[code]:
                del _watched[code]
                _monitoring.set_local_events(_TOOL, code, 0)
        waits = thread in _threads
        _threads.discard(thread)
    return waits


def _on_line(code: CodeType, _: int) -> None:
    """Called in every thread that comes to a line of watched code."""
    thread = threading.get_ident()
    if thread not in _threads:
        return
    at = sys._getframe(1).f_lasti  # pyright: ignore[reportPrivateUsage]
    if at not in {target for _, target in jumps_outside(code)}:
        return
    with _lock:
        stops = thread in _threads
        _threads.discard(thread)
    if stops:
        raise Stop
