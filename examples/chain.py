"""(5 + 3) x 2 - 1 in a chain of tools: results go from step to step, by name or by mapping."""

from sandbox import ChainStep, Exec

with Exec() as exec:

    @exec.tool(namespace="math", read_only=True)
    def add(a: float, b: float) -> float:
        return a + b

    @exec.tool(namespace="math", read_only=True)
    def multiply(a: float, b: float) -> float:
        return a * b

    @exec.tool(namespace="math", read_only=True)
    def subtract(previous: float, b: float) -> float:
        return previous - b

    result = exec.run_chain(
        [
            ChainStep("math:add", {"a": 5, "b": 3}),
            ChainStep("math:multiply", {"b": 2}, mapping={"a": "/previous"}),
            ChainStep("math:subtract", {"b": 1}, use_previous=True),
        ]
    )
    for step in result.steps:
        print(f"{step.tool_id:14} {step.value:g}")
    print("result:", f"{result.value:g}")

    # A step that fails ends the chain, unless it says otherwise; the steps after it are skipped.
    result = exec.run_chain(
        [
            ChainStep("math:add", {"a": 1, "b": "two"}, stop_on_error=False),
            ChainStep("math:add", {"a": 1, "b": 2}),
            ChainStep("math:divide", {"a": 1, "b": 0}),
            ChainStep("math:add", {"a": 3}, mapping={"b": "/steps/1"}),
        ]
    )
    for step in result.steps:
        code = step.error["code"] if step.error else ""
        print(f"{step.tool_id:14}", "skipped" if step.skipped else code or f"{step.value:g}")

    # Step by step: the next one begins when it is asked for, so nothing more is done once the loop is left.
    for event in exec.stream_chain([ChainStep("math:multiply", {"a": number, "b": number}) for number in range(1, 9)]):
        if event.kind == "progress":
            print(f"{event.data['progress']} of {event.data['total']}")
        elif event.kind == "chunk" and event.data["value"] >= 9:
            print(f"{event.data['value']:g} is the first square of 9 or more")
            break

    # The same from inside a snippet.
    code = """
    steps = [("math:add", {"a": 5, "b": 3}), {"tool_id": "math:subtract", "arguments": {"b": 1}, "use_previous": True}]
    tools.run_chain(steps)["value"]
    """
    print("from a snippet:", exec.execute_code(code).value)
