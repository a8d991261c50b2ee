"""Values beside each other: short, and with the difference in view."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.beside import MAX_CHARS, beside, brief
from gateway.journal.records import Blob


def test_short_values_are_shown_whole() -> None:
    assert beside(Blob.of(b'{"a":1}'), Blob.of(b'{"a":2}')) == ('{"a":1}', '{"a":2}')
    assert beside(None, Blob.of(b"x")) == ("nothing", "x")
    assert brief(Blob.of(b"x" * 300)) == "x" * 199 + "… (300 bytes)"


def test_long_values_are_shown_from_a_little_before_they_differ() -> None:
    one, other = beside(Blob.of(b"a" * 5000 + b"1" + b"b" * 5000), Blob.of(b"a" * 5000 + b"2"))
    assert one == "…" + "a" * 40 + "1" + "b" * 158 + "… (10001 bytes)"
    assert other == "…" + "a" * 40 + "2 (5001 bytes)"


def test_characters_are_not_cut_in_two() -> None:
    one, other = beside(Blob.of_text("é" * 999 + "1"), Blob.of_text("x" + "é" * 999))
    assert (one[:3], other[:3]) == ("ééé", "xéé")
    one, other = beside(Blob.of_text("aé" * 999 + "1"), Blob.of_text("aé" * 999 + "2"))
    assert "\ufffd" not in one + other
    assert (one.partition(" ")[0][-1], other.partition(" ")[0][-1]) == ("1", "2")


def test_what_is_not_at_hand_is_told_by_its_digest() -> None:
    gone = Blob.of(b"x" * 70_000).without_data()
    assert beside(gone, Blob.of(b"y")) == (f"70000 bytes, SHA-256 {gone.sha256[:12]}", "y")


@given(st.text(), st.text(), st.text())
def test_what_differs_is_seen_to_differ(start: str, one: str, other: str) -> None:
    pair = [Blob.of_text(start + end) for end in (one, other)]
    shown = beside(*pair)
    assert (shown[0] == shown[1]) == (pair[0] == pair[1])
    assert all(len(text) <= MAX_CHARS * 10 + 30 for text in shown)
