"""JSON from strangers, parsed under limits that do not move with the Python version.

The limits keep out what the standard parser lets in and PostgreSQL or a later reader chokes on:
deep nesting, endless integers, ``NaN``, duplicate keys, NUL and lone surrogates.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn, cast

from .errors import BodyInvalid

MAX_DEPTH = 64
MAX_KEYS = 10_000
MAX_DIGITS = 19

# The possessive *+ and the optional closing quote keep an unclosed string from being scanned twice.
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse ``body`` as one strict JSON object.

    Raises:
        BodyInvalid: not UTF-8, not JSON, not an object, or over a limit; the message says which.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise BodyInvalid("The body is not UTF-8.") from None
    check_depth(text)
    keys = _KeyCount()
    try:
        value = json.loads(
            text,
            object_pairs_hook=keys.object_of,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
        )
    except BodyInvalid:
        raise
    except (ValueError, RecursionError):
        raise BodyInvalid("The body is not valid JSON.") from None
    if not isinstance(value, dict):
        raise BodyInvalid("The body must be a JSON object.")
    fields = cast(dict[str, Any], value)
    _check_text(text, fields)
    return fields


def check_depth(text: str, limit: int = MAX_DEPTH) -> None:
    """Refuse nesting before the recursive parser sees it.

    Raises:
        BodyInvalid: more than ``limit`` levels.
    """
    depth = 0
    for match in _STRUCTURE.finditer(text):
        mark = match.group()
        if mark in "[{":
            depth += 1
            if depth > limit:
                raise BodyInvalid(f"The body is nested deeper than {limit} levels.")
        elif mark in "]}":
            depth -= 1


class _KeyCount:
    """Builds objects, counting keys over the whole body."""

    def __init__(self) -> None:
        self.count = 0

    def object_of(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        self.count += len(pairs)
        if self.count > MAX_KEYS:
            raise BodyInvalid(f"The body has more than {MAX_KEYS} keys.")
        result = dict(pairs)
        if len(result) != len(pairs):
            raise BodyInvalid("The body has a duplicate key.")
        return result


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise BodyInvalid(f"The body has an integer of more than {MAX_DIGITS} digits.")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise BodyInvalid("The body has a number that is too large.")
    return value


def _constant(name: str) -> NoReturn:
    raise BodyInvalid(f"The body has {name}, which is not JSON.")


def _check_text(text: str, value: object) -> None:
    """Refuse NUL and lone surrogates, which PostgreSQL's jsonb cannot hold.

    Decoded UTF-8 has no surrogates and the parser refuses raw control characters, so both can
    come from an escape only: most bodies have none and are done here.
    """
    if "\\u" not in text:
        return
    stack: list[object] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if "\x00" in item or any("\ud800" <= c <= "\udfff" for c in item):
                raise BodyInvalid("The body has a NUL or a lone surrogate in a text.")
        elif isinstance(item, dict):
            fields = cast(dict[str, object], item)
            stack.extend(fields)
            stack.extend(fields.values())
        elif isinstance(item, list):
            stack.extend(cast(list[object], item))
