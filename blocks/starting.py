"""Start an n8n workflow through its webhook, once, and learn the id of its execution.

A webhook's status alone says little: an n8n that starts answers every call ``200`` in HTML, and 404
while it loads; a workflow answers 500 after it has run, or 200 with nothing in it. So a call counts
as started only with an execution, and is made again only when it is certain that there is none.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from random import SystemRandom
from typing import Any, cast

from ..core.errors import CallFailed, CallNotSent, N8nTriggerFailed, OutcomeUnknown
from ..core.signing import Headers, Scheme, sign
from .answers import Execution, ExecutionStatus, WebhookAnswer
from .arrivals import Arrival, find_arrival
from .client import N8nClient
from .identity import Delivery

DELIVERY_HEADER = b"x-prefect-n8n-delivery"
FLOW_RUN_HEADER = b"x-prefect-flow-run"
EXECUTION_HEADER = "x-n8n-execution-id"
FIRST_PAUSE = 0.25
MOST_PAUSE = 5.0
MAX_GENERATIONS = 100
SHOWN = 300

_random = SystemRandom()
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# n8n's own words; a user's workflow may answer 404 as well, after it has run.
_STARTING = b"n8n is starting up"
_NOT_LIVE = (b"is not registered", b"Cannot find workflow", b"Cannot POST", b"is running already")


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be started, and how patiently: seconds for one call, and for all of them."""

    webhook: str
    content: bytes
    scheme: Scheme
    secret: bytes
    delivery: Delivery
    workflow_id: str | None
    call_seconds: float
    start_seconds: float
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The execution that runs, or ran, for a delivery; ``reattached`` where it was there before."""

    execution_id: str
    delivery_id: str
    reattached: bool


class Meaning(Enum):
    """What a webhook's answer says about the workflow."""

    STARTED = "it has started"
    NOT_YET = "n8n is not ready for it: call again"
    UNSURE = "it may have started: ask before calling again"
    REFUSED = "it has not started, and will not"


def meaning_of(answer: WebhookAnswer) -> Meaning:
    """Return what the answer says; ``STARTED`` may still lack the execution's id."""
    if execution_id_in(answer) is not None:
        return Meaning.STARTED if answer.status < 300 else Meaning.UNSURE
    if 200 <= answer.status < 300:
        if _STARTING in answer.body:
            return Meaning.NOT_YET
        html = answer.headers.get("content-type", "").lower().startswith("text/html")
        return Meaning.UNSURE if html else Meaning.STARTED
    if answer.status in (404, 409) and any(words in answer.body for words in _NOT_LIVE):
        return Meaning.NOT_YET
    if answer.status in (404, 408, 409, 425, 429) or answer.status >= 500:
        return Meaning.UNSURE
    return Meaning.REFUSED


def execution_id_in(answer: WebhookAnswer) -> str | None:
    """Return the execution's id where the answer's header or JSON has one."""
    found: object = answer.headers.get(EXECUTION_HEADER)
    if found is None:
        body: Any = answer.json()
        fields = cast(dict[str, object], body) if isinstance(body, dict) else {}
        found = fields.get("execution_id", fields.get("executionId"))
    if isinstance(found, int) and not isinstance(found, bool):
        found = str(found)
    return found if isinstance(found, str) and _ID.fullmatch(found) else None


def pauses(first: float, most: float) -> Iterator[float]:
    """Yield ever longer pauses in seconds, doubling up to ``most``, each ±20 %."""
    pause = first
    while True:
        yield pause * _random.uniform(0.8, 1.2)
        pause = min(pause * 2, most)


