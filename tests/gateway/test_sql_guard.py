"""What the guard takes for reading, for writing, and not at all."""

import contextlib
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidInput
from gateway.providers.sql.guard import read, read_trusted

READS = {
    "postgres": [
        "SELECT * FROM t WHERE id = :id AND d > CAST(:day AS date) LIMIT :n",
        "SELECT a::int, b->>'x', c @> '{}', data #>> '{a}' FROM t",
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM r WHERE n<5) SELECT * FROM r",
        "SELECT count(*) FILTER (WHERE a>1), row_number() OVER (PARTITION BY b ORDER BY c) FROM t",
        "SELECT interval '1 day', date '2024-01-01', now() - interval '1 week'",
        "SELECT 'a:b', ':c', 'it''s' -- a comment; DROP TABLE t\n, 1 /* DELETE FROM t */",
        "VALUES (1), (2)",
        "TABLE t",
        "(SELECT 1) UNION ALL (SELECT 2) ORDER BY 1",
        "SELECT * FROM t WHERE x = ANY(:ids) AND y IN :more AND z BETWEEN 1 AND 2",
        "SELECT * FROM generate_series(1,3) AS g(x)",
        "SELECT DISTINCT ON (a) a, b FROM t ORDER BY a, b DESC NULLS LAST FETCH FIRST 5 ROWS ONLY",
        "SELECT string_agg(x, ',' ORDER BY x) FROM t GROUP BY GROUPING SETS ((a),(b)) HAVING count(*) > 1",
        "SELECT a[1:2], ARRAY[1,2], (x).y, ROW(1,2) FROM t TABLESAMPLE SYSTEM (10)",
        "SELECT CASE WHEN a THEN 1 ELSE 2 END, coalesce(a,b), extract(year FROM d), d AT TIME ZONE 'UTC' FROM t",
        "SELECT jsonb_agg(e) FROM t, LATERAL jsonb_array_elements(t.j) AS e(x)",
        "SELECT x ILIKE '%a%', x ~ '^a', x IS DISTINCT FROM y, EXISTS (SELECT 1) FROM t",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY x) FROM t",
        "SELECT * FROM a JOIN b USING (id) LEFT JOIN c ON a.x=c.x CROSS JOIN d NATURAL JOIN e;",
        "SELECT pg_catalog.lower('x'), to_tsvector('english', x) @@ plainto_tsquery('a') FROM t",
        "SELECT sum(x) OVER w FROM t WINDOW w AS (PARTITION BY y ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)",
        'SELECT "delete", "into" FROM "update"',
    ],
    "mysql": [
        "SELECT date_format(now(), '%Y-%m'), group_concat(a ORDER BY b SEPARATOR ';') FROM t",
        "SELECT x FROM t WHERE x REGEXP '^a' AND `or der` <> \"x\"",
        "SELECT * FROM JSON_TABLE('[1]', '$[*]' COLUMNS(a INT PATH '$')) AS j",
        "SELECT a, j->>'$.x' FROM t USE INDEX (i) WHERE d > now() - INTERVAL 1 DAY",
        "SELECT 'it''s \\'x\\'', if(a,1,2), ifnull(a,b), 5 DIV 2, @@version LIMIT 5,10",
        "SELECT MATCH(a) AGAINST('x' IN BOOLEAN MODE), x COLLATE utf8mb4_bin, convert(x USING utf8mb4) FROM t",
    ],
    "sqlite": [
        "SELECT strftime('%Y-%m', d), julianday(d), [odd : name] FROM t",
        "SELECT key, value FROM json_each('[1]')",
        "SELECT a || b, x GLOB 'a*', rowid FROM t WHERE x MATCH 'y'",
        "SELECT group_concat(a, ';'), total(x), iif(a,b,c), typeof(x) FROM t LIMIT 5 OFFSET 2",
    ],
}
WRITES = [
    ("postgres", "INSERT INTO t (a) VALUES (:a) ON CONFLICT (a) DO UPDATE SET b = EXCLUDED.b RETURNING id"),
    ("postgres", "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x"),
    ("postgres", "WITH x AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM x"),
    ("postgres", "SELECT * FROM (WITH x AS (UPDATE t SET a = 1 RETURNING *) SELECT * FROM x) AS y"),
    ("postgres", "DELETE FROM t USING s WHERE t.id = s.id"),
    ("postgres", "MERGE INTO t USING s ON t.a=s.a WHEN MATCHED THEN UPDATE SET b=s.b WHEN NOT MATCHED THEN DO NOTHING"),
    ("mysql", "INSERT INTO t (a) VALUES (:a) ON DUPLICATE KEY UPDATE a = VALUES(a)"),
    ("mysql", "UPDATE t SET a = :a ORDER BY b LIMIT 5"),
    ("sqlite", "INSERT OR REPLACE INTO t VALUES (:a)"),
    ("sqlite", "WITH x AS (SELECT 1) DELETE FROM t WHERE a IN (SELECT * FROM x)"),
]
REFUSED = {
    "postgres": [
        "SELECT 1; DELETE FROM t",
        "SELECT 1--1\n; DELETE FROM t",
        "SELECT * INTO x FROM t",
        "SELECT * FROM t FOR UPDATE",
        "SELECT * FROM (SELECT * FROM t FOR SHARE) x",
        "EXPLAIN ANALYZE DELETE FROM t",
        "COPY t TO PROGRAM 'id'",
        "COPY t FROM '/etc/passwd'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT * FROM pg_read_file('/etc/passwd')",
        "SELECT * FROM pg_ls_dir('/') AS f(name)",
        "SELECT \"pg_read_file\"('/etc/passwd')",
        "SELECT pg_catalog.pg_read_file('/etc/passwd')",
        "INSERT INTO t SELECT pg_read_file('/etc/passwd')",
        "SELECT (pg_catalog.set_config('a','b',false))",
        "SELECT lo_import('/etc/passwd')",
        "SELECT lo_export(1,'/x')",
        "SELECT dblink('x','y')",
        "SELECT * FROM dblink('x','y') AS t(a int)",
        "SELECT query_to_xml('delete from t',true,true,'')",
        "SELECT ts_stat('delete from t')",
        "SELECT pg_sleep(10)",
        "SELECT nextval('s')",
        "SELECT pg_terminate_backend(1)",
        "SELECT pg_advisory_lock(1)",
        "SELECT my_schema.lower('x')",
        "SELECT * FROM my_schema.count('x')",
        "SELECT E'a\\'b'",
        "SELECT 1e'\\''; DELETE FROM t --'",
        "SELECT U&'\\0061'",
        "SELECT $$x$$",
        "SELECT $a$x$a$",
        "SELECT 1 /* /* */ ; DELETE FROM t */",
        "SELECT 'open",
        'SELECT "open',
        "SELECT $1",
        "SELECT ?",
        "SELECT x FROM t WHERE x = %(y)s",
        "SELECT 1\x00",
        "CREATE TABLE x (a int)",
        "DROP TABLE t",
        "TRUNCATE t",
        "DO 'x'",
        "CALL p()",
        "SET x = 1",
        "BEGIN",
        "COMMIT",
        "GRANT ALL ON t TO x",
        "LOCK TABLE t",
        "VACUUM",
        "PREPARE x AS DELETE FROM t",
        "EXECUTE x",
        "NOTIFY x",
        "",
        "-- nothing",
        ";",
        "SELECT " + "(" * 3000 + "1" + ")" * 3000,
        "SELECT " + "- " * 4000 + "1",
        "SELECT FROM WHERE",
    ],
    "mysql": [
        "SELECT 1 INTO OUTFILE '/tmp/x'",
        "SELECT 1 INTO DUMPFILE '/tmp/x'",
        "SELECT 1--1 INTO OUTFILE '/tmp/x'",
        "SELECT 1 /*! INTO OUTFILE '/tmp/x' */",
        "SELECT 1 /*!50000 INTO OUTFILE '/tmp/x' */",
        "SELECT 1 /*M!100000 INTO OUTFILE '/tmp/x' */",
        "SELECT /*+ SET_VAR(max_statement_time=0) */ 1",
        "SET STATEMENT max_statement_time=0 FOR SELECT 1",
        "SELECT 1 # x",
        "SELECT LOAD_FILE('/etc/passwd')",
        "SELECT `LOAD_FILE`('/etc/passwd')",
        "SELECT LOAD_FILE ('/etc/passwd')",
        "INSERT INTO t SELECT LOAD_FILE('/etc/passwd')",
        "LOAD DATA INFILE 'x' INTO TABLE t",
        "LOAD DATA LOCAL INFILE 'x' INTO TABLE t",
        "SELECT SLEEP(10)",
        "SELECT BENCHMARK(1000000000, 1)",
        "SELECT GET_LOCK('a', 1)",
        "SELECT @x := 1",
        "SELECT a FROM t INTO @v",
        "SELECT 1 FROM t LOCK IN SHARE MODE",
        "SELECT NEXT VALUE FOR s",
        "SELECT last_insert_id(5)",
        "HANDLER t OPEN",
        "DO SLEEP(1)",
        "KILL 5",
        "SHOW GRANTS",
        "SELECT 'a\\",
    ],
    "sqlite": [
        "ATTACH 'x' AS y",
        "SELECT 1; ATTACH 'x' AS y",
        "PRAGMA query_only = 0",
        "PRAGMA table_info(t)",
        "SELECT load_extension('x')",
        "SELECT writefile('x','y')",
        "SELECT fts3_tokenizer('x')",
        "SELECT * FROM pragma_journal_mode('delete')",
        "VACUUM INTO 'x'",
        "REINDEX",
        "SELECT 1 [",
    ],
}


