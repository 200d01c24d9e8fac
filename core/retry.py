"""What an answer means for a delivery, and when it is tried again: pure values, no clock, no I/O.

``judge`` reads an answer, ``RetryPolicy.after`` says what is done next. Sleeping and rescheduling
live elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from .errors import ConfigurationError

SCHEDULE = (0.0, 5.0, 30.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 36_000.0)
"""Seconds before each attempt: a restart of n8n takes seconds, a broken one is mended in a day."""

LONGEST_DELAY = 604_800.0
LONGEST_RETRY_AFTER = 3_600.0
"""A target may ask for patience, but not hold a delivery for days."""

MAX_SNOOZES = 100
STARTING = b"n8n is starting up"


class Verdict(StrEnum):
    """What an answer, or its absence, says about a delivery."""

    DELIVERED = "delivered"
    RETRY = "retry"
    """It did not do what it should; another attempt may."""
    SNOOZE = "snooze"
    """The target asks for patience; no attempt is spent."""
    UNKNOWN = "unknown"
    """It went out, and nothing says whether it was taken: ask before sending again."""
    PERMANENT = "permanent"
    """Another attempt would get the same answer."""
    GONE = "gone"
    """The target says that it will never be back."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, its reason in words, and the seconds that the target asked to wait."""

    verdict: Verdict
    reason: str = ""
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class SuccessRule:
    """What an endpoint promises to answer: JSON with these ``fields`` on top, or anything 2xx."""

    json: bool = True
    fields: tuple[str, ...] = ()

    @classmethod
    def parse(cls, stored: Mapping[str, Any]) -> SuccessRule:
        """Build the rule from its stored form ``{"json": true, "fields": ["execution_id"]}``.

        Raises:
            ConfigurationError: an unknown key, or a value of the wrong type.
        """
        given = dict(stored)
        wants_json = given.pop("json", True)
        fields = given.pop("fields", [])
        if given or not isinstance(wants_json, bool) or not _is_texts(fields):
            raise ConfigurationError(
                f"A success rule is {{'json': true|false, 'fields': [names]}}, not {stored!r}."
            )
        if fields and not wants_json:
            raise ConfigurationError("A success rule with fields needs json.")
        return cls(wants_json, tuple(fields))


class Step(StrEnum):
    """What is done with a delivery next."""

    COMPLETE = "complete"
    RETRY = "retry"
    SNOOZE = "snooze"
    ASK = "ask"
    BURY = "bury"


