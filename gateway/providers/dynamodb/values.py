"""JSON to DynamoDB's attribute values and back, without losing anything.

What JSON has no word for is an object with one key: `{"$set": [...]}` of texts, numbers or bytes, `{"$bytes": base64}`,
and `{"$number": "1.10"}` for a number whose digits a JSON float would change. Numbers have at most 38 digits.
"""

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from decimal import Context, Decimal, InvalidOperation
from typing import Any

from gateway.base import JsonValue
from gateway.errors import InvalidInput

MAX_DIGITS = 38
_SMALLEST, _LARGEST = Decimal("1E-130"), Decimal("9.9999999999999999999999999999999999999E+125")

Attribute = dict[str, Any]


def attribute_of(value: JsonValue, path: str = "") -> Attribute:
    """A value on the wire, such as {"S": "text"}. Raises InvalidInput with the path of what has no form there."""
    if value is None:
        return {"NULL": True}
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, str):
        return {"S": value}
    if isinstance(value, int | float):
        return {"N": _number(str(value), path)}
    if isinstance(value, list):
        return {"L": [attribute_of(item, f"{path}[{index}]") for index, item in enumerate(value)]}
    if len(value) == 1 and (special := _SPECIAL.get(next(iter(value)))) is not None:
        return special(next(iter(value.values())), path)
    return {"M": attributes_of(value, path)}


def attributes_of(item: Mapping[str, JsonValue], path: str = "") -> dict[str, Attribute]:
    """An item or a key on the wire. Raises InvalidInput."""
    return {name: attribute_of(value, f"{path}.{name}" if path else name) for name, value in item.items()}


def value_of(attribute: Mapping[str, Any]) -> JsonValue:
    """The value of an attribute that DynamoDB sent."""
    [(kind, value)] = attribute.items()
    return _VALUES[kind](value)


def item_of(attributes: Mapping[str, Any]) -> dict[str, JsonValue]:
    """The item that DynamoDB sent."""
    return {name: value_of(attribute) for name, attribute in attributes.items()}


_EXACT = Context(prec=MAX_DIGITS)


def _number(text: str, path: str) -> str:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise InvalidInput(f"{path or 'a number'}: {text[:60]!r} is no number") from None
    if not number.is_finite():
        raise InvalidInput(f"{path or 'a number'}: DynamoDB has no {text}")
    digits = "".join(map(str, number.as_tuple().digits)).strip("0")
    if len(digits) > MAX_DIGITS or (number and not _SMALLEST <= abs(number) <= _LARGEST):
        raise InvalidInput(
            f"{path or 'a number'}: DynamoDB keeps {MAX_DIGITS} digits between 1E-130 and 1E+126, not {text[:60]}"
        )
    number = number.normalize(_EXACT) if number else Decimal(0)  # as DynamoDB gives it back: 1 for 1.0
    return format(number, "f") if -MAX_DIGITS <= number.adjusted() <= MAX_DIGITS else str(number)


def _number_attribute(value: JsonValue, path: str) -> Attribute:
    if not isinstance(value, str):
        raise InvalidInput(f"{path}: $number holds a number as text, not {type(value).__name__}")
    return {"N": _number(value, path)}


def _bytes(value: JsonValue, path: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise InvalidInput(f"{path}: $bytes holds base64 text") from None


def _set(value: JsonValue, path: str) -> Attribute:
    members = [
        attribute_of(item, f"{path}[{index}]") for index, item in enumerate(value if isinstance(value, list) else ())
    ]
    kinds = {kind for member in members for kind in member}
    if len(kinds) != 1 or not kinds <= {"S", "N", "B"}:
        raise InvalidInput(f"{path}: $set holds a list of at least one text, number or $bytes, all of one kind")
    kind = kinds.pop()
    return {f"{kind}S": [member[kind] for member in members]}


_SPECIAL: Mapping[str, Callable[[JsonValue, str], Attribute]] = {
    "$bytes": lambda value, path: {"B": _bytes(value, path)},
    "$number": _number_attribute,
    "$set": _set,
}


def _json_number(text: str) -> JsonValue:
    number = Decimal(text)
    if number == number.to_integral_value() and number.adjusted() <= MAX_DIGITS:
        return int(number)
    closest = float(number)
    return closest if math.isfinite(closest) and Decimal(repr(closest)) == number else {"$number": text}


def _json_bytes(data: bytes) -> JsonValue:
    return {"$bytes": base64.b64encode(data).decode()}


_VALUES: Mapping[str, Callable[[Any], JsonValue]] = {
    "NULL": lambda _: None,
    "BOOL": bool,
    "S": str,
    "N": _json_number,
    "B": _json_bytes,
    "L": lambda items: [value_of(item) for item in items],
    "M": item_of,
    "SS": lambda items: {"$set": sorted(items)},
    "NS": lambda items: {"$set": [_json_number(item) for item in sorted(items, key=Decimal)]},
    "BS": lambda items: {"$set": [_json_bytes(item) for item in sorted(items)]},
}
