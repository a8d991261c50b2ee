"""One tool, called from the host and from a snippet: validated and recorded alike."""

from sandbox import Exec, ToolError

with Exec() as exec:

    @exec.tool(namespace="demo", read_only=True)
    def greet(name: str) -> str:
        """Say hello."""
        return f"Hello, {name}!"

    print("from the host:", exec.run_tool("demo:greet", {"name": "World"}))

    result = exec.execute_code("tools.demo.greet(name='sandbox')")
    print("from a snippet:", result.value)

    # Arguments are validated before the function sees them, wherever they come from.
    try:
        exec.run_tool("demo:greet", {"nmae": "World"})
    except ToolError as error:
        print(f"refused: {error.code}: {error}")
