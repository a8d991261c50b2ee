"""Hides what is nobody else's business in what is shown of a value: by the names of fields, and by how texts look.

For previews and logs. It is a matter of good manners, and no boundary: the host's own secrets are masked by value, in
gateway/secrets.py.
"""

import itertools
import re

from gateway.base import JsonValue

MASK = "***"

PRIVATE_WORDS = frozenset(
    {
        *("password", "passwd", "pwd", "passphrase", "passcode", "pin", "secret", "token", "jwt", "otp"),
        *("authorization", "auth", "credential", "cookie", "signature"),
        *("phone", "mobile", "telephone", "fax", "email", "mail", "address", "street", "postcode", "zip"),
        *("card", "cvv", "cvc", "iban", "ssn", "passport", "birthday", "birthdate", "dob"),
    }
)
"""A field is private when its name has one of these words: `user_email`, `cardNumber`, `X-Auth-Token`."""

PRIVATE_PAIRS = frozenset(
    {"api key", "access key", "private key", "secret key", "session id", "session key", "id card", "id number"}
)
"""And when it has two of these beside each other."""

_JOINED = PRIVATE_WORDS | {pair.replace(" ", "") for pair in PRIVATE_PAIRS}
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_TEXTS = re.compile(
    r"""
      (?P<kept>://[^\s/:@]*:) [^\s/@]+ (?=@)                              # a password in a URL
    | (?P<scheme>\b(?:bearer|basic)\s+) [A-Za-z0-9._~+/=-]{8,}            # credentials of HTTP
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*              # a JSON web token
    | [A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+  # an email address
    | (?<![\w.])\+\d[\d ().-]{6,18}\d(?!\w)                               # a phone number with its country
    | (?P<card>(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-]))
    """,
    re.VERBOSE | re.IGNORECASE,
)


def mask_fields(value: JsonValue) -> JsonValue:
    """A copy in which private fields are `***`, however deep, and so are private parts of other texts.

    An empty field stays as it is, and so do null, true and false.
    """
    match value:
        case dict():
            return {name: _hidden(inner) if is_private(name) else mask_fields(inner) for name, inner in value.items()}
        case list() | tuple():
            return [mask_fields(inner) for inner in value]
        case str():
            return mask_text(value)
    return value


def mask_text(text: str) -> str:
    """The same with `***` for addresses, numbers of cards and phones, and credentials that look like such."""
    return _TEXTS.sub(_masked, text)


def is_private(name: str) -> bool:
    """Whether the name of a field says that its value is private."""
    words = [word.lower() for word in _WORDS.findall(name)]
    pairs = {f"{one} {other}" for one, other in itertools.pairwise(words)}
    singular = {word.removesuffix("s") for word in words}
    return bool(PRIVATE_WORDS & {*words, *singular} or PRIVATE_PAIRS & pairs or "".join(words) in _JOINED)


def _hidden(value: JsonValue) -> JsonValue:
    return value if value is None or isinstance(value, bool) or value in ("", [], {}) else MASK


def _masked(found: re.Match[str]) -> str:
    if found["card"] is not None and not _is_card(found["card"]):
        return found[0]
    return (found["kept"] or found["scheme"] or "") + MASK


def _is_card(text: str) -> bool:
    """By the check digit that all card numbers have."""
    digits = [int(char) for char in reversed(text) if char.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0
