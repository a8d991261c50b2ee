"""Which tables a parsed statement names, and what it does to rows: for rules that allow only some of them."""

from collections.abc import Iterator

from sqlglot import exp

_VERBS = {exp.Insert: "insert", exp.Update: "update", exp.Delete: "delete", exp.Merge: "merge"}


def verbs_of(tree: exp.Expr) -> frozenset[str]:
    """select, insert, update, delete and merge, as far as they occur in the statement, however deep."""
    found = {verb for kind, verb in _VERBS.items() if tree.find(kind) is not None}
    if tree.find(exp.OnConflict) is not None:
        found.add("update")
    return frozenset(found | {"select"} if tree.find(exp.Query) is not None or not found else found)


def tables_of(tree: exp.Expr, dialect: str) -> frozenset[str]:
    """The names of its tables and views, with their schema where it is written.

    What a WITH defines is no table. Where that is not certain, as in statements that write, its names are among the
    tables: what is named here without need is refused, and what is missing would be let through.
    """
    writes = any(tree.find(kind) is not None for kind in _VERBS)
    found = {
        _name(table.parts, dialect)
        for table in tree.find_all(exp.Table)
        if not isinstance(table.this, exp.Func) and (writes or not _is_defined(table))
    }
    return frozenset(found | set(_after_in(tree, dialect)))


def _after_in(tree: exp.Expr, dialect: str) -> Iterator[str]:
    """SQLite reads a table in `x IN name`."""
    for node in tree.find_all(exp.In):
        field = node.args.get("field")
        if isinstance(field, exp.Column):
            yield _name(field.parts, dialect)


def _name(parts: list[exp.Expr], dialect: str) -> str:
    return ".".join(_folded(part, dialect) for part in parts)


def _folded(part: exp.Expr, dialect: str) -> str:
    """As the database compares it. MySQL's names are left as they are: on most systems their case counts."""
    quoted = isinstance(part, exp.Identifier) and part.quoted
    folds = dialect == "sqlite" or (dialect == "postgres" and not quoted)
    return part.name.lower() if folds else part.name


def _is_defined(table: exp.Table) -> bool:
    """Whether a WITH around it defines this name for it, in the very same spelling."""
    if len(table.parts) != 1:
        return False
    node: exp.Expr = table
    while node.parent is not None:
        below, node = node, node.parent
        clause = node.args.get("with_")
        if clause is not None and below is not clause and any(_defines(cte, table) for cte in clause.expressions):
            return True
        if isinstance(node, exp.With) and _is_defined_before(node, below, table):
            return True
    return False


def _is_defined_before(clause: exp.With, below: exp.Expr, table: exp.Table) -> bool:
    """Within a WITH only what stands before is there, and in a recursive one the query itself."""
    for cte in clause.expressions:
        if cte is below:
            return bool(clause.args.get("recursive")) and _defines(cte, table)
        if _defines(cte, table):
            return True
    return False


def _defines(cte: exp.Expr, table: exp.Table) -> bool:
    alias = cte.args["alias"].this
    name = table.this
    return bool(alias.name == name.name and alias.args.get("quoted") == name.args.get("quoted"))
