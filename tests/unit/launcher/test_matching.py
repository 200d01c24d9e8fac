"""Which events a trigger takes, and the key that keeps a launch from being repeated."""

from __future__ import annotations

import itertools
from uuid import UUID

import pytest

from prefect_n8n.launcher.launching import KEY_PREFIX, idempotency_key, matches
from prefect_n8n.launcher.manual import _tenant_in  # pyright: ignore[reportPrivateUsage]
from prefect_n8n.ledger.launches import Execution, Trigger


def trigger(*types: str) -> Trigger:
    return Trigger(UUID(int=1), "on-order", types, "on-order/orders", None)


@pytest.mark.parametrize(
    ("types", "type"),
    [
        (["*"], "order.created"), (["*"], ""), ([""], ""), (["order.*"], "order.created"),
        (["order.*"], "order."), (["order.*"], "order.line.added"), (["order.?"], "order.x"),
        (["a", "order.created"], "order.created"), (["*.created"], "order.created"),
        (["[ab].x"], "b.x"),
    ],
)  # fmt: skip
def test_taken(types: list[str], type: str) -> None:
    assert matches(trigger(*types), type)


@pytest.mark.parametrize(
    ("types", "type"),
    [
        ([], "order.created"), (["order"], "order.created"), (["order.*"], "order"),
        (["order.*"], "Order.created"), (["order.*"], "reorder.created"), (["order.*"], ""),
        ([""], "order.created"), (["order.?"], "order."), (["a", "b"], "c"), (["a.b"], "axb"),
    ],
)  # fmt: skip
def test_not_taken(types: list[str], type: str) -> None:
    assert not matches(trigger(*types), type)


def key(tenant: int, endpoint: int, row: int, by: int, redrive: int, execution: int = 1) -> str:
    event = {"endpoint_id": UUID(int=endpoint), "row_id": UUID(int=row), "type": "t", "id": "i"}
    of = Execution(UUID(int=execution), UUID(int=by), "pending", None, redrive)
    return idempotency_key(UUID(int=tenant), event, of)


def test_a_repeated_launch_has_the_same_key() -> None:
    assert key(1, 2, 3, 4, 0) == key(1, 2, 3, 4, 0)


def test_keys_of_different_launches_differ() -> None:
    """In tenant, endpoint, event, trigger, or redrive."""
    of = list(itertools.product([1, 2], repeat=4))
    keys = {key(*who, redrive) for who in of for redrive in (0, 1, 11)}
    assert len(keys) == len(of) * 3


def test_a_launchers_run_is_known_by_its_key() -> None:
    """What the launcher writes, it reads: such a run is not taken for one started by hand."""
    assert _tenant_in(key(7, 2, 3, 4, 0)) == UUID(int=7)


@pytest.mark.parametrize(
    "foreign",
    [None, "", "x", KEY_PREFIX, f"{KEY_PREFIX}:", f"{KEY_PREFIX}:x:y", f"x:{UUID(int=7)}"],
)
def test_other_keys_are_nobodys(foreign: str | None) -> None:
    assert _tenant_in(foreign) is None
