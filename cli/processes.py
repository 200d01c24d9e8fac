"""Child processes of ``up`` and ``serve``: started, awaited, restarted when lost, ended with us."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import ConfigurationError

READY_SECONDS = 90.0
STOP_SECONDS = 15.0
MAX_RESTARTS = 5
RESTARTS_WITHIN = 120.0

Say = Callable[[str], None]


@dataclass
class Child:
    """A process to keep alive. ``ready`` is asked, with its pid, until it says yes."""

    name: str
    argv: list[str]
    env: dict[str, str]
    ready: Callable[[int], Awaitable[bool]]
    log: Path | None = None
    process: asyncio.subprocess.Process | None = None
    starts: list[float] = field(default_factory=list[float])

    @property
    def hint(self) -> str:
        """Where to look when it fails."""
        return f" Its log is {self.log}." if self.log else ""


class Supervisor:
    """Keeps children alive until it is stopped; then ends them, the last started first."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._children: list[Child] = []
        self._watchers: list[asyncio.Task[None]] = []
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self, child: Child) -> None:
        """Start the child."""
        self._children.append(child)
        await _spawn(child)

    async def wait_ready(self, child: Child) -> None:
        """Wait until the child is ready, and watch over it from then on.

        Raises:
            ConfigurationError: it ended, or was not ready in time.
        """
        deadline = time.monotonic() + READY_SECONDS
        while not await _is_ready(child):
            process = child.process
            if process is None or process.returncode is not None:
                raise ConfigurationError(f"{child.name} did not start.{child.hint}")
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"{child.name} was not ready after {READY_SECONDS:.0f} seconds.{child.hint}"
                )
            await asyncio.sleep(0.1)
        self._watchers.append(asyncio.create_task(self._watch(child)))

    async def stop(self) -> None:
        """End all children: ask, wait, then kill."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for child in reversed(self._children):
            await _end(child)

    def kill(self) -> None:
        """End all children at once."""
        for child in self._children:
            _signal(child, signal.SIGKILL)

    async def _watch(self, child: Child) -> None:
        while True:
            assert child.process is not None
            code = await child.process.wait()
            child.starts = [s for s in child.starts if s > time.monotonic() - RESTARTS_WITHIN]
            if len(child.starts) > MAX_RESTARTS:
                self.failed.set_exception(
                    ConfigurationError(f"{child.name} keeps ending ({_why(code)}).{child.hint}")
                )
                return
            self._say(f"{child.name} was lost ({_why(code)}); it is started again.{child.hint}")
            await asyncio.sleep(len(child.starts) - 1)
            await _spawn(child)


async def until_signal(
    work: Callable[[], Coroutine[Any, Any, None]], kill: Callable[[], None], say: Say
) -> None:
    """Do the work; the first signal stops it in its order, a second one calls ``kill``."""
    task = asyncio.create_task(work())
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if task.cancelling():
            kill()
        else:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    try:
        await task
    except asyncio.CancelledError:
        say("Stopped.")


async def _spawn(child: Child) -> None:
    child.starts.append(time.monotonic())
    output = child.log.open("ab") if child.log else contextlib.nullcontext(None)
    with output as file:
        child.process = await asyncio.create_subprocess_exec(
            *child.argv,
            env=os.environ | child.env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            # The terminal's Ctrl-C is for us alone: we end the children in their order.
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )


async def _is_ready(child: Child) -> bool:
    if child.process is None or child.process.returncode is not None:
        return False
    try:
        return await child.ready(child.process.pid)
    except Exception:
        return False


async def _end(child: Child) -> None:
    if child.process is None or child.process.returncode is not None:
        return
    _signal(child, signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await child.process.wait()
    except TimeoutError:
        _signal(child, signal.SIGKILL)
        await child.process.wait()


def _signal(child: Child, number: int) -> None:
    if child.process is not None and child.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            # Its session: also what it has started itself.
            os.killpg(child.process.pid, number)


def _why(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _die_with_parent() -> None:
    """Linux: end the child when we are killed and cannot."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
