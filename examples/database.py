"""A database as tools: a fixed query, a fixed change, and a SELECT of the snippet's own that can do no harm."""

import sqlite3
import tempfile
from pathlib import Path

from gateway.providers.sql import SqlDatabase
from sandbox import Exec

SNIPPET = """
for table in tools.shop.schema()["tables"]:
    print(table["name"], [column["name"] for column in table["columns"]])

print(tools.shop.orders_of(customer="Ann", most=2)["rows"])
print(tools.shop.cancel(id=3))

total = tools.shop.query(
    statement="SELECT customer, sum(total) AS total FROM orders WHERE customer IN :names GROUP BY customer",
    arguments={"names": ["Ann", "Bo'; DROP TABLE orders; --"]},
)
print(total["rows"])

for statement in (
    "SELECT 1; DROP TABLE orders",
    "WITH gone AS (DELETE FROM orders RETURNING id) SELECT * FROM gone",
    "ATTACH '/etc/passwd' AS secrets",
    "SELECT load_extension('evil.so')",
    "SELECT * FROM missing",
):
    try:
        tools.shop.query(statement=statement)
    except tools.ToolError as error:
        print(f"{error.code}: {error}")

tools.shop.query(statement="SELECT count(*) AS orders FROM orders")["rows"]
"""

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "shop.db"
    with sqlite3.connect(file) as connection:
        connection.execute(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT NOT NULL, total REAL, state TEXT)"
        )
        orders = [(1, "Ann", 12.5, "sent"), (2, "Bo", 40, "new"), (3, "Ann", 7.5, "new"), (4, "Ann", 3, "new")]
        connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", orders)
    connection.close()

    # What only reads gets a database that cannot write; the one change there is has its own, and its own words.
    reader = SqlDatabase(f"sqlite:///{file}")
    writer = SqlDatabase(f"sqlite:///{file}", read_only=False)

    with Exec() as exec:
        exec.register(
            reader.schema_tool("shop:schema"),
            reader.query_tool("shop:query"),
            reader.tool(
                "shop:orders_of",
                "SELECT id, total FROM orders WHERE customer = :customer ORDER BY id LIMIT :most",
                description="The first orders of a customer.",
            ),
            writer.tool(
                "shop:cancel",
                "UPDATE orders SET state = 'cancelled' WHERE id = :id AND state = 'new'",
                description="Cancel an order that was not sent yet.",
            ),
        )
        result = exec.execute_code(SNIPPET)
        print(result.stdout, end="")
        print("value:", result.value)
