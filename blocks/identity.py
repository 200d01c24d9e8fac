"""Which delivery a call to n8n is: the same one when a Prefect run is tried again."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from prefect.context import FlowRunContext, TaskRunContext

CLOCK_SLACK = timedelta(seconds=60)
"""How far n8n's clock may be behind ours."""
MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery to n8n.

    ``base`` is its id. After an execution of it has failed, a new one is started under the next
    name: :meth:`id`. ``again`` says that an earlier attempt may have made the call, not before
    ``since``.
    """

    base: str
    again: bool
    since: datetime
    flow_run: str | None = None

    def id(self, failed: int = 0) -> str:
        """Return the delivery id, after ``failed`` executions that ended without success."""
        return self.base if failed == 0 else f"{self.base}.{failed + 1}"


def identify(webhook: str, content: bytes, event_id: str | None = None) -> Delivery:
    """Return the delivery that this call is, counting this call.

    In a Prefect run the id follows from the run, the task, the webhook, the ``content`` and how
    often they came together before, so that a task that is retried, or a flow run that is run
    again, finds what it has started. Outside of one it is random. ``event_id`` is taken as it is.
    """
    flow_context, task_context = FlowRunContext.get(), TaskRunContext.get()
    flow_run = flow_context.flow_run if flow_context else None
    task_run = task_context.task_run if task_context else None
    if flow_run is None and task_run is None:
        return Delivery(event_id or _name(uuid4().hex), False, datetime.now(UTC) - CLOCK_SLACK)
    parts = [webhook, hashlib.sha256(content).hexdigest()]
    if flow_context is None or flow_run is None or flow_context.detached:
        # Other processes of this flow run count for themselves: the task run alone is certain.
        parts += [str(task_run.id) if task_run else ""]
    if flow_run is not None:
        parts += [str(flow_run.id)]
    if task_context is not None:
        parts += [task_context.task.task_key]
    attempt = [str(flow_run.run_count) if flow_run else ""]
    caller = ["", ""] if task_run is None else [str(task_run.id), str(task_run.run_count)]
    place, turn = _occurrences.of((*parts, *attempt), caller[0], caller[1])
    again = any(run is not None and run.run_count > 1 for run in (flow_run, task_run))
    started = (flow_run.start_time or flow_run.expected_start_time) if flow_run else None
    return Delivery(
        event_id or _name(_digest([*parts, str(place), str(turn)])),
        again,
        # A task run without a flow keeps no first start.
        (started or datetime.now(UTC) - timedelta(days=1)) - CLOCK_SLACK,
        str(flow_run.id) if flow_run else None,
    )


class _Occurrences:
    """Counts the same call within one attempt of a run.

    Callers (task runs) are numbered in the order of their first such call, and their calls within
    each attempt of theirs, so that a retried task counts from its own beginning.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, ...], tuple[list[str], Counter[tuple[str, str]]]] = (
            OrderedDict()
        )

    def of(self, call: tuple[str, ...], caller: str, attempt: str) -> tuple[int, int]:
        with self._lock:
            callers, turns = self._known.setdefault(call, ([], Counter()))
            self._known.move_to_end(call)
            if len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
            if caller not in callers:
                callers.append(caller)
            turn = turns[caller, attempt]
            turns[caller, attempt] += 1
            return callers.index(caller), turn


_occurrences = _Occurrences()


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _name(text: str) -> str:
    return f"dlv_{text[:40]}"
