"""What answers mean, and when a delivery is tried again."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_n8n.core.errors import ConfigurationError
from prefect_n8n.core.retry import (
    MAX_SNOOZES,
    SCHEDULE,
    Judgement,
    Next,
    RetryPolicy,
    Step,
    SuccessRule,
    Verdict,
    judge,
)

WITH_ID = SuccessRule(fields=("execution_id",))
NOT_REGISTERED = b'{"code":404,"message":"The requested webhook is not registered."}'
STARTING = b"<html>n8n is starting up. Please wait"
RUNNING = b'{"code":0,"message":"The execution \\"7\\" is running already."}'


@pytest.mark.parametrize(
    ("status", "body", "rule", "verdict"),
    [
        (200, b'{"message":"Workflow was started"}', SuccessRule(), Verdict.DELIVERED),
        (202, b'{"execution_id":"59"}', WITH_ID, Verdict.DELIVERED),
        (200, b"[]", SuccessRule(), Verdict.DELIVERED),
        # It ran, but not as promised: sending again could run it twice.
        (200, b'{"message":"Workflow was started"}', WITH_ID, Verdict.UNKNOWN),
        (200, b'{"execution_id":""}', WITH_ID, Verdict.UNKNOWN),
        (200, b'["execution_id"]', WITH_ID, Verdict.UNKNOWN),
        (200, b"", SuccessRule(), Verdict.UNKNOWN),
        (200, b"<html>", SuccessRule(), Verdict.UNKNOWN),
        # A starting n8n answers anything so.
        (200, STARTING, SuccessRule(), Verdict.RETRY),
        (200, STARTING, SuccessRule(json=False), Verdict.RETRY),
        (204, b"", SuccessRule(json=False), Verdict.DELIVERED),
        (404, NOT_REGISTERED, SuccessRule(), Verdict.RETRY),
        (404, b"Cannot POST /webhook/x", SuccessRule(), Verdict.RETRY),
        (408, b"", SuccessRule(), Verdict.RETRY),
        (425, b"", SuccessRule(), Verdict.RETRY),
        (500, b'{"message":"Error in workflow"}', SuccessRule(), Verdict.RETRY),
        (503, b"", SuccessRule(), Verdict.RETRY),
        (599, b"", SuccessRule(), Verdict.RETRY),
        (502, b"", SuccessRule(), Verdict.UNKNOWN),
        (504, b"", SuccessRule(), Verdict.UNKNOWN),
        (429, b"", SuccessRule(), Verdict.SNOOZE),
        (409, RUNNING, SuccessRule(), Verdict.RETRY),
        (409, b'{"message":"has finished already"}', SuccessRule(), Verdict.PERMANENT),
        (410, b"", SuccessRule(), Verdict.GONE),
        (301, b"", SuccessRule(), Verdict.PERMANENT),
        (307, b"", SuccessRule(), Verdict.PERMANENT),
        (400, b"", SuccessRule(), Verdict.PERMANENT),
        (401, b"", SuccessRule(), Verdict.PERMANENT),
        (403, b"Authorization data is wrong!", SuccessRule(), Verdict.PERMANENT),
        (413, b"", SuccessRule(), Verdict.PERMANENT),
        (422, b"", SuccessRule(), Verdict.PERMANENT),
        (101, b"", SuccessRule(), Verdict.PERMANENT),
    ],
)
def test_answers(status: int, body: bytes, rule: SuccessRule, verdict: Verdict) -> None:
    value = json.loads(body) if body[:1] in (b"{", b"[") else None
    judgement = judge(status, body, rule, value=value)
    assert judgement.verdict is verdict
    assert verdict is Verdict.DELIVERED or str(status) in judgement.reason


@given(st.integers(100, 999), st.binary(), st.booleans(), st.none() | st.just({}))
def test_any_answer_gets_a_verdict(status: int, body: bytes, json: bool, value: object) -> None:
    judge(status, body, SuccessRule(json=json), value=value)


def test_patience_is_asked_for_by_429_and_503_alone() -> None:
    for status, seconds in ((429, 7.0), (503, 7.0), (500, None), (404, None)):
        judgement = judge(status, b"", SuccessRule(), value=None, retry_after=7.0)
        assert judgement.retry_after == seconds


def after(judgement: Judgement, spent: int = 1, policy: RetryPolicy | None = None) -> Next:
    """What the policy does, with neither luck nor bad luck."""
    return (policy or RetryPolicy()).after(judgement, spent=spent, snoozes=0, chance=0.5)


def test_the_schedule_is_followed_to_its_end() -> None:
    retry = Judgement(Verdict.RETRY, "500")
    steps = [after(retry, spent) for spent in range(1, len(SCHEDULE))]
    assert [(step.step, step.delay) for step in steps] == [
        (Step.RETRY, delay) for delay in SCHEDULE[1:]
    ]
    last = after(retry, len(SCHEDULE))
    assert last.step is Step.BURY
    assert last.reason == "9 attempts failed; the last: 500"


@given(st.floats(0, 1), st.integers(1, 8))
def test_jitter_stays_within_its_share(chance: float, spent: int) -> None:
    found = RetryPolicy().after(Judgement(Verdict.RETRY), spent=spent, snoozes=0, chance=chance)
    assert 0.8 * SCHEDULE[spent] <= found.delay <= 1.2 * SCHEDULE[spent] + 1e-6


def test_a_target_may_ask_for_more_patience_but_not_for_less_or_for_days() -> None:
    assert after(Judgement(Verdict.RETRY, "", 60.0)).delay == 60.0
    assert after(Judgement(Verdict.RETRY, "", 1.0)).delay == 5.0
    assert after(Judgement(Verdict.RETRY, "", 1e9)).delay == 3600.0
    assert after(Judgement(Verdict.SNOOZE, "", 60.0)) == Next(Step.SNOOZE, "", 60.0)
    assert after(Judgement(Verdict.SNOOZE, "")).delay == 5.0
    assert after(Judgement(Verdict.SNOOZE, ""), spent=8).delay == 300.0


def test_patience_ends() -> None:
    snooze = Judgement(Verdict.SNOOZE, "429")
    found = RetryPolicy().after(snooze, spent=1, snoozes=MAX_SNOOZES, chance=0.5)
    assert found.step is Step.BURY


def test_an_unknown_outcome_is_asked_about_or_sent_again_where_the_target_drops_known_ids() -> None:
    unknown = Judgement(Verdict.UNKNOWN, "reset")
    assert after(unknown).step is Step.ASK
    resend = RetryPolicy.parse({}, on_unknown="resend")
    assert after(unknown, policy=resend).step is Step.RETRY
    assert after(unknown, len(SCHEDULE), resend).step is Step.BURY


def test_final_verdicts() -> None:
    assert after(Judgement(Verdict.DELIVERED)).step is Step.COMPLETE
    assert after(Judgement(Verdict.PERMANENT, "400")) == Next(Step.BURY, "400")
    assert after(Judgement(Verdict.GONE, "410")) == Next(Step.BURY, "410")


def test_quick_delays_are_those_a_run_waits_for() -> None:
    policy = RetryPolicy()
    assert policy.quick_delays(0) == [5.0]
    assert policy.quick_delays(1) == []
    assert policy.quick_delays(9) == []
    assert RetryPolicy((0, 1, 2, 60, 1)).quick_delays(0) == [1, 2]


def test_a_policy_is_parsed() -> None:
    parsed = RetryPolicy.parse({"schedule": [0, 1], "jitter": 0})
    assert parsed == RetryPolicy((0.0, 1.0), 0.0)
    assert RetryPolicy.parse({}) == RetryPolicy()


@pytest.mark.parametrize(
    "stored",
    [
        {"schedule": []},
        {"schedule": [0] * 51},
        {"schedule": [-1]},
        {"schedule": [1e9]},
        {"schedule": ["5"]},
        {"schedule": [True]},
        {"schedule": "0,5"},
        {"jitter": 1},
        {"jitter": None},
        {"retries": 3},
    ],
)
def test_a_wrong_policy_is_refused(stored: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="retry policy"):
        RetryPolicy.parse(stored)


def test_a_success_rule_is_parsed() -> None:
    assert SuccessRule.parse({}) == SuccessRule()
    assert SuccessRule.parse({"json": False}) == SuccessRule(json=False)
    assert SuccessRule.parse({"fields": ["execution_id"]}) == WITH_ID


@pytest.mark.parametrize(
    "stored",
    [{"json": 1}, {"fields": "id"}, {"fields": [""]}, {"json": False, "fields": ["a"]}, {"x": 1}],
)
def test_a_wrong_success_rule_is_refused(stored: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="success rule"):
        SuccessRule.parse(stored)
