"""Tokens: unguessable, and never seen where they do not belong."""

import dataclasses

from gateway.endpoint import Endpoint, new_token, token_key


def test_the_token_is_not_in_the_repr() -> None:
    endpoint = Endpoint("unix:/run/gateway.sock", "a-secret")
    for text in (repr(endpoint), str(endpoint), f"{endpoint}", f"{[endpoint]}", f"{dataclasses.replace(endpoint)!r}"):
        assert "a-secret" not in text
        assert "unix:/run/gateway.sock" in text


def test_tokens_have_256_bits_and_never_repeat() -> None:
    tokens = {new_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(len(token) == 43 and token.isascii() for token in tokens)


def test_keys_tell_tokens_apart_and_do_not_tell_them() -> None:
    assert token_key("a") == token_key("a") != token_key("b")
    assert b"a-secret" not in token_key("a-secret")
    assert len(token_key("\ud800" * 10)) == 32
