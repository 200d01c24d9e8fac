"""The fallback ladder as a value: what it may say, and how it names what it may not."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_n8n.core.errors import ConfigurationError
from prefect_n8n.core.ladder import DEFAULT_TIMEOUT, MAX_STEPS, Step, StepKind, parse_ladder

WHOLE: list[dict[str, Any]] = [
    {"endpoint": "billing-backup", "timeout": 3600},
    {"workflow": "Billing by hand"},
    {"deployment": "save/queue", "parameters": {"order": "{{ body.id }}"}},
    {"notification": "slack-webhook/on call"},
]


def test_every_kind_of_step_is_understood() -> None:
    steps = parse_ladder(WHOLE)
    assert [step.kind for step in steps] == list(StepKind)
    assert [step.title for step in steps] == [
        "endpoint billing-backup",
        "workflow Billing by hand",
        "deployment save/queue",
        "notification slack-webhook/on call",
    ]
    assert steps[0].timeout == 3600
    assert [step.timeout for step in steps[1:]] == [
        DEFAULT_TIMEOUT[step.kind] for step in steps[1:]
    ]
    assert steps[2].parameters == {"order": "{{ body.id }}"}


def test_no_steps_are_a_ladder_too() -> None:
    assert parse_ladder([]) == ()
    assert parse_ladder(({"endpoint": "a"},)) == (Step(StepKind.ENDPOINT, "a", 172_800.0),)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("endpoint", "not an object"),
        ({}, "exactly one of"),
        ({"timeout": 5}, "exactly one of"),
        ({"endpoint": "a", "workflow": "b"}, "exactly one of"),
        ({"endpoint": "a", "parameters": {}}, "unknown field 'parameters'"),
        ({"endpoint": "a", "retry": 1}, "unknown field 'retry'"),
        ({"endpoint": "A b"}, "'endpoint' has to be an endpoint's slug"),
        ({"endpoint": None}, "'endpoint' has to be"),
        ({"workflow": ""}, "'workflow' has to be"),
        ({"workflow": "a\x00"}, "'workflow' has to be"),
        ({"deployment": "only-a-flow"}, "'deployment' has to be flow/deployment"),
        ({"deployment": "a/b", "parameters": []}, "'parameters' has to be an object"),
        ({"deployment": "a/b", "parameters": {1: 2}}, "'parameters' has to be an object"),
        ({"notification": "oncall"}, "'notification' has to be <block type slug>/<block name>"),
        ({"endpoint": "a", "timeout": 0.5}, "'timeout' has to be between"),
        ({"endpoint": "a", "timeout": math.nan}, "'timeout' has to be between"),
        ({"endpoint": "a", "timeout": math.inf}, "'timeout' has to be between"),
        ({"endpoint": "a", "timeout": True}, "'timeout' has to be between"),
        ({"endpoint": "a", "timeout": "5"}, "'timeout' has to be between"),
    ],
)
def test_a_wrong_step_is_named(step: object, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_ladder([{"endpoint": "fine"}, step])
    assert str(caught.value).startswith("Step 2 of the fallback: ")
    assert says in str(caught.value)


@pytest.mark.parametrize("value", [None, "endpoint", b"x", {"endpoint": "a"}, 5])
def test_what_is_no_list_is_no_ladder(value: object) -> None:
    with pytest.raises(ConfigurationError, match="list of steps"):
        parse_ladder(value)


def test_a_ladder_ends_somewhere() -> None:
    assert len(parse_ladder([{"endpoint": "a"}] * MAX_STEPS)) == MAX_STEPS
    with pytest.raises(ConfigurationError, match="at most 10 steps, not 11"):
        parse_ladder([{"endpoint": "a"}] * (MAX_STEPS + 1))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*StepKind, "timeout", "parameters", "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(json_values)
def test_whatever_it_is_it_is_a_ladder_or_refused_with_our_error(value: object) -> None:
    try:
        steps = parse_ladder(value)
    except ConfigurationError:
        return
    assert all(isinstance(step, Step) and step.target for step in steps)
