"""Fitting events to functions: which parameter gets what, and what a wrong body says."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, Field, field_validator

from prefect_n8n.core.errors import EventUnprocessable
from prefect_n8n.flows.binding import Binding
from prefect_n8n.flows.event import WebhookEvent


def event_of(body: dict[str, Any]) -> WebhookEvent:
    return WebhookEvent(
        id="evt_1",
        type="order.created",
        body=body,
        headers={},
        endpoint="orders",
        received_at=datetime(2026, 1, 2, tzinfo=UTC),
        trace=None,
        row_id=UUID(int=10),
    )


def arguments(fn: Any, /, **body: Any) -> dict[str, Any]:
    return Binding(fn).arguments(event_of(body))


def refusal(fn: Any, /, **body: Any) -> str:
    with pytest.raises(EventUnprocessable) as caught:
        arguments(fn, **body)
    return str(caught.value)


class Line(BaseModel):
    article: str = Field(alias="articleNumber")
    count: int = Field(default=1, validation_alias=AliasChoices("n", "count"))


class Card(BaseModel):
    kind: Literal["card"]
    digits: str

    @field_validator("digits")
    @classmethod
    def no_spaces(cls, value: str) -> str:
        if " " in value:
            raise ValueError(f"spaces in {value}")
        return value


class Bank(BaseModel):
    kind: Literal["bank"]


# Who gets the event


def by_annotation(the_event: WebhookEvent) -> None: ...


def by_name(event) -> None: ...  # type: ignore[no-untyped-def]


def by_both(event, other: WebhookEvent) -> None: ...  # type: ignore[no-untyped-def]


def annotated_otherwise(event: str) -> None: ...


def keyword_only(*, event: WebhookEvent, total: int) -> None: ...


@pytest.mark.parametrize(
    ("fn", "names"),
    [(by_annotation, ["the_event"]), (by_name, ["event"]), (by_both, ["event", "other"])],
)
def test_the_event_comes_by_annotation_or_by_name(fn: Any, names: list[str]) -> None:
    event = event_of({"event": "forged", "the_event": "forged", "other": "forged"})
    got = Binding(fn).arguments(event)
    assert list(got) == names
    assert all(value is event for value in got.values())


def test_event_annotated_otherwise_is_a_field() -> None:
    assert arguments(annotated_otherwise, event="from the body") == {"event": "from the body"}


def test_keyword_only_parameters() -> None:
    got = arguments(keyword_only, total=3)
    assert got.pop("event") == event_of({"total": 3})
    assert got == {"total": 3}


# Fields


def plain(total: float, count: int, note: str = "none", tags: list[str] | None = None) -> None: ...


def unannotated(total, note="none") -> None: ...  # type: ignore[no-untyped-def]


def with_rest(event: WebhookEvent, total: float, **fields: Any) -> None: ...


def only_rest(**fields: Any) -> None: ...


def with_models(line: Line, lines: list[Line], by: Card | None = None) -> None: ...


def constrained(
    total: Annotated[float, Field(gt=0)], count: int = Field(default=1, le=9)
) -> None: ...


def required_by_field(total: float = Field(gt=0)) -> None: ...


def test_fields_are_validated_and_defaults_kept() -> None:
    assert arguments(plain, total="12.5", count=2) == {
        "total": 12.5, "count": 2, "note": "none", "tags": None,
    }  # fmt: skip
    got = arguments(plain, total=1, count=2, note="n", tags=["a"], other="ignored")
    assert got == {"total": 1.0, "count": 2, "note": "n", "tags": ["a"]}
    assert type(got["total"]) is float


def test_parameters_without_annotation_take_anything() -> None:
    for value in (None, 1, "a", [1], {"a": 1}):
        assert arguments(unannotated, total=value) == {"total": value, "note": "none"}
    assert "total: Field required" in refusal(unannotated)


def test_the_rest_of_the_body() -> None:
    body = {"total": 1.5, "event": "forged", "x y": 1, "self": 2, "fields": 3}
    event = event_of(body | {"total": "1.5"})
    got = Binding(with_rest).arguments(event)
    assert got == {"event": event, "total": 1.5, "x y": 1, "self": 2, "fields": 3}
    assert arguments(only_rest, **body) == body
    assert arguments(only_rest) == {}


def test_models_and_their_aliases() -> None:
    line = {"articleNumber": "a", "n": "3"}
    got = arguments(with_models, line=line, lines=[line, {"articleNumber": "b"}])
    assert got["line"] == Line.model_validate(line)
    assert [(each.article, each.count) for each in got["lines"]] == [("a", 3), ("b", 1)]
    assert got["by"] is None


def test_constraints_hold_wherever_they_stand() -> None:
    assert arguments(constrained, total=1) == {"total": 1.0, "count": 1}
    assert "total: Input should be greater than 0" in refusal(constrained, total=0)
    assert "count: Input should be less than or equal to 9" in refusal(
        constrained, total=1, count=10
    )
    assert arguments(required_by_field, total=1) == {"total": 1.0}
    assert "total: Field required" in refusal(required_by_field)


def test_a_default_is_not_shared() -> None:
    def collects(items: list[int] = []) -> None: ...  # noqa: B006

    binding = Binding(collects)
    binding.arguments(event_of({}))["items"].append(1)
    assert binding.arguments(event_of({})) == {"items": []}


# Names that a body may have and a model may not


def awkward(
    model_config: int, model_fields: str, copy: str, json: int, schema: int, _private: int,
    __class__: int, field_0: int, validate: int = 4,
) -> None: ...  # fmt: skip


def test_fields_named_like_attributes_of_models() -> None:
    names = ["model_config", "model_fields", "copy", "json", "schema", "_private", "__class__"]
    body: dict[str, Any] = dict.fromkeys([*names, "field_0"], 7) | {
        "model_fields": "a",
        "copy": "b",
    }
    assert arguments(awkward, **body) == body | {"validate": 4}


@given(st.dictionaries(st.text(), st.integers()))
def test_any_body_fits_a_function_that_takes_all(body: dict[str, int]) -> None:
    assert arguments(only_rest, **body) == body


# What a wrong body says


def picky(
    number: int, id: UUID, when: datetime, by: Annotated[Card | Bank, Field(discriminator="kind")]
) -> None: ...


GOOD: dict[str, Any] = {
    "number": 1,
    "id": str(UUID(int=1)),
    "when": "2026-01-02T03:04:05Z",
    "by": {"kind": "bank"},
}


def test_every_wrong_field_is_named() -> None:
    assert arguments(picky, **GOOD)["by"] == Bank(kind="bank")
    text = refusal(picky)
    for name in GOOD:
        assert f"{name}: Field required" in text
    assert "lines.1.articleNumber: Field required" in refusal(
        with_models, line={"articleNumber": "a"}, lines=[{"articleNumber": "a"}, {}]
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", "hunter2"),
        ("number", ["hunter2"]),
        ("id", "hunter2"),
        ("when", "hunter2"),
        ("by", "hunter2"),
        ("by", {"kind": "hunter2"}),
        ("by", {"kind": "card", "digits": "hunter2 x"}),
    ],
)
def test_the_error_names_the_field_and_never_shows_its_value(name: str, value: Any) -> None:
    with pytest.raises(EventUnprocessable) as caught:
        arguments(picky, **(GOOD | {name: value}))
    assert f"{name}" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "found `h`" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None, "the trace would show pydantic's error, and the value"


# Functions that cannot be given events


def positional(a: int, /) -> None: ...


def positionals(*args: int) -> None: ...


@pytest.mark.parametrize(("fn", "name"), [(positional, "a"), (positionals, "args")])
def test_parameters_that_have_no_name_are_refused(fn: Any, name: str) -> None:
    with pytest.raises(TypeError, match=f"'{name}' of {fn.__name__}"):
        Binding(fn)


@pytest.mark.parametrize("fn", [plain, with_rest, keyword_only, constrained, unannotated])
def test_the_arguments_can_be_given(fn: Any) -> None:
    given = arguments(fn, total=1, count=2, more=3)
    inspect.signature(fn).bind(**given)