@dataclass(slots=True)
class Starter:
    """Starts one order; see :meth:`start`."""

    client: N8nClient
    order: Order
    failed: int = 0
    sent: bool = False
    _deadline: float = field(init=False)
    _pauses: Iterator[float] = field(init=False)

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.order.start_seconds
        self._pauses = pauses(FIRST_PAUSE, MOST_PAUSE)

    @property
    def delivery_id(self) -> str:
        """The id of the delivery that is being made."""
        return self.order.delivery.id(self.failed)

    async def start(self) -> Started:
        """Start the workflow, or find the execution that an earlier attempt started.

        An execution that ended without success is left alone: a new one is started.

        Raises:
            CallRefused, CallNotSent: it was never called.
            OutcomeUnknown: it was called, and n8n does not say whether it runs.
            N8nTriggerFailed: n8n, or the workflow, refused; or its execution is not to be found.
        """
        if self.order.delivery.again:
            found = await self._look_back()
            if found is not None:
                return Started(found.id, self.delivery_id, True)
        while True:
            try:
                answer = await self._call()
            except CallNotSent as error:
                await self._pause_or(error)
                continue
            except OutcomeUnknown as error:
                found_id = await self._ask(error, why=error.message)
            else:
                found_id = await self._judge(answer)
            if found_id is not None:
                return Started(found_id, self.delivery_id, False)

    async def stop(self) -> None:
        """Stop what was started, where the caller is gone before it is known: at best."""
        arrival = await self._arrival() if self.sent else None
        if arrival is not None and arrival.execution is not None and not arrival.execution.ended:
            await self.client.stop_execution(arrival.execution.id)

    async def _call(self) -> WebhookAnswer:
        order = self.order
        headers = _headers(order, self.delivery_id)
        self.sent = True
        return await self.client.post_webhook(
            order.webhook, order.content, headers, timeout=order.call_seconds
        )

    async def _judge(self, answer: WebhookAnswer) -> str | None:
        """The execution's id, or None to call again."""
        meaning = meaning_of(answer)
        if meaning is Meaning.STARTED:
            return execution_id_in(answer) or await self._name_of(answer)
        why = f"{answer.status} {_shown(answer)}"
        failure = self._failure(f"n8n did not start the workflow: it answered {why}.", answer)
        if meaning is Meaning.REFUSED:
            raise failure
        if meaning is Meaning.NOT_YET:
            await self._pause_or(failure, at_least=answer.retry_after())
            return None
        unknown = OutcomeUnknown(
            f"The webhook answered {why}; n8n does not say whether the workflow runs.",
            target=failure.target,
            status=answer.status,
        )
        found = await self._ask(unknown, why=why, at_least=answer.retry_after())
        if found is None and answer.status == 500:
            # n8n itself says so of a body it cannot take, each time.
            raise failure
        return found

    async def _ask(
        self, unknown: OutcomeUnknown, *, why: str, at_least: float | None = None
    ) -> str | None:
        """Whether the call arrived: its execution's id, or None when it is certain that not."""
        while True:
            arrival = await self._arrival()
            if arrival.verdict == "arrived":
                if arrival.execution is not None:
                    return arrival.execution.id
                raise self._failure(f"The call arrived ({why}), and started nothing of its own.")
            if arrival.verdict == "not_arrived":
                await self._pause_or(unknown, at_least=at_least)
                return None
            await self._pause_or(unknown, because=arrival.reason)

    async def _name_of(self, answer: WebhookAnswer) -> str:
        """The id of an execution that has started, by its delivery id."""
        while True:
            arrival = await self._arrival()
            if arrival.execution is not None:
                return arrival.execution.id
            await self._pause_or(
                self._failure(
                    f"The webhook answered {answer.status} without an execution id, and its"
                    " execution is not to be found. Let it answer"
                    ' {"execution_id": $execution.id}.',
                    answer,
                ),
                because=arrival.reason,
            )

    async def _look_back(self) -> Execution | None:
        """The execution that an earlier attempt started, alive or well; None to start one."""
        while self.failed < MAX_GENERATIONS:
            unknown = OutcomeUnknown(
                "An earlier attempt may have started the workflow, and n8n does not say.",
                target=self._target(),
            )
            arrival = await self._arrival()
            if arrival.verdict == "not_known":
                await self._pause_or(unknown, because=arrival.reason)
                continue
            if arrival.verdict == "not_arrived":
                return None
            execution = arrival.execution
            if execution is None:
                raise self._failure("The call has arrived, and started nothing of its own.")
            if not execution.ended or execution.status is ExecutionStatus.SUCCESS:
                return execution
            self.failed += 1
        raise self._failure(f"{MAX_GENERATIONS} executions of this delivery have failed.")

    async def _arrival(self) -> Arrival:
        return await find_arrival(
            self.client,
            target=self.client.webhook_address(self.order.webhook),
            delivery_id=self.delivery_id,
            since=self.order.delivery.since,
            workflow_id=self.order.workflow_id,
        )

    async def _pause_or(
        self, error: CallFailed, *, because: str = "", at_least: float | None = None
    ) -> None:
        """Wait before the next try; raise the error when there is no time for one."""
        pause = max(next(self._pauses), min(at_least or 0.0, 30.0))
        if time.monotonic() + pause > self._deadline:
            if because:
                error.message = f"{error.message} ({because})"
            raise error
        await asyncio.sleep(pause)

    def _failure(self, message: str, answer: WebhookAnswer | None = None) -> N8nTriggerFailed:
        status = None if answer is None else answer.status
        return N8nTriggerFailed(message, target=self._target(), status=status)

    def _target(self) -> str:
        """Scheme, host and port: paths of webhooks are secrets."""
        address = self.client.webhook_address(self.order.webhook)
        return "/".join(address.split("/", 3)[:3])


def _headers(order: Order, delivery_id: str) -> Headers:
    pairs = sign(
        order.scheme,
        order.secret,
        order.content,
        event_id=delivery_id,
        timestamp=int(time.time()),
    )
    pairs += [(DELIVERY_HEADER, delivery_id.encode()), (b"content-type", b"application/json")]
    if order.delivery.flow_run:
        pairs.append((FLOW_RUN_HEADER, order.delivery.flow_run.encode()))
    if order.trace:
        pairs.append((b"traceparent", order.trace.encode()))
    return pairs


def _shown(answer: WebhookAnswer) -> str:
    """The start of an answer's text, on one line."""
    text = answer.body[: 4 * SHOWN].decode("utf-8", "replace")
    return " ".join(text.split())[:SHOWN]
