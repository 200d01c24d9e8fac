"""Fits an event to a user's function: the whole event, or the fields of its body, validated."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

from ..core.errors import EventUnprocessable
from .event import WebhookEvent

_FIELD = "field_"

# The others' messages quote the value, or are a validator's own, which may.
_SAFE_MESSAGES = frozenset(get_args(ErrorType)) - {
    "assertion_error",
    "union_tag_invalid",
    "uuid_parsing",
    "value_error",
}


class Binding:
    """How one function takes events. Built once, when the function is decorated.

    A parameter annotated ``WebhookEvent``, or named ``event`` and not annotated, gets the event;
    every other parameter gets the body's field of its name, validated by pydantic as Prefect
    validates parameters. ``**fields`` gets the rest of the body.

    Raises:
        TypeError: the function has ``*args`` or positional-only parameters.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._event_names: list[str] = []
        self._names: dict[str, str] = {}
        self._takes_rest = False
        hints = get_type_hints(fn, include_extras=True)
        fields: dict[str, Any] = {}
        for name, parameter in inspect.signature(fn).parameters.items():
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
                raise TypeError(f"@webhook: {name!r} of {fn.__name__} cannot be given by name.")
            if parameter.kind is parameter.VAR_KEYWORD:
                self._takes_rest = True
            elif hints.get(name) is WebhookEvent or (name == "event" and name not in hints):
                self._event_names.append(name)
            else:
                # Through an alias: a body's field may be called like an attribute of BaseModel.
                alias = f"{_FIELD}{len(fields)}"
                self._names[alias] = name
                default = ... if parameter.default is parameter.empty else parameter.default
                fields[alias] = (Annotated[hints.get(name, Any), Field(alias=name)], default)
        self._model: type[BaseModel] = create_model(
            "Body", __config__=ConfigDict(arbitrary_types_allowed=True), **fields
        )

    def arguments(self, event: WebhookEvent) -> dict[str, Any]:
        """Return the keyword arguments for the function.

        Raises:
            EventUnprocessable: a field is missing or of the wrong type; the message names it.
        """
        try:
            body = self._model.model_validate(event.body)
        except ValidationError as error:
            problems = "; ".join(
                _describe(e)
                for e in error.errors(include_input=False, include_url=False, include_context=False)
            )
            raise EventUnprocessable(f"The body does not fit the flow: {problems}") from None
        arguments = {name: getattr(body, alias) for alias, name in self._names.items()}
        if self._takes_rest:
            taken = {*arguments, *self._event_names}
            arguments |= {k: v for k, v in event.body.items() if k not in taken}
        return arguments | dict.fromkeys(self._event_names, event)


def _describe(error: ErrorDetails) -> str:
    what = error["msg"] if error["type"] in _SAFE_MESSAGES else error["type"]
    return f"{'.'.join(map(str, error['loc']))}: {what}"
