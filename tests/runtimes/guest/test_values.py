"""JSON values arrive as they are; anything else arrives as its repr; nothing a guest makes breaks the encoder."""

import collections
import enum
import itertools
import json
import math
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.guest.values import MAX_DEPTH, NotJson, ValueTooLarge, encode_value, json_size

LIMIT = 1 << 20


def has_pair(text: str) -> bool:
    return any("\ud800" <= a <= "\udbff" and "\udc00" <= b <= "\udfff" for a, b in itertools.pairwise(text))


# All of Unicode with lone surrogates; a pair of them is one character in JSON, and comes back as that.
texts = st.text(st.characters(exclude_categories=[])).filter(lambda text: not has_pair(text))
scalars = (
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats(allow_nan=False, allow_infinity=False)
)
json_values = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=30,
)
junk = st.recursive(
    scalars
    | texts
    | st.floats()
    | st.binary()
    | st.complex_numbers()
    | st.builds(object)
    | st.builds(lambda: 10**5000),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(scalars | texts, inner),
    max_leaves=20,
)


@given(json_values)
def test_json_values_round_trip(value: Any) -> None:
    encoded = encode_value(value, LIMIT)

    assert not encoded.is_repr
    assert json.loads(encoded.json) == value


@given(json_values)
def test_estimated_size_is_a_lower_bound(value: Any) -> None:
    size = len(encode_value(value, LIMIT).json)

    assert json_size(value, LIMIT) <= size
    assert encode_value(value, size).json


@given(junk, st.integers(0, 200))
def test_junk_is_encoded_or_too_large(value: Any, limit: int) -> None:
    try:
        encoded = encode_value(value, limit)
    except ValueTooLarge as error:
        assert error.size > limit  # noqa: PT017  # either ending is fine
        return
    assert len(encoded.json) <= limit
    assert isinstance(json.loads(encoded.json), str) or not encoded.is_repr


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: int


class Ratio(float):
    pass


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ((1, (2,)), [1, [2]]),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (Point(1, 2), [1, 2]),
        (Colour.RED, "red"),
        ({Colour.RED: Level.HIGH}, {"red": 3}),
        (Ratio(1.5), 1.5),
        ([True, 1, 1.0], [True, 1, 1.0]),
        ("é\ud800\0", "é\ud800\0"),
    ],
)
def test_subclasses_are_encoded_as_their_plain_value(value: object, plain: object) -> None:
    encoded = encode_value(value, LIMIT)

    assert not encoded.is_repr
    assert json.loads(encoded.json) == plain


def test_characters_outside_ascii_take_no_escapes() -> None:
    assert encode_value("日本", LIMIT).json == '"日本"'.encode()


class Claims:
    """Looks like a dict to isinstance."""

    @property
    def __class__(self) -> Any:
        return dict

    @__class__.setter
    def __class__(self, value: Any) -> None:
        raise AssertionError(value)

    def __repr__(self) -> str:
        return "<claims>"


class ReprIsStr(str):  # noqa: SLOT000
    def __getitem__(self, key: object) -> NoReturn:
        raise AssertionError(key)


class OddRepr:
    def __repr__(self) -> str:
        return ReprIsStr("odd")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({1, 2}, "{1, 2}"),
        ([1, {2}], "[1, {2}]"),
        (math.nan, "nan"),
        ([math.inf], "[inf]"),
        (b"\xff", r"b'\xff'"),
        ({1: "a"}, "{1: 'a'}"),
        ({"a": {None: 1}}, "{'a': {None: 1}}"),
        (1j, "1j"),
        (Claims(), "<claims>"),
        (OddRepr(), "odd"),
        pytest.param(-(10**5000), "-1" + "0" * 5000, id="int"),
    ],
)
def test_other_values_are_their_repr_as_a_whole(value: object, expected: str) -> None:
    encoded = encode_value(value, LIMIT)

    assert encoded.is_repr
    assert json.loads(encoded.json) == expected


class Broken:
    def __repr__(self) -> str:
        raise KeyboardInterrupt


class BrokenDict(dict[str, Any]):
    def items(self) -> NoReturn:
        raise SystemExit(3)

    def __repr__(self) -> str:
        raise RecursionError


class HostileMeta(type):
    @property
    def __name__(cls) -> NoReturn:  # type: ignore[override]  # hostile on purpose
        raise ValueError


class Nameless(metaclass=HostileMeta):
    __repr__ = None  # type: ignore[assignment]  # hostile on purpose


@pytest.mark.parametrize(
    "value", [Broken(), [Broken()], BrokenDict(a=1), Nameless(), pytest.param(10**60_000, id="int")]
)
def test_a_repr_that_raises_is_replaced(value: object) -> None:
    encoded = encode_value(value, LIMIT)

    assert encoded.is_repr
    assert json.loads(encoded.json) == f"<unrepresentable {type.__dict__['__name__'].__get__(type(value))}>"


def test_a_list_within_itself_is_its_repr() -> None:
    value: list[Any] = []
    value.append(value)

    assert json.loads(encode_value(value, LIMIT).json) == "[[...]]"


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1, 100_000])
def test_depth_is_bounded(depth: int) -> None:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]

    assert encode_value(value, LIMIT).is_repr == (depth > MAX_DEPTH)


def test_a_list_that_holds_itself_many_times_over_does_not_unfold() -> None:
    value: list[Any] = []
    for _ in range(100):
        value = [value, value]

    with pytest.raises(ValueTooLarge):
        encode_value(value, LIMIT)


@pytest.mark.parametrize("value", ["x" * 9, ["x" * 7], {"abcd": 1}, [1, 2, 3, 4, 5], 10**10])
def test_the_limit_counts_bytes_of_json(value: object) -> None:
    size = len(json.dumps(value, separators=(",", ":")))

    assert len(encode_value(value, size).json) == size
    with pytest.raises(ValueTooLarge):
        encode_value(value, size - 1)


def test_a_huge_string_is_refused_by_its_length() -> None:
    value = "x" * 100_000_000

    with pytest.raises(ValueTooLarge) as caught:
        encode_value(value, LIMIT)

    assert caught.value.size == len(value) + 2


@pytest.mark.parametrize("value", [b"x" * 1000, set(range(1000)), pytest.param(10**4999, id="int"), {"\0\ud800" * 200}])
@pytest.mark.parametrize("limit", [20, 100, 101, 102, 103])
def test_a_long_repr_is_cut_and_says_so(value: object, limit: int) -> None:
    encoded = encode_value(value, limit)
    text = json.loads(encoded.json)

    assert encoded.is_repr
    assert len(encoded.json) <= limit
    assert text.endswith("... [cut]")


@pytest.fixture
def tight_int_digits() -> Iterator[None]:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    yield
    assert sys.get_int_max_str_digits() == 640
    sys.set_int_max_str_digits(before)


@pytest.mark.usefixtures("tight_int_digits")
def test_the_guests_own_bound_on_digits_does_not_matter() -> None:
    assert json.loads(encode_value(10**4000, LIMIT).json.decode()[:600]) == 10**599
    assert not encode_value(10**4000, LIMIT).is_repr
    assert encode_value(10**4400, LIMIT).is_repr


def test_not_json_is_told_apart_from_too_large() -> None:
    with pytest.raises(NotJson):
        json_size({1}, LIMIT)
