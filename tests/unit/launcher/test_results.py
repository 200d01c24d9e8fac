"""What becomes of a flow's return value."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
from typing import Any

import pydantic
import pytest
from prefect.states import Completed, Failed

from prefect_n8n.launcher.results import MAX_BYTES, Kept, keep, kept_elsewhere, kept_of


class Order(pydantic.BaseModel):
    total: float
    secret: pydantic.SecretStr = pydantic.SecretStr("hunter2")


@dataclasses.dataclass
class Line:
    n: int
    at: datetime.date


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        (True, True),
        ("Zoë ☕", "Zoë ☕"),
        ({"a": [1, 2.5, None]}, {"a": [1, 2.5, None]}),
        ((1, 2), [1, 2]),
        (Order(total=1.5), {"total": 1.5, "secret": "**********"}),
        ([Line(1, datetime.date(2026, 1, 2))], [{"n": 1, "at": "2026-01-02"}]),
        ("x" * (MAX_BYTES - 2), "x" * (MAX_BYTES - 2)),
        ("\\u0000", "\\u0000"),
    ],
)
def test_json_is_kept(value: object, kept: object) -> None:
    result = keep(value)
    assert result.reason is None
    assert result.json is not None
    assert json.loads(result.json) == kept


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (object(), "no JSON: object"),
        (b"\xff", "no JSON: bytes"),
        (float("nan"), "no JSON: float"),
        ({"a": float("inf")}, "no JSON: dict"),
        (itertools.count(), "an iterator"),
        ("x" * (MAX_BYTES - 1), "larger than 262144 bytes"),
        ("é" * (MAX_BYTES // 2), "larger than 262144 bytes"),
        ("a\x00b", "NUL"),
        ({"\x00": 1}, "NUL"),
        ("\ud800", "no JSON: str"),
        (10**20, "more than 19 digits"),
        (deep(100), "nested deeper"),
        (deep(100_000), "no JSON: list"),
    ],
)
def test_all_else_is_null_with_its_reason(value: object, why: str) -> None:
    result = keep(value)
    assert result.json is None
    assert result.reason is not None
    assert result.reason.startswith("The result is not kept: it ")
    assert why in result.reason


def test_a_value_that_cannot_be_kept_is_not_repeated() -> None:
    assert "hunter2" not in str(keep({"password": "hunter2", "x": object()}).reason)


async def test_a_completed_state_gives_its_value_and_its_states_theirs() -> None:
    assert await kept_of(Completed(data={"a": 1})) == Kept('{"a": 1}')
    assert await kept_of(Completed(data=Completed(data=1))) == Kept("1")
    assert await kept_of(Completed(data=[Completed(data=1), Completed(data=2)])) == Kept("[1, 2]")


async def test_a_state_that_did_not_complete_gives_nothing() -> None:
    assert await kept_of(Failed(data=ValueError("x"))) == Kept()
    assert await kept_elsewhere(Failed(message="x")) == Kept()


async def test_a_state_without_its_value_gives_the_reason() -> None:
    assert "Prefect does not hold it" in str((await kept_of(Completed())).reason)
    assert "does not persist it" in str((await kept_elsewhere(Completed())).reason)