@dataclass(frozen=True, slots=True)
class Next:
    """The next step, after ``delay`` seconds."""

    step: Step
    reason: str = ""
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a delivery is attempted: ``schedule`` has the seconds before each attempt.

    ``jitter`` is the share by which a delay may be longer or shorter. Delays up to ``quick``
    seconds are waited for within a flow run; longer ones in the ledger. ``ask`` says that an
    unknown outcome is asked about; else it is sent again, for targets that drop known ids.
    """

    schedule: tuple[float, ...] = SCHEDULE
    jitter: float = 0.2
    quick: float = 10.0
    ask: bool = True

    @classmethod
    def parse(cls, stored: Mapping[str, Any], *, on_unknown: str = "ask") -> RetryPolicy:
        """Build the policy from its stored form ``{"schedule": [0, 5, 30], "jitter": 0.2}``.

        Raises:
            ConfigurationError: an unknown key, or a value out of range.
        """
        given = dict(stored)
        schedule = given.pop("schedule", list(SCHEDULE))
        jitter = given.pop("jitter", 0.2)
        if given or not _is_schedule(schedule) or not _is_number(jitter, 0.0, 0.9):
            raise ConfigurationError(
                "A retry policy is {'schedule': [1 to 50 delays in seconds, at most 7 days],"
                f" 'jitter': 0 to 0.9}}, not {stored!r}."
            )
        return cls(tuple(map(float, schedule)), float(jitter), ask=on_unknown == "ask")

    def quick_delays(self, spent: int) -> list[float]:
        """Return the delays that a run waits for itself, once ``spent`` attempts are made."""
        delays: list[float] = []
        for delay in self.schedule[spent + 1 :]:
            if delay > self.quick:
                break
            delays.append(delay)
        return delays

    def after(self, judgement: Judgement, *, spent: int, snoozes: int, chance: float) -> Next:
        """Decide what follows the ``spent``-th attempt; ``chance`` (0 to 1) picks the jitter."""
        match judgement.verdict:
            case Verdict.DELIVERED:
                return Next(Step.COMPLETE)
            case Verdict.PERMANENT | Verdict.GONE:
                return Next(Step.BURY, judgement.reason)
            case Verdict.UNKNOWN if self.ask:
                return Next(Step.ASK, judgement.reason)
            case Verdict.SNOOZE:
                return self._snooze(judgement, spent, snoozes, chance)
            case _:
                return self._retry(judgement, spent, chance)

    def _retry(self, judgement: Judgement, spent: int, chance: float) -> Next:
        if spent >= len(self.schedule):
            return Next(Step.BURY, f"{spent} attempts failed; the last: {judgement.reason}")
        delay = self._jittered(self.schedule[spent], chance)
        return Next(Step.RETRY, judgement.reason, max(delay, _patience(judgement)))

    def _snooze(self, judgement: Judgement, spent: int, snoozes: int, chance: float) -> Next:
        if snoozes >= MAX_SNOOZES:
            return Next(Step.BURY, f"asked for patience {snoozes} times: {judgement.reason}")
        base = self.schedule[min(spent, len(self.schedule) - 1)] or 5.0
        delay = max(self._jittered(min(base, 300.0), chance), _patience(judgement))
        return Next(Step.SNOOZE, judgement.reason, delay)

    def _jittered(self, delay: float, chance: float) -> float:
        return delay * (1 + self.jitter * (2 * chance - 1))


def judge(
    status: int, body: bytes, rule: SuccessRule, *, value: Any, retry_after: float | None = None
) -> Judgement:
    """Judge an answer by its status, its body, and what the rule promises.

    ``value`` is the JSON that the body is, None where it is none; ``retry_after`` the seconds that
    its header of that name asks for. 2xx alone is no delivery: a starting n8n answers any request
    with 200 and HTML, a workflow that never reached its respond node with an empty body.
    """
    if 200 <= status < 300:
        return _judge_success(status, body, rule, value)
    reason = f"the target answered {status}"
    if status == 410:
        return Judgement(Verdict.GONE, f"{reason}: gone for good")
    if status == 429:
        return Judgement(Verdict.SNOOZE, f"{reason}: too many requests", retry_after)
    if status in (502, 504):
        # A gateway's words: what is behind it may have taken the request.
        return Judgement(Verdict.UNKNOWN, f"{reason}: a gateway got no answer")
    if status == 404 or status in (408, 425) or status >= 500:
        return Judgement(Verdict.RETRY, reason, retry_after if status == 503 else None)
    if status == 409 and b"running already" in body:
        # n8n has not stored the wait yet that it is to be woken from.
        return Judgement(Verdict.RETRY, f"{reason}: the execution is not waiting yet")
    if 300 <= status < 400:
        return Judgement(Verdict.PERMANENT, f"{reason}: redirects are not followed")
    return Judgement(Verdict.PERMANENT, reason)


def _judge_success(status: int, body: bytes, rule: SuccessRule, value: Any) -> Judgement:
    if value is None and STARTING in body:
        return Judgement(Verdict.RETRY, f"answered {status}, but n8n is starting")
    if not rule.json:
        return Judgement(Verdict.DELIVERED)
    if not body:
        return Judgement(Verdict.UNKNOWN, f"answered {status} with an empty body")
    if value is None:
        return Judgement(Verdict.UNKNOWN, f"answered {status}, but not with JSON")
    fields = cast(dict[str, Any], value) if isinstance(value, dict) else {}
    if lacking := [name for name in rule.fields if fields.get(name) in (None, "")]:
        return Judgement(Verdict.UNKNOWN, f"answered {status} without {', '.join(lacking)}")
    return Judgement(Verdict.DELIVERED)


def _patience(judgement: Judgement) -> float:
    return min(judgement.retry_after or 0.0, LONGEST_RETRY_AFTER)


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_schedule(value: object) -> bool:
    if not isinstance(value, list | tuple):
        return False
    delays = cast(list[object], value)
    return 1 <= len(delays) <= 50 and all(_is_number(d, 0.0, LONGEST_DELAY) for d in delays)


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(item, str) and item for item in cast(list[object], value)
    )