def listed(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(dialect, statement) for dialect, statements in table.items() for statement in statements]


@pytest.mark.parametrize(("dialect", "statement"), listed(READS))
def test_reading_is_known_as_such(dialect: str, statement: str) -> None:
    assert read(statement, dialect).is_read


@pytest.mark.parametrize(("dialect", "statement"), WRITES)
def test_writes_are_known_wherever_they_hide(dialect: str, statement: str) -> None:
    assert not read(statement, dialect).is_read


@pytest.mark.parametrize(("dialect", "statement"), listed(REFUSED))
def test_the_rest_is_refused(dialect: str, statement: str) -> None:
    with pytest.raises(InvalidInput):
        read(statement, dialect)


def test_the_refusal_says_what_to_do() -> None:
    with pytest.raises(InvalidInput, match="more than one statement; send them one by one"):
        read("SELECT 1; SELECT 2", "sqlite")
    with pytest.raises(
        InvalidInput, match="pg_sleep is not known to be free of side effects; the operator can allow it"
    ):
        read("SELECT pg_sleep(1)", "postgres")
    with pytest.raises(InvalidInput, match="line 1, column"):
        read("SELECT a b c", "sqlite")
    with pytest.raises(InvalidInput, match="begins with DROP is not taken; use SELECT"):
        read("drop table t", "sqlite")


