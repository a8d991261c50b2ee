"""Words of tool names and queries, and the first words of a description."""

import re

_BORDER = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=\D)(?=\d)|(?<=\d)(?=\D)")
_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Lower-case words: split at everything that is no letter or digit, and at camelCase and digit borders."""
    return [word.lower() for word in _WORD.findall(_BORDER.sub(" ", text))]


def summary(text: str, limit: int = 200) -> str:
    """The first paragraph on one line, cut at a word border to at most `limit` characters."""
    paragraph = " ".join(text.strip().split("\n\n", 1)[0].split())
    if len(paragraph) <= limit:
        return paragraph
    cut = paragraph[:limit]
    return (cut[: cut.rfind(" ")] if " " in cut else cut[:-1]).rstrip(",;:.") + "…"
