"""The fallback ladder: what is done, step by step, in place of something that failed for good.

A pure value. It is parsed when an endpoint or a trigger is saved, and again when it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from .errors import ConfigurationError
from .slugs import SLUG

MAX_STEPS = 10
MAX_TIMEOUT = 2_592_000.0
"""Seconds: thirty days."""


class StepKind(StrEnum):
    """What a step does with the event."""

    ENDPOINT = "endpoint"
    """Deliver it to another outbound endpoint."""
    WORKFLOW = "workflow"
    """Run an n8n workflow with it, by the name of an ``N8nWorkflow`` block."""
    DEPLOYMENT = "deployment"
    """Start a Prefect deployment for it."""
    NOTIFICATION = "notification"
    """Tell someone about it, and go on: a notification saves no event."""


# Seconds. A delivery is tried for a day and more by its own schedule; a flow run may wait for a
# worker.
DEFAULT_TIMEOUT = {
    StepKind.ENDPOINT: 172_800.0,
    StepKind.WORKFLOW: 3_600.0,
    StepKind.DEPLOYMENT: 86_400.0,
    StepKind.NOTIFICATION: 30.0,
}

_SHAPES = {
    StepKind.ENDPOINT: (SLUG, "an endpoint's slug"),
    StepKind.WORKFLOW: (re.compile(r"[^/\s][^/]{0,199}"), "the name of an N8nWorkflow block"),
    StepKind.DEPLOYMENT: (re.compile(r"[^/]+/[^/]+"), "flow/deployment"),
    StepKind.NOTIFICATION: (re.compile(r"[a-z0-9-]+/[^/]+"), "<block type slug>/<block name>"),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its kind, what it goes to, and how many seconds it may take.

    ``parameters`` is the template of a deployment's parameters; None gives it the event's row id.
    """

    kind: StepKind
    target: str
    timeout: float
    parameters: dict[str, Any] | None = None

    @property
    def title(self) -> str:
        """What people call the step: its kind and target."""
        return f"{self.kind} {self.target}"


def parse_ladder(value: object) -> tuple[Step, ...]:
    """Return the steps of a ladder as it stands in a file, a request or a row.

    Each is an object with exactly one of ``endpoint``, ``workflow``, ``deployment`` (which may have
    ``parameters`` beside it) or ``notification``, and at will ``timeout`` in seconds.

    Raises:
        ConfigurationError: it is none; the message names the step, counted from 1.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ConfigurationError("A fallback is a list of steps.")
    steps = cast(Sequence[object], value)
    if len(steps) > MAX_STEPS:
        raise ConfigurationError(f"A fallback has at most {MAX_STEPS} steps, not {len(steps)}.")
    return tuple(_step(number, step) for number, step in enumerate(steps, start=1))


def _step(number: int, value: object) -> Step:
    if not isinstance(value, Mapping):
        raise _wrong(number, "it is not an object")
    fields = dict(cast(Mapping[object, Any], value))
    kinds = [kind for kind in StepKind if kind.value in fields]
    if len(kinds) != 1:
        raise _wrong(number, f"it needs exactly one of {', '.join(StepKind)}")
    kind = kinds[0]
    target = fields.pop(kind.value)
    timeout = _timeout(number, fields.pop("timeout", DEFAULT_TIMEOUT[kind]))
    parameters = fields.pop("parameters", None) if kind is StepKind.DEPLOYMENT else None
    if fields:
        raise _wrong(number, f"unknown field {min(map(str, fields))!r}")
    shape, meant = _SHAPES[kind]
    if not isinstance(target, str) or "\x00" in target or not shape.fullmatch(target):
        raise _wrong(number, f"{kind.value!r} has to be {meant}")
    if parameters is not None and not _is_template(parameters):
        raise _wrong(number, "'parameters' has to be an object")
    return Step(kind, target, timeout, parameters)


def _timeout(number: int, value: object) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 1 <= value <= MAX_TIMEOUT
    ):
        raise _wrong(number, f"'timeout' has to be between 1 and {MAX_TIMEOUT:.0f} seconds")
    return float(value)


def _is_template(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(k, str) for k in cast(dict[object, Any], value)
    )


def _wrong(number: int, why: str) -> ConfigurationError:
    return ConfigurationError(f"Step {number} of the fallback: {why}.")
