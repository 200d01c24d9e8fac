"""What docs/fallbacks.md shows is true."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from prefect_n8n.cli.app import app
from prefect_n8n.core.ladder import DEFAULT_TIMEOUT, StepKind, parse_ladder
from prefect_n8n.flows.webhook import WebhookFlow

TEXT = (Path(__file__).parents[3] / "docs" / "fallbacks.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_example_is_a_flow_with_a_ladder_of_every_kind() -> None:
    (source,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(source, "fallbacks.md", "exec"), names)
    (made,) = [value for value in names.values() if isinstance(value, WebhookFlow)]
    assert [step.kind for step in parse_ladder(made.fallback)] == list(StepKind)


def test_the_timeouts_are_those() -> None:
    said = dict(re.findall(r"^\| `(\w+)` \|.*\| ([0-9]+ \w+) \|$", TEXT, flags=re.MULTILINE))
    seconds = {"s": 1, "hour": 3600, "day": 86_400, "days": 86_400}
    assert {
        kind: float(text.split()[0]) * seconds[text.split()[1]] for kind, text in said.items()
    } == {kind.value: timeout for kind, timeout in DEFAULT_TIMEOUT.items()}


def test_the_commands_are_understood() -> None:
    (lines,) = blocks("sh")
    for line in lines.splitlines():
        command, bound, _ = app.parse_args(shlex.split(line)[1:], print_error=False)
        assert command.__name__ == "redrive"
        assert bound.arguments
