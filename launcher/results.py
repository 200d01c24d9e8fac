"""What a flow returned, as JSON for the ledger; where that cannot be, the reason."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from prefect.client.schemas.objects import State
from prefect.exceptions import MissingResult
from prefect.results import ResultRecordMetadata  # pyright: ignore[reportPrivateImportUsage]
from pydantic_core import to_jsonable_python

from ..core.errors import BodyInvalid
from ..core.strict_json import parse_object

logger = logging.getLogger("prefect_n8n.launcher")

MAX_BYTES = 262_144
"""Of a result's JSON, in UTF-8."""

READ_SECONDS = 5.0
"""For a result that Prefect has stored elsewhere."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A result's JSON, or the reason why there is none."""

    json: str | None = None
    reason: str | None = None


NOTHING = Kept()


async def kept_of(state: State[Any]) -> Kept:
    """Return what a run of this process returned; nothing where it did not complete.

    Await it where the flow ran: the result may be bound to its event loop.
    """
    if not state.is_completed():
        return NOTHING
    try:
        async with asyncio.timeout(READ_SECONDS):
            return keep(await _value_of(state))
    except MissingResult:
        return _none("Prefect does not hold it")
    except Exception as error:
        # A storage of the user's, or an object's own code: whatever it is, the run has completed.
        logger.warning("a result cannot be read", exc_info=True)
        return _none(f"reading it failed: {type(error).__name__}")


async def kept_elsewhere(state: State[Any]) -> Kept:
    """Return what a run of another process returned, if it stored that as JSON in reach."""
    if not state.is_completed():
        return NOTHING
    data: object = state.data
    if not isinstance(data, ResultRecordMetadata):
        return _none("the flow does not persist it")
    if data.serializer.type != "json":
        # A pickle runs its author's code in whoever reads it.
        return _none(f'it is persisted as {data.serializer.type}: set result_serializer="json"')
    try:
        # In a thread of its own: the storage's code may block.
        async with asyncio.timeout(READ_SECONDS):
            return await asyncio.to_thread(lambda: asyncio.run(kept_of(state)))
    except TimeoutError:
        return _none("reading it takes too long")


def keep(value: object) -> Kept:
    """Turn a returned value into strict JSON; pydantic models and dataclasses become objects."""
    if isinstance(value, Iterator):
        return _none("it is no JSON: an iterator")
    try:
        text = json.dumps(to_jsonable_python(value), ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except (ValueError, TypeError, RecursionError) as error:
        # The value itself may be a secret: only its type is told.
        return _none(f"it is no JSON: {type(value).__name__} ({type(error).__name__})")
    if size > MAX_BYTES:
        return _none(f"it is larger than {MAX_BYTES} bytes")
    try:
        parse_object(b'{"r":' + text.encode() + b"}")
    except BodyInvalid as error:
        return _none(str(error).replace("The body", "it").rstrip("."))
    return Kept(text)


async def _value_of(state: State[Any]) -> Any:
    """Return the state's value; states that it returned in turn become theirs."""
    value: Any = await state.aresult(raise_on_failure=False, retry_result_failure=False)
    if isinstance(value, State):
        return await _value_of(cast(State[Any], value))
    if isinstance(value, list | tuple):
        items = cast(list[Any], value)
        return [await _value_of(cast(State[Any], x)) if isinstance(x, State) else x for x in items]
    return value


def _none(why: str) -> Kept:
    return Kept(None, f"The result is not kept: {why}.")
