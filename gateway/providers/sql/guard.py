"""What an SQL statement does, read before a database sees it: one statement, its named binds, whether it only reads.

Two readers have to agree. The scanner splits the text into comments, quoted parts, binds and the rest, by rules so
narrow that no database can read them differently, and drops the comments; sqlglot parses what is left. Anything that
is not known to be harmless is refused.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from gateway.errors import InvalidInput
from gateway.providers.sql.functions import READING
from gateway.providers.sql.tables import tables_of, verbs_of

_READS = frozenset({"SELECT", "WITH", "VALUES", "TABLE", "("})
_WRITES = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE"})
_WRITING = (exp.Insert, exp.Update, exp.Delete, exp.Merge)

_BLOCK_COMMENT = r"/\*(?![!+M])(?:(?!/\*)[\s\S])*?\*/"  # neither nested nor one that MySQL or MariaDB executes
_GROUPS = {
    "postgres": {
        "comment": rf"--[^\r\n]*|{_BLOCK_COMMENT}",
        "quoted": r"""(?<![eE&])'(?:[^']|'')*'|(?<!&)"(?:[^"]|"")*\"""",  # E'' and U&'' have escapes
        "refused": r"""--|/\*|\*/|\\|\$\w*\$|['"]""",
    },
    "mysql": {
        "comment": rf"--(?=\s|\Z)[^\r\n]*|{_BLOCK_COMMENT}",  # 1--1 is 2 there
        "quoted": r"""'(?:[^'\\]|''|\\[\s\S])*'|"(?:[^"\\]|""|\\[\s\S])*"|`(?:[^`]|``)*`""",
        "refused": r"""--|/\*|\*/|\\|\#|['"`]""",
    },
    "sqlite": {
        "comment": rf"--[^\r\n]*|{_BLOCK_COMMENT}",
        "quoted": r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]""",
        "refused": r"""--|/\*|\*/|\\|['"`\[\]]""",
    },
}
_REST = {
    "control": r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]",
    "end": ";",
    "bind": r"(?<![:\w]):[A-Za-z_]\w*",
    "space": r"\s+",
    "word": r"\w+",
    "other": r"[\s\S]",
}

_STRUCTURE = (
    *(exp.Alias, exp.Aliases, exp.AtTimeZone, exp.CTE, exp.Case, exp.ColumnDef, exp.Condition, exp.Cube, exp.DataType),
    *(exp.DataTypeParam, exp.Distinct, exp.Fetch, exp.Filter, exp.From, exp.Group, exp.GroupingSets, exp.Having),
    *(exp.Identifier, exp.IgnoreNulls, exp.Interval, exp.IntervalSpan, exp.Join, exp.JSONColumnDef, exp.JSONKeyValue),
    *(exp.JSONPath, exp.JSONPathPart, exp.JSONSchema, exp.JSONValue, exp.Lateral, exp.Limit, exp.Offset, exp.Order),
    *(exp.Ordered, exp.Query, exp.RespectNulls, exp.Rollup, exp.Slice, exp.Star, exp.Table, exp.TableAlias),
    *(exp.TableSample, exp.Tuple, exp.Values, exp.Var, exp.WeekStart, exp.Where, exp.WindowSpec, exp.With),
    *(exp.IndexTableHint, exp.LimitOptions, exp.WithinGroup),
    *(*_WRITING, exp.OnConflict, exp.Returning, exp.Schema, exp.When, exp.Whens),
)
"""What a statement is made of. The rest of what sqlglot knows defines, locks, or belongs to other databases."""

_SIDE_EFFECTS = (exp.PropertyEQ, exp.NextValueFor)  # @x := 1 and NEXT VALUE FOR are conditions by their type

_JSON_TYPES = {
    "integer": exp.DataType.INTEGER_TYPES,
    "number": exp.DataType.REAL_TYPES,
    "string": exp.DataType.TEXT_TYPES | exp.DataType.TEMPORAL_TYPES | {exp.DataType.Type.UUID},
    "boolean": {exp.DataType.Type.BOOLEAN},
}


@dataclass(frozen=True, slots=True)
class Statement:
    """`text` is for `sqlalchemy.text`: without comments, and with no colon that is not escaped but those of `binds`.

    `lists` are the binds that stand for a whole list, as in `IN :ids`; `types` are the JSON types that casts and LIMIT
    give to binds. `tables` and `verbs` (select, insert …) are what it uses, None where it could not be read.
    """

    text: str
    binds: tuple[str, ...]
    is_read: bool
    lists: frozenset[str] = frozenset()
    types: tuple[tuple[str, str], ...] = ()
    tables: frozenset[str] | None = None
    verbs: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class _Scanned:
    plain: str
    text: str
    binds: tuple[str, ...]
    words: tuple[str, ...]


@functools.lru_cache(maxsize=512)
def read(source: str, dialect: str, functions: frozenset[str] = frozenset()) -> Statement:
    """The one statement that a caller wrote. `functions` are more, in lower case, that it may call.

    `dialect` is postgres, mysql or sqlite. Raises InvalidInput when the statement cannot be read for certain, and when
    it does anything but to read, insert, update, merge or delete rows.
    """
    scanned = _scan(source, dialect)
    if scanned.words[0] not in _READS | _WRITES:
        raise InvalidInput(f"a statement that begins with {scanned.words[0][:40]} is not taken; use SELECT")
    tree = _parse(scanned, dialect)
    is_read = tree.find(*_WRITING) is None
    if is_read and "INTO" in scanned.words:
        raise InvalidInput("INTO is taken in INSERT and MERGE only")  # whatever sqlglot makes of it
    for refusal in filter(None, (_refusal(node, READING[dialect] | functions) for node in tree.walk())):
        raise InvalidInput(refusal)
    return Statement(
        scanned.text,
        scanned.binds,
        is_read,
        frozenset(_lists(tree)),
        tuple(_types(tree)),
        tables_of(tree, dialect),
        verbs_of(tree),
    )


