"""At most so many calls at once to one target, over all threads of this process.

n8n does not shed load: it queues, and every caller waits longer.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


@dataclass(slots=True)
class _Gate:
    busy: int = 0
    waiting: deque[_Waiter] = field(default_factory=deque[_Waiter])


_lock = threading.Lock()
_gates: dict[str, _Gate] = {}


@asynccontextmanager
async def paced(target: str, limit: int) -> AsyncGenerator[None]:
    """Hold one of ``limit`` places at the target; wait for one in the order of arrival."""
    await _enter(target, limit)
    try:
        yield
    finally:
        _leave(target)


async def _enter(target: str, limit: int) -> None:
    with _lock:
        gate = _gates.setdefault(target, _Gate())
        if gate.busy < limit:
            gate.busy += 1
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        gate.waiting.append((loop, turn))
    try:
        await turn
    except asyncio.CancelledError:
        _give_up(target, (loop, turn))
        raise


def _give_up(target: str, waiter: _Waiter) -> None:
    with _lock:
        gate = _gates[target]
        if waiter in gate.waiting:
            gate.waiting.remove(waiter)
            return
    # The place was given to us just now: pass it on.
    _leave(target)


def _leave(target: str) -> None:
    with _lock:
        gate = _gates[target]
        while gate.waiting:
            loop, turn = gate.waiting.popleft()
            if not loop.is_closed():
                loop.call_soon_threadsafe(_wake, turn)
                return
        gate.busy -= 1
        if not gate.busy:
            del _gates[target]


def _wake(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
