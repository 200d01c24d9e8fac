"""Parameters of a trigger, rendered from an event for a deployment that is not ours.

A value that is a whole ``{{ expression }}`` keeps its type. The result is checked: what a stranger
sent must not become something that Prefect resolves, such as a block reference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from jinja2 import StrictUndefined, TemplateError, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import EventUnprocessable

MAX_BYTES = 262_144
RESERVED_KEYS = frozenset({"__prefect_kind", "$ref"})


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox without powers and repetitions, whose size a number from a stranger sets."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Multiply numbers, and nothing else."""
        if operator == "**" or not (
            isinstance(left, int | float) and isinstance(right, int | float)
        ):
            raise SecurityError(f"{operator} of these is not allowed")
        return super().call_binop(context, operator, left, right)


_environment = _Environment(undefined=StrictUndefined)


def render_parameters(
    template: Mapping[str, Any] | None, event: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the flow run's parameters for an event; without a template its row id alone.

    ``event`` has ``id, type, body, headers, endpoint, received_at, trace, row_id``. Templates see
    ``body``, ``headers``, ``endpoint`` and ``event``.

    Raises:
        EventUnprocessable: undefined names, a template error, or a result that is not allowed.
    """
    if template is None:
        return {"event_id": str(event["row_id"])}
    context = {
        "event": {k: event[k] for k in ("id", "type", "trace")}
        | {"row_id": str(event["row_id"]), "received_at": event["received_at"].isoformat()},
        "body": event["body"],
        "headers": event["headers"],
        "endpoint": event["endpoint"],
    }
    rendered = {name: _render(value, context) for name, value in template.items()}
    _check(rendered)
    return rendered


def _render(value: Any, context: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {k: _render(v, context) for k, v in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [_render(item, context) for item in cast(list[Any], value)]
    if not isinstance(value, str) or "{" not in value:
        return value
    try:
        return _evaluate(value, context)
    except TemplateError as error:
        raise EventUnprocessable(f"The trigger's template {value!r} failed: {error}") from None
    except Exception as error:
        raise EventUnprocessable(
            f"The trigger's template {value!r} failed: {type(error).__name__}"
        ) from None


def _evaluate(source: str, context: Mapping[str, Any]) -> Any:
    """Return the value of a sole expression as it is, of any other template its text.

    Not Jinja2's native types: they read a text such as ``1e3`` or ``[1]`` as Python.
    """
    tree = _environment.parse(source)
    match tree.body:
        case [nodes.Output(nodes=[expression])] if not isinstance(expression, nodes.TemplateData):
            tree.body = [nodes.Assign(nodes.Name("value", "store"), expression)]
            module = _environment.from_string(tree).make_module(dict(context))
            value: Any = vars(module)["value"]
            return str(value) if isinstance(value, Undefined) else value  # str() of it raises.
        case _:
            return _environment.from_string(tree).render(context)


def _check(rendered: Any) -> None:
    """Refuse what Prefect would resolve or could not store."""
    try:
        size = len(json.dumps(rendered, allow_nan=False, ensure_ascii=False).encode())
    except (TypeError, ValueError):
        raise EventUnprocessable("The parameters are not JSON, or have a lone surrogate.") from None
    if size > MAX_BYTES:
        raise EventUnprocessable(f"The parameters have {size} bytes, more than {MAX_BYTES}.")
    stack: list[object] = [rendered]
    while stack:
        item = stack.pop()
        if isinstance(item, str) and "\x00" in item:
            raise EventUnprocessable("The parameters have a NUL in a text.")
        if isinstance(item, dict):
            fields = cast(dict[str, object], item)
            if reserved := RESERVED_KEYS & fields.keys():
                raise EventUnprocessable(f"The parameters have a reserved key: {sorted(reserved)}.")
            stack.extend(fields.keys())
            stack.extend(fields.values())
        elif isinstance(item, list | tuple):
            stack.extend(cast(list[object], item))