def test_the_operator_can_allow_functions() -> None:
    assert read("SELECT my.score(x), pg_sleep(0) FROM t", "postgres", frozenset({"my.score", "pg_sleep"})).is_read
    with pytest.raises(InvalidInput, match=r"my\.score"):
        read("SELECT my.score(x) FROM t", "postgres", frozenset({"score"}))


def test_binds_are_found_where_they_are_and_nowhere_else() -> None:
    found = read(
        "SELECT ':no', \":no\", x::int, a[1:2] FROM t -- :no\n WHERE a = :a AND b IN :b AND c = :a", "postgres"
    )
    assert found.binds == ("a", "b")
    assert found.lists == {"b"}
    assert found.text.startswith("SELECT '\\:no', \"\\:no\", x\\:\\:int, a[1\\:2] FROM t")


def test_types_of_binds_come_from_casts_and_limits() -> None:
    found = read("SELECT CAST(:d AS date), :n::bigint, :f::numeric, :b::boolean, :x FROM t LIMIT :l", "postgres")
    expected = {"d": "string", "n": "integer", "f": "number", "b": "boolean", "l": "integer"}
    assert dict(found.types) == expected


def test_the_operators_own_statement_may_be_anything_that_is_one() -> None:
    for statement in ("CREATE TABLE x (a int)", "CALL p(:x)", "SELECT my_function(:x)", "VACUUM"):
        found, why = read_trusted(statement, "postgres")
        assert not found.is_read
        assert why
    assert read_trusted("SELECT 1", "postgres")[1] == ""
    for several in ("SELECT 1; SELECT 2", "CALL p(); DROP TABLE t"):
        with pytest.raises(InvalidInput):
            read_trusted(several, "postgres")


FRAGMENTS = st.sampled_from(
    [
        *(
            "SELECT",
            "*",
            "FROM t",
            "1",
            "'",
            "''",
            '"',
            "`",
            "[",
            "]",
            "--",
            "\n",
            "/*",
            "*/",
            "/*!",
            ";",
            "DELETE FROM t",
        ),
        *(
            "INSERT INTO t VALUES (9)",
            "UPDATE t SET a=0",
            "DROP TABLE t",
            "WITH x AS (",
            ")",
            "(",
            ",",
            ":a",
            "a",
            "\\",
        ),
        *("UNION", "INTO", "RETURNING a", "E'", "$$", "PRAGMA query_only=0", "ATTACH ':memory:' AS y", " ", "\r", "#"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAGMENTS, max_size=12).map(" ".join) | st.lists(FRAGMENTS, max_size=12).map("".join))
def test_whatever_is_taken_for_reading_changes_nothing(source: str) -> None:
    """On a database that would allow everything; `executescript` runs every statement that SQLite sees."""
    try:
        statement = read(source, "sqlite")
    except InvalidInput:
        return
    if not statement.is_read:
        return
    connection = sqlite3.connect(":memory:")
    connection.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2)")
    before = list(connection.iterdump())
    with contextlib.suppress(sqlite3.Error):
        connection.executescript(statement.text.replace("\\:", ":"))
    assert list(connection.iterdump()) == before
    assert len(connection.execute("PRAGMA database_list").fetchall()) == 1
    connection.close()


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60), st.sampled_from(["postgres", "mysql", "sqlite"]))
def test_any_text_is_read_or_refused(source: str, dialect: str) -> None:
    for statement in (source, f"SELECT {source}", f"SELECT '{source}'"):
        with contextlib.suppress(InvalidInput):
            read(statement, dialect)
