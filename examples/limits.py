"""Limits are held outside the guest, and what was written before one struck is kept."""

from sandbox import Exec, ExecutionFailed, InvalidRequest, Limits, PolicyDenied

with Exec(limits=Limits(wall_seconds=10, memory_bytes=128 << 20)) as exec:

    @exec.tool
    def ping() -> str:
        """Answer."""
        return "pong"

    def show(title: str, code: str, **limits: float) -> None:
        result = exec.execute_code(code, limits=limits)
        print(f"{title}: {result.summary()}; limit {result.limit}; wrote {result.stdout[:40]!r}")

    show("time", "print('before', flush=True)\nwhile True: pass", wall_seconds=0.5)
    show("sleep", "print('before', flush=True)\nimport time; time.sleep(60)", wall_seconds=0.5)
    show("processor", "while True: pass", cpu_seconds=0.5)
    show("memory", "print('before', flush=True)\nblocks = []\nwhile True: blocks.append(bytes(1 << 20))")
    show("tool calls", "for _ in range(5): print(tools.ping())", tool_calls=2)

    # Output over its limit is dropped, and the result says so: that alone is no reason to end a snippet.
    result = exec.execute_code("print('x' * 5000)", limits={"output_bytes": 1000})
    print("output:", result.outcome, len(result.stdout), "kept, truncated:", sorted(result.truncated))

    # Zero is an error rather than "no limit", and a limit that cannot be held is refused rather than ignored.
    try:
        exec.execute_code("1", limits={"wall_seconds": 0})
    except InvalidRequest as error:
        print("InvalidRequest:", error)
    try:
        exec.execute_code("1", profile="standard", backend="unsafe")
    except PolicyDenied as error:
        print("PolicyDenied:", error)

    # For those who prefer exceptions.
    try:
        exec.execute_code("1 / 0").raise_for_outcome()
    except ExecutionFailed as error:
        print("ExecutionFailed:", error.result.summary())
