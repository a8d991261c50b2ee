"""A tool that answers in parts: the host sees them as they come, and so does a snippet; a failure is the last event."""

from collections.abc import Iterator

from sandbox import Exec, ToolContext, ToolEvent

SECTIONS = ("Summary", "Revenue", "Costs", "Outlook", "Appendix")

SNIPPET = """
lengths = {}
for event in tools.stream_tool("report:write", {"topic": "tea"}):
    if event["kind"] == "chunk":
        lengths[event["data"]["title"]] = len(event["data"]["text"])
lengths
"""


def shown(event: ToolEvent) -> str:
    match event.kind:
        case "progress":
            return f"  {event.data['message']} ({event.data['progress']} of {event.data['total']})"
        case "chunk":
            return f"  > {event.data['title']}: {event.data['text']}"
        case "done":
            return "  done"
        case _:
            return f"  error: {event.error and event.error['message']}"


with Exec() as exec:

    @exec.tool(namespace="report", read_only=True)
    def write(topic: str, context: ToolContext) -> Iterator[dict[str, str]]:
        """A report in five sections."""
        for number, title in enumerate(SECTIONS):
            context.report("writing", progress=number, total=len(SECTIONS))
            if topic == "taxes" and title == "Costs":
                raise ValueError("nobody knows the costs")
            yield {"title": title, "text": f"{title} of {topic}."}

    for topic in ("coffee", "taxes"):
        print(f"a report on {topic}, section by section")
        for event in exec.stream_tool("report:write", {"topic": topic}):
            print(shown(event))

    whole = exec.run_tool("report:write", {"topic": "milk"})
    print(f"the same tool, called: {len(whole)} sections")

    result = exec.execute_code(SNIPPET)
    print("in a snippet:", result.value, "and the call is", result.tool_calls[0].status)
