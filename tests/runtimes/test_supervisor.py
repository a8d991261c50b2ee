"""What comes out of a guest is bounded, and its names are plain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.artifacts import MAX_ARTIFACT_BYTES, MAX_ARTIFACTS, is_plain
from gateway.errors import ProtocolError
from gateway.frames import StreamName
from runtimes import supervisor
from runtimes.supervisor import Collected


@given(st.integers(1, 50), st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=20))))
def test_the_beginning_of_each_stream_is_kept(limit: int, chunks: list[tuple[StreamName, bytes]]) -> None:
    told: dict[StreamName, bytes] = {"stdout": b"", "stderr": b""}

    def on_output(stream: StreamName, data: bytes) -> None:
        assert data
        told[stream] += data

    collected = Collected(limit, on_output)
    for stream, data in chunks:
        collected.output(stream, data)
    for name, kept in (("stdout", collected.stdout), ("stderr", collected.stderr)):
        whole = b"".join(data for stream, data in chunks if stream == name)
        assert bytes(kept) == whole[:limit]
        assert (name in collected.truncated) == (len(whole) > limit)
    assert told == {"stdout": bytes(collected.stdout), "stderr": bytes(collected.stderr)}


def test_no_limit_keeps_everything() -> None:
    collected = Collected(None)
    assert not collected.output("stdout", b"x" * (8 << 20))
    assert len(collected.stdout) == 8 << 20
    assert collected.truncated == set()


def test_a_flood_is_told_from_a_long_output() -> None:
    collected = Collected(1000)
    assert not collected.output("stdout", b"x" * (1 << 20))
    assert not collected.output("stderr", b"x" * 1000)
    assert collected.output("stdout", b"x" * (1 << 20))
    assert len(collected.stdout) == 1000


@pytest.mark.parametrize(
    "path",
    ["a", "a/b", ".hidden", "...", "a b", "ü/日本.txt", "-rf", "a\\b", "C:x", "a\n", "x" * 255, "/".join("a" * 512)],
)
def test_plain_paths(path: str) -> None:
    assert is_plain(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "./a",
        "a/..",
        "../a",
        "a/./b",
        "a\0",
        "x" * 256,
        "ü" * 128,
        "a/" * 600 + "a",
    ],
)
def test_paths_that_are_not_plain(path: str) -> None:
    assert not is_plain(path)


@given(st.text(max_size=30))
def test_a_plain_path_stays_below_its_folder(path: str) -> None:
    if is_plain(path):
        parts = path.split("/")
        assert all(part not in {"", ".", ".."} for part in parts)
        assert "\0" not in path


def test_artifacts_are_put_together_from_their_chunks() -> None:
    collected = Collected(None)
    for data in (b"one", b"", b"two"):
        collected.artifact("a/b", data)
    collected.artifact("empty", b"")
    assert collected.artifacts == {"a/b": b"onetwo", "empty": b""}


def test_artifacts_are_bounded_in_number() -> None:
    collected = Collected(None)
    for number in range(MAX_ARTIFACTS):
        collected.artifact(str(number), b"")
    with pytest.raises(ProtocolError, match="more than 100 artifacts"):
        collected.artifact("one more", b"")


def test_artifacts_are_bounded_in_size() -> None:
    collected = Collected(None)
    collected.artifact("a", bytes(MAX_ARTIFACT_BYTES - 1))
    collected.artifact("b", b"1")
    with pytest.raises(ProtocolError, match="16777216 bytes"):
        collected.artifact("a", b"1")


def test_a_refused_path_is_shown_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "MAX_ARTIFACTS", 1)
    with pytest.raises(ProtocolError) as caught:
        Collected(None).artifact("../" + "x" * 5000, b"")
    assert len(str(caught.value)) < 200
