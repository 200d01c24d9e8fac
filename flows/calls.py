"""One signed call of a delivery, and what its answer means."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from ..blocks.client import N8nClient
from ..core.errors import CallNotSent, CallRefused, OutcomeUnknown
from ..core.redaction import redact
from ..core.retry import Judgement, Next, RetryPolicy, Step, SuccessRule, Verdict, judge
from ..core.signing import scheme_of, sign
from ..ledger.attempts import MAX_STORED, Delivery, Outcome
from ..ledger.states import AttemptOutcome

_ALIVE = frozenset({400, 409, 413, 415, 422})
"""Answers of a target that is well: the fault is in the delivery."""

_OUTCOMES = {
    Verdict.DELIVERED: AttemptOutcome.DELIVERED,
    Verdict.SNOOZE: AttemptOutcome.SNOOZED,
    Verdict.UNKNOWN: AttemptOutcome.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class Called:
    """What a call came to: the attempt's outcome and the verdict on it."""

    outcome: Outcome
    judgement: Judgement

    @property
    def is_healthy(self) -> bool | None:
        """Whether the target is well; None where the call does not tell."""
        status = self.outcome.status
        match self.judgement.verdict:
            case Verdict.DELIVERED:
                return True
            case Verdict.SNOOZE:
                return None
            case Verdict.PERMANENT if status in _ALIVE or status is None:
                return None
            case _:
                return False


async def call(
    client: N8nClient, delivery: Delivery, key: bytes, *, number: int, flow_run: UUID | None
) -> Called:
    """Make one attempt on the wire. Raises nothing that the target or the network can cause."""
    began = time.monotonic()
    headers = signed_headers(delivery, key, number=number, flow_run=flow_run)
    try:
        answer = await client.post_webhook(
            delivery.url or "", delivery.body, headers, timeout=delivery.timeout_seconds
        )
    except CallRefused as error:
        return _without_answer(AttemptOutcome.REFUSED, Verdict.PERMANENT, error, began)
    except CallNotSent as error:
        return _without_answer(AttemptOutcome.NOT_SENT, Verdict.RETRY, error, began)
    except OutcomeUnknown as error:
        return _without_answer(AttemptOutcome.UNKNOWN, Verdict.UNKNOWN, error, began)
    value = answer.json()
    judgement = judge(
        answer.status,
        answer.body,
        SuccessRule.parse(delivery.success_rule),
        value=value,
        retry_after=answer.retry_after(),
    )
    return Called(
        Outcome(
            outcome=_OUTCOMES.get(judgement.verdict, AttemptOutcome.FAILED),
            status=answer.status,
            headers=redact(answer.headers),
            body=answer.body[:MAX_STORED],
            error=judgement.reason or None,
            seconds=answer.seconds,
            execution=execution_id_of(answer.headers, value),
        ),
        judgement,
    )


def signed_headers(
    delivery: Delivery, key: bytes, *, number: int, flow_run: UUID | None
) -> list[tuple[bytes, bytes]]:
    """Return the headers of an attempt, signed now.

    ``x-prefect-n8n-delivery`` names the delivery whatever the scheme: n8n keeps it with the
    execution, where it is looked up after an unknown outcome.
    """
    scheme = scheme_of(delivery.scheme, delivery.scheme_options)
    signed = sign(
        scheme, key, delivery.body, event_id=delivery.event_id, timestamp=int(time.time())
    )
    headers = [
        (b"content-type", b"application/json"),
        *signed,
        (b"x-prefect-n8n-delivery", delivery.event_id.encode("ascii")),
        (b"x-prefect-n8n-attempt", str(number).encode()),
    ]
    if delivery.trace is not None:
        headers.append((b"traceparent", delivery.trace.encode("ascii")))
    if flow_run is not None:
        headers.append((b"x-prefect-flow-run", str(flow_run).encode()))
    return headers


def execution_id_of(headers: dict[str, str], body: Any) -> str | None:
    """Return n8n's execution id where the answer has it: a respond node's header, or a field."""
    fields = cast(dict[str, Any], body) if isinstance(body, dict) else {}
    found = headers.get("x-n8n-execution-id") or fields.get("execution_id")
    text = str(found) if isinstance(found, str | int) else ""
    return text if text.isascii() and text.isdigit() and len(text) <= 20 else None


def next_of(delivery: Delivery, judgement: Judgement, *, spent: int) -> Next:
    """Decide what follows, by the endpoint's policy."""
    policy = RetryPolicy.parse(delivery.retry_policy, on_unknown=delivery.on_unknown)
    chance = random.random()  # noqa: S311 - jitter
    return policy.after(judgement, spent=spent, snoozes=delivery.snoozes, chance=chance)


def is_quick(delivery: Delivery, step: Next, *, spent: int) -> bool:
    """Whether a run waits for the retry itself."""
    policy = RetryPolicy.parse(delivery.retry_policy)
    delays = policy.schedule[spent : spent + 1]
    return (
        step.step is Step.RETRY
        and step.delay <= 2 * policy.quick
        and all(delay <= policy.quick for delay in delays)
    )


def _without_answer(
    outcome: AttemptOutcome, verdict: Verdict, error: Exception, began: float
) -> Called:
    reason = str(error)
    seconds = time.monotonic() - began
    return Called(
        Outcome(outcome=outcome, error=reason, seconds=seconds), Judgement(verdict, reason)
    )
