"""Which findings of the type checker are certain: what must fail, and not what may."""

import io
import re
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from runtimes._fit import may_fit

SYNTAX = "invalid-syntax"

_MISMATCH = re.compile(r"(?:Expected|declared type) `(.+?)`.*(?:found|value of type) `(.+)`$", re.DOTALL)
_ATTRIBUTE = re.compile(r"(?:attribute|member) `(\w+)`")
_KEY = re.compile(r'key "(.*)" for TypedDict', re.DOTALL)
_TEXT = re.compile(r"""[rRuU]?('{3}|"{3}|'|")(.*)\1""", re.DOTALL)
_FUNCTIONS = ("def ", "async def ")
_LONGEST_START = 10
_DYNAMIC = frozenset({"exec", "globals", "locals", "vars"})
_SKIPPED = frozenset({tokenize.NL, tokenize.COMMENT})
_ASSIGNMENT = re.compile(r"[^=!<>]?[^=!<>]?=")


class Finding(NamedTuple):
    """One finding of the checker. `line` and `column` count from 1 in the text that was checked."""

    line: int
    column: int
    rule: str
    message: str


def certain(findings: Sequence[Finding], text: str) -> list[Finding]:
    """Those of `findings` on `text` that fail with every value the checker thinks possible."""
    facts = _Facts(findings, text)
    return [found for found in findings if _CERTAIN.get(found.rule, _never)(found, facts)]


class _Facts:
    """What the text's tokens tell. Its syntax tree would tell more, but our parser must not meet a hostile text."""

    def __init__(self, findings: Sequence[Finding], text: str) -> None:
        self.in_functions: set[int] = set()
        """Lines inside of functions."""
        self.mentioned: set[str] = set()
        """Texts and keywords that stand elsewhere than in `value["text"]`, so that they may have become keys."""
        self.spread: set[tuple[int, int]] = set()
        """Where `**` stands."""
        self.is_dynamic = False
        """Names may be bound that cannot be seen."""
        # `box.size = 1` is a finding where nothing declares it; then no use of it is certain to fail.
        stored = (found for found in findings if found.message.startswith("Unresolved attribute"))
        self.stored = {name for found in stored for name in _ATTRIBUTE.findall(found.message)}
        # One for each type of a union: of some of these the checker says nothing, so one may be fine.
        places = Counter((found.line, found.column) for found in findings if found.rule == "not-subscriptable")
        self.of_unions = {place for place, count in places.items() if count > 1}
        tokens = list(_tokens(text))
        self._read_blocks(tokens)
        self._read_words([token for token in tokens if token.type not in _SKIPPED])

    def _read_blocks(self, tokens: list[tokenize.TokenInfo]) -> None:
        blocks, line, was_function = [False], "", False
        for token in tokens:
            if token.type == tokenize.INDENT:
                blocks.append(blocks[-1] or was_function)
            elif token.type == tokenize.DEDENT:
                blocks.pop()
            elif token.type == tokenize.NEWLINE:
                line, was_function = "", line.startswith(_FUNCTIONS)
            elif token.type not in _SKIPPED and len(line) < _LONGEST_START:
                line += f"{token.string} "
            if blocks[-1] or line.startswith(_FUNCTIONS):
                self.in_functions.update(range(token.start[0], token.end[0] + 1))

    def _read_words(self, tokens: list[tokenize.TokenInfo]) -> None:
        depth = 0
        for index, token in enumerate(tokens):
            after = tokens[index + 1].string if index + 1 < len(tokens) else ""
            depth += (token.string == "(") - (token.string == ")")
            if token.type == tokenize.NAME:
                self.is_dynamic |= token.string in _DYNAMIC or (token.string == "import" and after == "*")
                if after == "=" and depth:
                    self.mentioned.add(token.string)
            elif token.type == tokenize.STRING and not _is_lookup(tokens, index):
                self.mentioned.update(found[2] for found in _TEXT.finditer(token.string))
            elif token.string == "**":
                self.spread.add((token.start[0], token.start[1] + 1))


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    try:
        yield from tokenize.generate_tokens(io.StringIO(text).readline)
    except (tokenize.TokenError, SyntaxError):
        return  # the checker says it too


def _is_lookup(tokens: list[tokenize.TokenInfo], index: int) -> bool:
    """Whether the text at `index` is all of the brackets of `value["text"]`, and nothing is assigned to that."""
    before, after = tokens[max(0, index - 2) : index], tokens[index + 1 : index + 3]
    if len(before) < 2 or not after or before[1].string != "[" or after[0].string != "]":
        return False
    holds = before[0].type == tokenize.NAME or before[0].string in (")", "]")
    return holds and not (len(after) > 1 and _ASSIGNMENT.fullmatch(after[1].string))


def _always(_found: Finding, _facts: _Facts) -> bool:
    return True


def _never(_found: Finding, _facts: _Facts) -> bool:
    return False


def _syntax(found: Finding, facts: _Facts) -> bool:
    # At its top level a snippet may return and await.
    if "outside of a function" in found.message and found.message.startswith("`return`"):
        return False
    return "outside of an asynchronous function" not in found.message or found.line in facts.in_functions


def _name(_found: Finding, facts: _Facts) -> bool:
    return not facts.is_dynamic


def _attribute(found: Finding, facts: _Facts) -> bool:
    return not facts.stored.intersection(_ATTRIBUTE.findall(found.message))


def _mismatch(found: Finding, facts: _Facts) -> bool:
    types = _MISMATCH.search(found.message)
    return types is not None and not may_fit(types[1], types[2]) and _argument(found, facts)


def _key(found: Finding, facts: _Facts) -> bool:
    key = _KEY.search(found.message)
    return key is not None and key[1] not in facts.mentioned


def _argument(found: Finding, facts: _Facts) -> bool:
    # Which keys are in a dict that is spread, the checker only guesses; and `update(key=...)` of one may add any.
    return not found.message.endswith("any known parameter") and (found.line, found.column) not in facts.spread


def _operand(found: Finding, facts: _Facts) -> bool:
    # Of a union or of None the checker knows less than it says: a loop or a test elsewhere may have settled it.
    is_one_type = " | " not in found.message and "`None`" not in found.message
    return is_one_type and (found.line, found.column) not in facts.of_unions


_CERTAIN: Mapping[str, Callable[[Finding, _Facts], bool]] = {
    SYNTAX: _syntax,
    "invalid-argument-type": _mismatch,
    "invalid-await": _operand,
    "invalid-typed-dict-key": _key,
    "missing-argument": _argument,
    "missing-attribute": _attribute,
    "missing-typed-dict-key": _always,
    "not-callable": _operand,
    "not-iterable": _operand,
    "not-subscriptable": _operand,
    "parameter-already-assigned": _always,
    "too-many-positional-arguments": _always,
    "unknown-argument": _argument,
    "unknown-typed-dict-constructor-key": _always,
    "unresolved-reference": _name,
    "unsupported-operator": _operand,
}

RULES = frozenset(_CERTAIN) - {SYNTAX}
"""The checker's rules that can find something certain."""
