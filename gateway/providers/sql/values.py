"""Between JSON and what SQL drivers take and give."""

import base64
import datetime as dt
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from gateway.base import JsonValue

MAX_EXACT_DIGITS = 15
"""A decimal of so many digits survives as a double, and comes out as it was written."""


def json_value(value: Any) -> JsonValue:
    """The JSON form of what a driver gave.

    Decimals are numbers where a double holds all their digits and text beyond; bytes are base64; dates and times are
    ISO 8601; NaN and the infinities are text. Arrays and JSON columns keep their structure; the rest is its text.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else _no_number(value)
        case Decimal():
            return _decimal(value)
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case dt.timedelta():
            return _clock(value)
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode()
        case Mapping():
            return {str(name): json_value(part) for name, part in value.items()}
    if hasattr(value, "keys"):  # asyncpg's Record, which is a row within a row
        return {str(name): json_value(value[name]) for name in value.keys()}  # noqa: SIM118 - iterating gives its values
    if isinstance(value, list | tuple | set | frozenset):
        return [json_value(part) for part in value]
    return str(value)


def driver_value(value: JsonValue, *, is_base64: bool, takes_structures: bool) -> Any:
    """What a driver takes for a JSON value. Raises ValueError for base64 that is none."""
    if is_base64 and isinstance(value, str):
        return base64.b64decode(value, validate=True)
    if isinstance(value, dict | list) and not takes_structures:
        return json.dumps(value, ensure_ascii=False)
    return value


def _decimal(value: Decimal) -> JsonValue:
    if not value.is_finite():
        return _no_number(float(value)) if not value.is_snan() else "NaN"
    sign, digits, exponent = value.as_tuple()
    del sign
    if exponent == 0:
        return int(value)
    return float(value) if len(digits) <= MAX_EXACT_DIGITS and abs(value.adjusted()) < 300 else str(value)


def _no_number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _clock(value: dt.timedelta) -> str:
    """[-]HH:MM:SS[.ffffff], as MySQL writes its TIME; hours may have more than two digits."""
    sign = "-" if value < dt.timedelta() else ""
    minutes, seconds = divmod(abs(value) // dt.timedelta(seconds=1), 60)
    fraction = f".{abs(value).microseconds:06d}" if value.microseconds else ""
    return f"{sign}{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}{fraction}"
