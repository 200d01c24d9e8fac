"""Parameters of triggers: types are kept, and nothing a stranger sent gets power by it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_n8n.core.errors import EventUnprocessable
from prefect_n8n.core.templating import MAX_BYTES, render_parameters

ROW = UUID("00000000-0000-4000-8000-00000000000a")


def event_of(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "evt_1",
        "type": "order.created",
        "body": body,
        "headers": {"via": "n8n"},
        "endpoint": "orders",
        "received_at": datetime(2026, 1, 2, tzinfo=UTC),
        "trace": None,
        "row_id": ROW,
    }


def render(template: Any, /, **body: Any) -> Any:
    """Render one parameter."""
    return render_parameters({"x": template}, event_of(body))["x"]


def test_without_a_template_the_row_id_alone() -> None:
    assert render_parameters(None, event_of({"event_id": "forged"})) == {"event_id": str(ROW)}
    assert render_parameters({}, event_of({})) == {}


@pytest.mark.parametrize("value", [1, 1.5, True, None, "", "text", [1, "a"], {"a": {"b": [None]}}])
def test_a_whole_expression_keeps_its_type(value: Any) -> None:
    result = render("{{ body.value }}", value=value)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    "text", ["123", "1e3", "True", "None", "[1, 2]", "{'a': 1}", "b'x'", "{1, 2}", "'x'", "(1,)"]
)
def test_a_text_stays_a_text(text: str) -> None:
    """Also one that Python could read as something else."""
    assert render("{{ body.value }}", value=text) == text
    assert render("{{ body.value }}{{ body.none }}", value=text, none="") == text


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00")))
def test_any_text_arrives_as_it_is(text: str) -> None:
    assert render("{{ body.value }}", value=text) == text


def test_what_templates_see() -> None:
    template = {
        "deep": [{"id": "{{ event.id }}", "row": "{{ event.row_id }}"}],
        "type": "{{ event.type }} at {{ endpoint }}",
        "via": "{{ headers.via }}",
        "at": "{{ event.received_at }}",
        "trace": "{{ event.trace }}",
        "made": "{{ {'a': {'b': body.total * 2}} }}",
        "kept": [7, None, "plain", "{% if body.total > 1 %}much{% endif %}"],
    }
    assert render_parameters(template, event_of({"total": 2})) == {
        "deep": [{"id": "evt_1", "row": str(ROW)}],
        "type": "order.created at orders",
        "via": "n8n",
        "at": "2026-01-02T00:00:00+00:00",
        "trace": None,
        "made": {"a": {"b": 4}},
        "kept": [7, None, "plain", "much"],
    }


def test_nothing_is_rendered_twice() -> None:
    trap = "{{ headers.via }} {{ 7 * 7 }} {% raw %}"
    assert render("{{ body.value }}", value=trap) == trap
    assert render("is {{ body.value }}", value=trap) == f"is {trap}"
    assert render("{{ body }}", key={"{{ 7 * 7 }}": trap}) == {"key": {"{{ 7 * 7 }}": trap}}


def test_the_event_is_not_changed() -> None:
    event = event_of({"list": [1], "map": {"a": 1}})
    render_parameters({"x": "{{ body }}"}, event)
    for change in ("body.list.append(2)", "body.map.update({'b': 2})", "body.clear()"):
        with pytest.raises(EventUnprocessable):
            render_parameters({"x": f"{{{{ {change} }}}}"}, event)
    assert event == event_of({"list": [1], "map": {"a": 1}})


@pytest.mark.parametrize(
    "template",
    [
        "{{ body.__class__.__mro__ }}", "{{ body['__class__'] }}", "{{ [body.__class__] }}",
        "{{ body|attr('__class__') }}", "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}", "{{ body.value.format(body) }}",
        "{{ self._TemplateReference__context }}", "{{ lipsum.__globals__.os }}",
        "{% include '/etc/passwd' %}", "{% import 'os' as os %}",
    ],
)  # fmt: skip
def test_the_sandbox_holds(template: str) -> None:
    with pytest.raises(EventUnprocessable):
        render(template, value="{0.__class__.__mro__}")


@pytest.mark.parametrize(
    "template",
    ["{{ body.gone }}", "{{ gone }}", "{{ body.a.b }}", "a {{ body.gone }}", "{{ [body.gone] }}",
     "{{ value }}", "{{ settings }}", "{{", "{% for %}", "{{ 1 / 0 }}", "{{ body.n + 'a' }}"],
)  # fmt: skip
def test_undefined_names_and_errors_are_refused(template: str) -> None:
    with pytest.raises(EventUnprocessable):
        render(template, n=1)


def test_an_error_names_the_template_and_not_the_value() -> None:
    with pytest.raises(EventUnprocessable) as caught:
        render("{{ body.value + 1 }}", value="hunter2")
    assert "{{ body.value + 1 }}" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "template",
    ["{{ range(1000000000) | list }}", "{% for i in range(1000000000) %}{{ i }}{% endfor %}",
     "{{ 'x' * 10000000000 }}", "{{ body.text * body.count }}", "{{ [0] * body.count }}",
     "{{ 9 ** 9 ** 9 ** 9 }}", "{{ body.count ** body.count }}"],
)  # fmt: skip
def test_endless_work_is_refused_at_once(template: str) -> None:
    begun = time.monotonic()
    with pytest.raises(EventUnprocessable):
        render(template, text="x", count=10**9)
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("key", ["__prefect_kind", "$ref"])
def test_reserved_keys_are_refused_wherever_they_come_from(key: str) -> None:
    """Prefect would resolve them: they could read blocks and variables."""
    bad = {key: "json", "value": "1"}
    for value in (bad, [bad], {"a": [[{"b": bad}]]}):
        for template in ("{{ body.value }}", "{{ body }}", ["{{ body.value }}"], {"a": value}):
            with pytest.raises(EventUnprocessable, match="reserved"):
                render(template, value=value)
    with pytest.raises(EventUnprocessable, match="reserved"):
        render("{{ {body.key: 1} }}", key=key)
    with pytest.raises(EventUnprocessable, match="reserved"):
        render_parameters({key: "a"}, event_of({}))
    assert render("{{ body.value }}", value=f'{{"{key}": 1}}') == f'{{"{key}": 1}}'
    assert render("{{ body.value }}", value=key) == key


@pytest.mark.parametrize("text", ["\x00", "a\x00b", "a\ud800"], ids=ascii)
def test_texts_that_cannot_be_stored_are_refused(text: str) -> None:
    for value in (text, [text], {text: 1}, {"a": {"b": text}}):
        with pytest.raises(EventUnprocessable):
            render("{{ body.value }}", value=value)


@pytest.mark.parametrize(
    "template",
    ["{{ range(3) }}", "{{ body.get }}", "{{ body | map('upper') }}", "{{ body.value / 1 }}",
     "{{ joiner() }}"],
)  # fmt: skip
def test_what_is_no_json_is_refused(template: str) -> None:
    with pytest.raises(EventUnprocessable):
        render(template, value=float("inf"))


def test_size_is_bounded_in_bytes() -> None:
    room = MAX_BYTES - len('{"x": ""}')
    assert len(render("{{ body.value }}", value="x" * room)) == room
    for value in ("x" * (room + 1), "é" * (room // 2 + 1)):
        with pytest.raises(EventUnprocessable, match=str(MAX_BYTES)):
            render("{{ body.value }}", value=value)
