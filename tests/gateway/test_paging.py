"""Cursors: opaque, signed, for one list with its filters."""

import base64
import json
import random
import string
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidCursor
from gateway.tools.paging import MAX_CURSOR, cursor_after, place_of

PLACES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(place=PLACES, filters=PLACES)
def test_a_cursor_leads_back_to_its_place(place: object, filters: object) -> None:
    cursor = cursor_after(place, "tools", filters)
    assert place_of(cursor, "tools", filters) == place
    assert set(cursor) <= set(string.ascii_letters + string.digits + "-_=")


@pytest.mark.parametrize(
    ("list_name", "filters"), [("hits", ["crm"]), ("tools", ["crn"]), ("tools", None), ("tool", [])]
)
def test_a_cursor_is_for_one_list_with_its_filters(list_name: str, filters: object) -> None:
    cursor = cursor_after("a", "tools", ["crm"])
    with pytest.raises(InvalidCursor, match="begin again"):
        place_of(cursor, list_name, filters)


def forged() -> str:
    """The place changed, the signature kept."""
    data = base64.urlsafe_b64decode(cursor_after("crm:a", "tools", None))
    return base64.urlsafe_b64encode(data[:16] + json.dumps("crm:b").encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "=", "a", "not a cursor", "ü", "\ud800", "AAAA", "A" * 4 * MAX_CURSOR, "\x00", "////"),
        # With names of their own: each process signs differently, and a test is called the same in all of them.
        pytest.param(forged(), id="forged"),
        pytest.param(cursor_after("a", "tools", None)[:-4], id="cut"),
        pytest.param(cursor_after("a", "tools", None) + "AAAA", id="longer"),
        pytest.param(cursor_after("a", "tools", None).lower(), id="lower case"),
        base64.urlsafe_b64encode(b'"a"').decode(),
    ],
)
def test_what_nobody_gave_out_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidCursor) as caught:
        place_of(cursor, "tools", None)
    assert caught.value.code == "invalid_cursor"
    assert not caught.value.retryable


def test_no_bit_of_a_cursor_can_be_changed() -> None:
    cursor = cursor_after(["crm:lookup", 3], "tools", None)
    for _ in range(300):
        at = random.randrange(len(cursor.rstrip("=")) - 1)
        changed = cursor[:at] + random.choice(string.ascii_letters.replace(cursor[at], "")) + cursor[at + 1 :]
        with pytest.raises(InvalidCursor):
            place_of(changed, "tools", None)


def test_another_process_does_not_take_it() -> None:
    code = "from gateway.tools.paging import cursor_after; print(cursor_after('a', 'tools', None))"
    elsewhere = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    with pytest.raises(InvalidCursor):
        place_of(elsewhere, "tools", None)
