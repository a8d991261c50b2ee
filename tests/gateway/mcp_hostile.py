"""A server of the older protocol that misbehaves as its first argument says; notes go to the folder in the second."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MODE, FOLDER = sys.argv[1], Path(sys.argv[2])
OBJECT = {"type": "object"}


def say(**message: Any) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": OBJECT, **more}


def page(cursor: str | None) -> dict[str, Any]:
    number = int(cursor or 0)
    match MODE:
        case "circle":
            return {"tools": [tool(f"t{number}")], "nextCursor": "1"}
        case "endless":
            return {"tools": [], "nextCursor": str(number + 1)}
        case "many":
            return {"tools": [tool(f"t{number}-{index}") for index in range(100)], "nextCursor": str(number + 1)}
        case "paged" if number < 4:
            return {"tools": [tool(f"t{number}")], "nextCursor": str(number + 1)}
        case "paged":
            return {"tools": [tool("last")]}
        case "liar":
            return {"tools": LIES}
        case "nonsense":
            return {"tools": "none"}
        case "reborn" if (FOLDER / "left").exists():
            return {"tools": [tool("leave"), tool("new")]}
        case "grows" if (FOLDER / "grown").exists():
            return {"tools": [tool("grow"), tool("grown")]}
    return {"tools": [tool(name) for name in ("grow", "wait", "ask", "flood", "error", "odd", "leave")]}


LIES = [
    tool("good"),
    tool("wrong", outputSchema={"type": "object", "required": ["total"]}),
    tool("unstructured", outputSchema={"type": "object", "required": ["total"]}),
    tool("broken", inputSchema={"type": "object", "properties": {"a": {"type": "strin"}}}),
    tool("remote", inputSchema={"type": "object", "$ref": "https://example.com/schema.json"}),
    tool("old", inputSchema={"type": "object", "$schema": "http://json-schema.org/draft-04/schema#"}),
    tool("list", inputSchema=[]),
    tool("text", inputSchema={"type": "string"}),
    tool("twice"),
    tool("twice", description="again"),
    {"inputSchema": OBJECT},
    "nothing like a tool",
]


def call(request_id: Any, name: str) -> None:
    text = {"content": [{"type": "text", "text": name}]}
    match name:
        case "wait":
            (FOLDER / "waiting").touch()
            return
        case "ask":
            for kind in ("sampling/createMessage", "elicitation/create", "roots/list"):
                say(id=f"{request_id} {kind}", method=kind, params=ASKED[kind])
            return
        case "flood":
            while True:
                sys.stdout.write("x" * 100_000)
        case "error":
            say(id=request_id, error={"code": -32000 - 7, "message": "no luck"})
            return
        case "odd":
            say(id=request_id, result={"content": "text"})
            return
        case "leave":
            (FOLDER / "left").touch()
            sys.exit(0)
        case "grow":
            (FOLDER / "grown").touch()
            for _ in range(50):
                say(method="notifications/tools/list_changed")
        case "wrong":
            text["structuredContent"] = {"sum": 1}  # type: ignore[assignment]  # a lie: the schema asks for a total
    say(id=request_id, result=text)


ASKED: dict[str, dict[str, Any]] = {
    "sampling/createMessage": {"messages": [], "maxTokens": 1},
    "elicitation/create": {"message": "password?", "requestedSchema": {"type": "object", "properties": {}}},
    "roots/list": {},
}


def answer(message: dict[str, Any]) -> None:
    match message:
        case {"method": "initialize", "id": request_id, "params": {"protocolVersion": version}}:
            server = {"name": "hostile", "version": "0"}
            say(
                id=request_id,
                result={
                    "protocolVersion": "1999-01-01" if MODE == "ancient" else version,
                    "capabilities": {} if MODE == "toolless" else {"tools": {"listChanged": True}},
                    "serverInfo": server,
                },
            )
        case {"method": "tools/list", "id": request_id}:
            say(id=request_id, result=page((message.get("params") or {}).get("cursor")))
        case {"method": "tools/call", "id": request_id, "params": {"name": name}}:
            call(request_id, name)
        case {"method": "notifications/cancelled", "params": params}:
            (FOLDER / "cancelled").write_text(json.dumps(params))
        case {"method": _, "id": request_id}:
            say(id=request_id, error={"code": -32601, "message": "unknown method"})
        case {"id": str(answered), "error": error}:
            with (FOLDER / "refusals").open("a") as file:
                print(answered, error["message"], file=file)
            if "roots/list" in answered:
                request_id = int(answered.split()[0])
                say(id=request_id, result={"content": [{"type": "text", "text": "refused"}]})


def main() -> None:
    (FOLDER / "pid").write_text(str(os.getpid()))
    if MODE == "dies":
        sys.exit("no licence was found")
    if MODE == "silent":
        time.sleep(1000)
    if MODE == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        (FOLDER / "child").write_text(str(child.pid))
    if MODE == "garbage":
        print("Starting up…\n\n{not json}", flush=True)
    for line in sys.stdin:
        answer(json.loads(line))
        if MODE == "garbage":
            print("[debug] answered", flush=True)
    if MODE == "stubborn":
        time.sleep(1000)


main()
