"""Tools are plain functions: namespaces, sync and async, pydantic arguments, and errors a snippet can catch."""

import asyncio
from typing import Literal

from pydantic import BaseModel, Field

from sandbox import Exec, ToolError, ToolExample


class Address(BaseModel):
    """Where a parcel goes."""

    city: str
    country: Literal["NO", "PT"]


class Quote(BaseModel):
    euros: float
    days: int = Field(description="working days until delivery")


SNIPPET = """
print(tools.describe_tool("post:quote", "schema")["input_schema"]["required"])

parcels = [("Oslo", "NO", 2.0), ("Porto", "PT", 30.5)]
for city, country, kilos in parcels:
    try:
        quote = tools.post.quote(to={"city": city, "country": country}, kilos=kilos)
        print(city, quote["euros"], "euros in", quote["days"], "days")
    except tools.ToolError as error:
        print(city, "failed:", error.code, "-", error, "- retry:", error.retryable)

try:
    tools.post.quote(to={"city": "Rome", "country": "IT"}, kilos="heavy")
except tools.ToolError as error:
    for misfit in error.details["errors"]:
        print("bad argument:", misfit["path"], misfit["message"])

await tools.aio.now(zone="UTC")
"""

with Exec() as exec:

    @exec.tool(
        namespace="post",
        tags=["shipping"],
        examples=[ToolExample("a light parcel", {"to": {"city": "Oslo", "country": "NO"}, "kilos": 1.0})],
        timeout_seconds=5,
    )
    def quote(to: Address, kilos: float) -> Quote:
        """What it costs to send a parcel. Arguments arrive as the types named here."""
        if kilos > 30:
            raise ValueError(f"{kilos:g} kg to {to.city} is over 30 kg; split the parcel")
        return Quote(euros=4.5 + 2 * kilos, days=3)

    @exec.tool
    async def now(zone: str) -> str:
        """The time in a zone. This one is async; it runs in the host's event loop."""
        await asyncio.sleep(0)
        return f"12:00 {zone}"

    result = exec.execute_code(SNIPPET)
    print(result.stdout, end="")
    print("value:", result.value)
    for call in result.tool_calls:
        print(call.index, call.tool_id, call.status, call.error["code"] if call.error else "")

    # The host can call its own tools the same way, validated and recorded alike; there a ToolError is raised.
    try:
        exec.run_tool("post:qoute", {})
    except ToolError as error:
        print(f"{type(error).__name__}: {error}")
