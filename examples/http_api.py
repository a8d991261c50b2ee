"""An HTTP API as tools: by hand and from its OpenAPI document. The snippet sees neither the token nor the network."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from gateway.providers.http import Bearer, HttpApi
from gateway.providers.openapi import openapi_tools
from sandbox import Exec

USERS = {"1": {"id": 1, "name": "Ann", "city": "Oslo"}, "2": {"id": 2, "name": "Bo", "city": "Porto"}}

DOCUMENT = """
openapi: 3.1.0
info: {title: Users, version: "1"}
paths:
  /users:
    get:
      operationId: find_users
      summary: The users of a city.
      parameters:
        - {name: city, in: query, required: true, schema: {type: string}}
      responses:
        200:
          content: {application/json: {schema: {type: array, items: {type: object}}}}
"""

SNIPPET = """
print("one:", tools.crm.get_user(id="1"))
print("found:", tools.crm.find_users(city="Porto"))

for user_id in ("9", "../admin", "busy"):
    try:
        tools.crm.get_user(id=user_id)
    except tools.ToolError as error:
        print(f"{user_id}: {error.code}, retry: {error.retryable}, {error.details}")
"""


class Users(BaseHTTPRequestHandler):
    """The API of somebody else, which wants a token."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if self.headers["Authorization"] != "Bearer sesame-open":
            self.answer(401, {"error": "who are you?"})
        elif path == "/users":
            self.answer(200, [user for user in USERS.values() if query == f"city={user['city']}"])
        elif path == "/users/busy":
            self.answer(503, {"error": "come back later"}, retry_after="2")
        elif user := USERS.get(path.removeprefix("/users/")):
            self.answer(200, user)
        else:
            self.answer(404, {"error": "no such user"})

    def answer(self, status: int, body: object, retry_after: str = "") -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


server = ThreadingHTTPServer(("127.0.0.1", 0), Users)
threading.Thread(target=server.serve_forever, daemon=True).start()

# Tools of this API can connect to this host and port, and to nothing else.
api = HttpApi(base_url=f"http://127.0.0.1:{server.server_port}", auth=Bearer(lambda: "sesame-open"))

with Exec() as exec:
    exec.register(api.tool("crm:get_user", "GET", "/users/{id}", description="One user by id."))
    exec.register(*openapi_tools(DOCUMENT, api, namespace="crm"))

    result = exec.execute_code(SNIPPET)
    print(result.stdout, end="")
    print(exec.run_tool("crm:find_users", {"city": "Oslo"}))

server.shutdown()
server.server_close()
