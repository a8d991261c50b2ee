"""Words of tool names and queries, and texts cut to what a model should read."""

import keyword
import re
import unicodedata

_BORDER = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=\D)(?=\d)|(?<=\d)(?=\D)")
_WORD = re.compile(r"[^\W_]+")
_JOINER = "\u200d"


def words(text: str) -> list[str]:
    """Lower-case words: split at everything that is no letter or digit, and at camelCase and digit borders."""
    return [word.lower() for word in _WORD.findall(_BORDER.sub(" ", text))]


def summary(text: str, limit: int = 200) -> str:
    """The first paragraph on one line, cut at a word border to at most `limit` characters."""
    # More than this cannot be shown, and a description may be megabytes.
    paragraph = " ".join(text[: 20 * limit].strip().split("\n\n", 1)[0].split())
    if len(paragraph) <= limit:
        return paragraph
    head = cut(paragraph, limit)[:-1]
    return (head[: head.rfind(" ")] if " " in head else head).rstrip(" ,;:.") + "…"


def cut(text: str, limit: int) -> str:
    """At most `limit` characters, the last one `…` where something is missing; accents and joined emoji stay whole."""
    if len(text) <= limit:
        return text
    end = limit - 1
    while end and _belongs_together(text[end - 1], text[end]):
        end -= 1
    return text[:end] + "…"


def is_argument(name: str) -> bool:
    """Whether a call can pass an argument of this name by keyword, and a class body can declare it."""
    # Python normalises identifiers, and mangles some of them inside classes: under such a name the tool gets another.
    return is_name(name) and name == unicodedata.normalize("NFKC", name) and not name.startswith("__")


def is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _belongs_together(before: str, after: str) -> bool:
    return _JOINER in (before, after) or unicodedata.category(after)[0] == "M"
