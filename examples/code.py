"""A snippet in the place of many tool calls: it finds its tools, calls them at once, and gives back only the answer."""

from sandbox import Caller, Exec

SNIPPET = """
import asyncio

found = tools.search_tools("stock of a product", limit=1)[0]["id"]
print("found:", found, "as", tools.describe_tool(found)["signature"])

shops = tools.shop.list_shops()
stocks = await asyncio.gather(*(tools.aio.shop.stock(shop=shop, product="lamp") for shop in shops))
print("stocks:", dict(zip(shops, stocks)))

best = max(zip(stocks, shops))[1]
chain = tools.run_chain([
    ("shop:reserve", {"shop": best, "product": "lamp", "quantity": 2}),
    {"tool_id": "shop:confirm", "mapping": {"reservation": "/previous/number"}},
])
try:
    tools.shop.reserve(shop="Nowhere", product="lamp", quantity=1)
except tools.ToolError as error:
    print("refused:", error.code, "-", error)
chain["value"]
"""

STOCK = {"lamp": {"Oslo": 3, "Porto": 11, "Ghent": 0}}

with Exec() as exec:

    @exec.tool(namespace="shop", read_only=True)
    def list_shops() -> list[str]:
        """Every shop."""
        return sorted({shop for stock in STOCK.values() for shop in stock})

    @exec.tool(namespace="shop", read_only=True)
    def stock(shop: str, product: str) -> int:
        """How many of a product a shop has in stock."""
        return STOCK[product][shop]

    @exec.tool(namespace="shop", resource="shop/{shop}", roles=["sales"])
    def reserve(shop: str, product: str, quantity: int) -> dict[str, object]:
        """Put something aside."""
        if STOCK[product].get(shop, 0) < quantity:
            raise LookupError(f"no {product} in {shop}")
        return {"number": f"R-{shop}-{quantity}"}

    @exec.tool(namespace="shop", roles=["sales"])
    def confirm(reservation: str) -> str:
        """Make a reservation final."""
        return f"{reservation} is confirmed"

    ada = Caller(user_id="ada", role="sales")
    result = exec.execute_code(SNIPPET, caller=ada, check=True, limits={"tool_calls": 20, "wall_seconds": 10})
    print(result.stdout, end="")
    print("value:", result.value)
    for call in result.tool_calls:
        print(f"  {call.index} {call.via:<9} {call.tool_id:<15} {call.status}")

    flawed = exec.execute_code("tools.shop.stock(shop='Oslo', product=7)", caller=ada, check=True)
    print("checked first, and not run:", flawed.error and flawed.error.message)
    nobody = exec.execute_code("tools.shop.confirm(reservation='R-1')")
    print("without the role:", nobody.error and nobody.error.message)
