"""JSON forms of what databases hold."""

import base64
import datetime as dt
import json
import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.sql.values import driver_value, json_value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (2**70, 2**70),
        (1.5, 1.5),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (Decimal("19.99"), 19.99),
        (Decimal(5), 5),
        (Decimal(123456789012345), 123456789012345),
        (Decimal("1234567890123456.5"), "1234567890123456.5"),
        (Decimal("1E+400"), "1E+400"),
        (Decimal("NaN"), "NaN"),
        (Decimal("sNaN"), "NaN"),
        (Decimal("-Infinity"), "-Infinity"),
        (dt.date(2024, 1, 31), "2024-01-31"),
        (dt.datetime(2024, 1, 31, 12, tzinfo=dt.UTC), "2024-01-31T12:00:00+00:00"),
        (dt.time(12, 30), "12:30:00"),
        (dt.timedelta(hours=30, minutes=5, microseconds=7), "30:05:00.000007"),
        (-dt.timedelta(minutes=5), "-00:05:00"),
        (b"\x00\xff", "AP8="),
        (memoryview(b"a"), "YQ=="),
        ([1, (Decimal("0.5"), b"a")], [1, [0.5, "YQ=="]]),
        ({"a": {1: dt.date(1, 1, 1)}}, {"a": {"1": "0001-01-01"}}),
    ],
)
def test_json_forms(value: Any, expected: Any) -> None:
    found = json_value(value)
    assert found == expected
    assert type(found) is type(expected)


@given(st.decimals(allow_nan=True, allow_infinity=True))
def test_no_decimal_loses_digits(value: Decimal) -> None:
    found = json_value(value)
    json.dumps(found, allow_nan=False)
    if value.is_finite():
        assert Decimal(repr(found) if isinstance(found, float) else found) == value


@given(st.timedeltas())
def test_clocks_are_exact(value: dt.timedelta) -> None:
    text = json_value(value)
    hours, minutes, seconds = text.removeprefix("-").split(":")
    whole, _, fraction = seconds.partition(".")
    found = dt.timedelta(hours=int(hours), minutes=int(minutes), seconds=int(whole), microseconds=int(fraction or 0))
    assert (-found if text.startswith("-") else found) == value


@given(st.binary())
def test_bytes_come_back(value: bytes) -> None:
    assert driver_value(json_value(value), is_base64=True, takes_structures=False) == value


def test_structures_are_json_where_the_driver_takes_none() -> None:
    assert driver_value({"ä": [1]}, is_base64=False, takes_structures=False) == '{"ä": [1]}'
    assert driver_value({"a": [1]}, is_base64=False, takes_structures=True) == {"a": [1]}
    with pytest.raises(ValueError, match=r"base64|padding|alphabet"):
        driver_value("no base64!", is_base64=True, takes_structures=True)
    assert driver_value(base64.b64encode(b"x").decode(), is_base64=False, takes_structures=True) == "eA=="
