"""From a few words to a call: search, read the docs, check the snippet, run it."""

from sandbox import Exec, ToolExample

TOOLS = {
    "files:create_file": "Write a new file to disk.",
    "files:readFile": "Get the contents of a file.",
    "files:move-file": "Move a file to another folder.",
    "code:search_code": "Find text in the source of a repository.",
    "code:run_tests": "Run the test suite of a repository.",
    "comms:post_slack": "Send a notification to a channel.",
    "comms:send_email": "Send mail to a person.",
}

with Exec() as exec:

    def echo(text: str = "") -> dict[str, str]:
        return {"echo": text}

    for tool_id, description in TOOLS.items():
        namespace, name = tool_id.split(":")
        examples = [ToolExample("say it back", {"text": "hi"}, "the same text")]
        exec.tool(name=name, namespace=namespace, description=description, examples=examples)(echo)

    for query in ("file operations", "search", "notification"):
        found = exec.search_tools(query, limit=3)
        print(f"{query!r}:", ", ".join(hit.id for hit in found))
        print("    ", exec.run_tool(found[0].id, {"text": query}))

    print(exec.describe_tool("files:create_file")["signature"])
    print(exec.list_tool_examples("files:create_file")[0])

    page = exec.list_tools(3, namespace="files")
    print("in files:", [tool.name for tool in page.tools], "and no more" if page.cursor is None else "and more")

    # What a model reads before it writes code.
    stubs = exec.tool_stubs(allowed_tools=["code:*"])
    print(stubs[stubs.index("class code:") : stubs.index("class aio:")].strip())

    # A snippet does the same from inside, and finds only what it may call.
    code = """
    hit = tools.search_tools("repository")[0]
    hit["id"], tools.run_tool(hit["id"], {"text": "found it"})
    """
    print(exec.execute_code(code, allowed_tools=["code:run_tests"]).value)
