"""What users may ask for, and how they are told what they may not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from prefect_n8n.core.errors import ConfigurationError
from prefect_n8n.core.specs import (
    Endpoint,
    InboundEndpoint,
    OutboundEndpoint,
    Sync,
    Trigger,
    parse,
)

WHOLE: list[tuple[Any, dict[str, Any]]] = [
    (Endpoint, {"slug": "orders", "direction": "inbound", "body_schema": {"type": "object"}}),
    (Endpoint, {"slug": "crm", "direction": "outbound", "url": "crm/contact"}),
    (Trigger, {"name": "on-order", "endpoint": "orders", "deployment": "on-order/orders"}),
    (Sync, {"name": "customers", "left": {}, "right": {}, "key_fields": ["email"]}),
]


@pytest.mark.parametrize(("kind", "given"), WHOLE)
def test_what_is_shown_can_be_given_back(kind: Any, given: dict[str, Any]) -> None:
    spec = parse(kind, given)
    assert spec.as_json().items() >= given.items()
    assert parse(kind, spec.as_json()) == spec


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        (Endpoint, {"slug": "Orders", "direction": "inbound"}, "slug: 'Orders' is no slug"),
        (Endpoint, {"slug": "a", "direction": "sideways"}, "'inbound', 'outbound'"),
        (Endpoint, {"slug": "a"}, "direction"),
        (Endpoint, {"slug": "a", "direction": "inbound", "url": "x"}, "url: Unexpected"),
        (Endpoint, {"slug": "a", "direction": "inbound", "max_body": 1}, "max_body: Input should"),
        (Endpoint, {"slug": "a", "direction": "inbound", "rate_limit": 0}, "rate_limit: "),
        (Endpoint, {"slug": "a", "direction": "inbound", "rate_limit": float("inf")}, "rate_limit"),
        (
            Endpoint,
            {"slug": "a", "direction": "inbound", "body_schema": {"type": 7}},
            "body_schema",
        ),
        (
            Endpoint,
            {"slug": "a", "direction": "inbound", "body_schema": {"$ref": "http://x.example/s"}},
            "points outside",
        ),
        (
            Endpoint,
            {"slug": "a", "direction": "inbound", "body_schema": {"not": [{"$ref": "file:///x"}]}},
            "body_schema",
        ),
        (Endpoint, {"slug": "a", "direction": "outbound", "url": "http://169.254.169.254/"}, "url"),
        (Endpoint, {"slug": "a", "direction": "outbound", "timeout_seconds": 0}, "timeout_seconds"),
        (Trigger, {"name": "a/b", "endpoint": "a", "deployment": "a/b"}, "name"),
        (Trigger, {"name": "a", "endpoint": "a", "deployment": "a"}, "deployment"),
        (Trigger, {"name": "a", "endpoint": "a", "deployment": "a/b", "types": []}, "types"),
        (Trigger, {"name": "a", "endpoint": "a", "deployment": "a/b", "fallback": [{}]}, "Step 1"),
        (Sync, {"name": "a", "left": {}, "right": {}, "key_fields": []}, "key_fields"),
        (
            Sync,
            {"name": "a", "left": {}, "right": {}, "key_fields": ["x"], "policy": "x"},
            "policy",
        ),
    ],
)
def test_what_cannot_be_is_said_with_its_field(kind: Any, given: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^in the file: ") as refusal:
        parse(kind, given, where="in the file: ")
    assert words in str(refusal.value)


def test_an_etag_tells_values_apart() -> None:
    tags = {
        InboundEndpoint("a").etag(),
        InboundEndpoint("b").etag(),
        InboundEndpoint("a", max_body=20_000).etag(),
        OutboundEndpoint("a").etag(),
    }
    assert len(tags) == 4
    assert InboundEndpoint("a").etag() in tags


def test_every_field_is_in_the_json_schema() -> None:
    schema = TypeAdapter[Any](Endpoint).json_schema()
    assert schema["discriminator"]["propertyName"] == "direction"
    assert schema["$defs"]["InboundEndpoint"]["additionalProperties"] is False
    assert schema["$defs"]["InboundEndpoint"]["properties"]["slug"]["pattern"].startswith("^")
