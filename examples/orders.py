"""Orders that are paid once, whatever happens: a payment with a key, retries, a circuit breaker and a rate limit."""

from gateway.errors import CircuitOpen, RateLimited, ToolUnavailable
from gateway.policies import ExponentialRetry, FieldIdempotency, Policies, StandardBreaker, TokenBucket
from sandbox import Caller, Exec, ToolError

AGENT = """
# A7 stands in the list twice, and the whole list is worked through twice, as agents do.
wanted = [("A7", 1999), ("B2", 500), ("A7", 1999)]
receipts = [[(order, tools.shop.pay(order=order, cents=cents)) for order, cents in wanted] for _ in range(2)]
receipts[0] == receipts[1] and receipts[0]
"""


class PaymentService:
    """Answers every other request; or none at all."""

    def __init__(self) -> None:
        self.charged: list[str] = []
        self.requests = 0
        self.is_down = False

    def charge(self, order: str, cents: int) -> str:
        self.requests += 1
        if self.is_down or self.requests % 2:
            raise ToolUnavailable("the payment service", "it is restarting")
        self.charged.append(order)
        return f"receipt {len(self.charged)} for {cents / 100:.2f}"


service = PaymentService()
careful = Policies(
    idempotency=FieldIdempotency(key_fields=("order",)),
    rate_limit=TokenBucket(calls=10, per_seconds=3600),
    breaker=StandardBreaker(failure_threshold=2, recovery_seconds=60),
    retry=ExponentialRetry(max_attempts=3, base_delay_seconds=0.01),
)
agent = Caller(tenant_id="acme", user_id="agent-1")

with Exec() as exec:

    @exec.tool(namespace="shop", policies=careful)
    def pay(order: str, cents: int) -> str:
        """Charge the customer's card for an order."""
        return service.charge(order, cents)

    print("An agent pays two orders, one of them twice, and does all of it again:")
    result = exec.execute_code(AGENT, caller=agent, allowed_tools=["shop:*"])
    for order, receipt in result.value:
        print(f"  {order}: {receipt}")
    print(f"  {len(result.tool_calls)} calls, {service.requests} requests, charged: {', '.join(service.charged)}")
    tried = [call for call in result.tool_calls if call.attempts]
    reused = [call for call in result.tool_calls if call.usage.get("idempotency_reused")]
    print(
        f"  {len(tried)} reached the service, {sum(call.usage.get('retries', 0) for call in tried)} retries;", end=" "
    )
    print(f"{len(reused)} were given the result of an earlier one")

    print("The same order with another amount is a mistake, and charges nothing:")
    try:
        exec.run_tool("shop:pay", {"order": "A7", "cents": 1}, caller=agent)
    except ToolError as error:
        print(f"  {error.code}")

    print("The service goes down:")
    service.is_down = True
    for number in ("C1", "C2", "C3"):
        requests = service.requests
        try:
            exec.run_tool("shop:pay", {"order": number, "cents": 100}, caller=agent)
        except (ToolUnavailable, CircuitOpen) as error:
            print(f"  {number}: {error.code} after {service.requests - requests} requests")
    print(f"  the circuit is {exec.circuits()['shop:pay']}")

    print("It comes back, and somebody closes the circuit by hand:")
    service.is_down = False
    exec.reset_circuit("shop:pay")
    print(f"  C1: {exec.run_tool('shop:pay', {'order': 'C1', 'cents': 100}, caller=agent)}")

    print("There is room for so many payments in an hour:")
    for later in range(100, 110):
        try:
            exec.run_tool("shop:pay", {"order": f"D{later}", "cents": 1}, caller=agent)
        except RateLimited as error:
            print(f"  D{later}: {error.code}, after {len(service.charged)} payments")
            break
