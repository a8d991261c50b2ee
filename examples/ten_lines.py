from sandbox import Exec

with Exec() as exec:

    @exec.tool
    def price(city: str, nights: int) -> int:
        """What a stay costs, in euros."""
        return {"Oslo": 140, "Porto": 80}[city] * nights

    result = exec.execute_code("min(['Oslo', 'Porto'], key=lambda city: tools.price(city=city, nights=3))")
    print(result.value, "after", len(result.tool_calls), "tool calls, on backend", result.backend)