def read_trusted(source: str, dialect: str, functions: frozenset[str] = frozenset()) -> tuple[Statement, str]:
    """The one statement that the operator wrote, of any kind, and why it counts as one that writes; empty if it reads.

    Raises InvalidInput for several statements, and for text that no two databases read alike.
    """
    try:
        statement = read(source, dialect, functions)
    except InvalidInput as refused:
        scanned = _scan(source, dialect)
        return Statement(scanned.text, scanned.binds, is_read=False), refused.message
    return statement, "" if statement.is_read else "it writes"


def _scan(source: str, dialect: str) -> _Scanned:
    text, plain, binds, words = [], [], [], []
    ended = False
    for match in _scanner(dialect).finditer(source):
        kind, part = match.lastgroup, match.group()
        if kind in ("refused", "control"):
            raise InvalidInput(f"{part!r} at character {match.start()} is not taken: {_WHY}")
        if ended and kind not in ("space", "comment", "end"):
            raise InvalidInput("there is more than one statement; send them one by one")
        ended = ended or kind == "end"
        part = " " if kind in ("comment", "end") else part
        plain.append(part)
        text.append(part if kind == "bind" else part.replace(":", "\\:"))
        if kind == "bind":
            binds.append(part[1:])
        elif kind in ("word", "other"):
            words.append(part.upper())
    if not words:
        raise InvalidInput("the statement is empty")
    return _Scanned("".join(plain), "".join(text), tuple(dict.fromkeys(binds)), tuple(words))


_WHY = (
    "open quotes, escapes, dollar quotes and unusual comments are read differently by different databases; bind values"
)


@functools.cache
def _scanner(dialect: str) -> re.Pattern[str]:
    """Every character belongs to some group, so the matches follow each other without a gap."""
    groups = _GROUPS[dialect] | _REST
    return re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in groups.items()))


def _parse(scanned: _Scanned, dialect: str) -> exp.Expr:
    try:
        trees = sqlglot.parse(scanned.plain, dialect=dialect)
    except SqlglotError as exc:
        raise InvalidInput(f"the statement cannot be parsed: {_parse_error(exc)}") from exc
    except RecursionError as exc:
        raise InvalidInput("the statement is nested too deeply") from exc
    if len(trees) != 1 or trees[0] is None:
        raise InvalidInput("there must be exactly one statement")
    tree = trees[0]
    if {node.name for node in tree.find_all(exp.Placeholder)} != set(scanned.binds):
        raise InvalidInput("values are bound by name only, as in `WHERE id = :id`")
    return tree


def _parse_error(exc: SqlglotError) -> str:
    errors = getattr(exc, "errors", None)
    if not errors:
        return "it breaks off in a quoted part"
    first = errors[0]
    return f"{first['description']} at line {first['line']}, column {first['col']}"


def _refusal(node: exp.Expr, functions: frozenset[str]) -> str:
    if isinstance(node, exp.Parameter):
        return "values are bound by name only, as in `WHERE id = :id`"
    if isinstance(node, _SIDE_EFFECTS) or not isinstance(node, _STRUCTURE):
        return f"{node.key.upper()} is not taken in a caller's statement"
    if isinstance(node, exp.Select) and (node.args.get("into") or node.args.get("locks")):
        return "neither INTO nor locks are taken in a SELECT"
    if isinstance(node, exp.Func) and not isinstance(node, exp.Connector):
        return _function_refusal(node, functions)
    return ""


def _function_refusal(node: exp.Func, functions: frozenset[str]) -> str:
    parent = node.parent
    qualifier = parent.this.sql().lower() if isinstance(parent, exp.Dot) and parent.expression is node else ""
    if isinstance(parent, exp.Table) and parent.args.get("db"):
        qualifier = parent.db.lower()
    name = (node.name if isinstance(node, exp.Anonymous | exp.AnonymousAggFunc) else node.sql_name()).lower()
    if qualifier and qualifier != "pg_catalog":
        name = f"{qualifier}.{name}"
    known = not isinstance(node, exp.Anonymous | exp.AnonymousAggFunc) and "." not in name
    if known or name in functions:
        return ""
    return f"the function {name[:80]} is not known to be free of side effects; the operator can allow it by its name"


def _lists(tree: exp.Expr) -> Iterator[str]:
    for node in tree.find_all(exp.In):
        field = node.args.get("field")
        if isinstance(field, exp.Placeholder):
            yield field.name


def _types(tree: exp.Expr) -> Iterator[tuple[str, str]]:
    for node in tree.find_all(exp.Placeholder):
        parent = node.parent
        if isinstance(parent, exp.Limit | exp.Offset):
            yield node.name, "integer"
        elif isinstance(parent, exp.Cast):
            kind = parent.to.this
            yield from ((node.name, json) for json, kinds in _JSON_TYPES.items() if kind in kinds)
