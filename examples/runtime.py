"""Profiles: what each permits here, and what was really in force for the snippet."""

from sandbox import BackendUnavailable, Exec, PolicyDenied

CODE = """
import os, socket

def attempt(what, function):
    try:
        function()
        return f"{what}: yes"
    except OSError:
        return f"{what}: no"

[
    attempt("reads /etc/passwd", lambda: open("/etc/passwd")),
    attempt("opens a socket", lambda: socket.create_server(("127.0.0.1", 0))),
]
"""

ASKED = (("dev", "unsafe"), ("dev", None), ("standard", None), ("standard", "unsafe"), ("hardened", None))

with Exec(allow_unsafe=True) as exec:
    for profile, backend in ASKED:
        asked = f"{profile:8} on {backend or 'any backend':11}"
        try:
            result = exec.execute_code(CODE, profile=profile, backend=backend)
        except (PolicyDenied, BackendUnavailable) as error:
            print(asked, f"-> {type(error).__name__}: {error}")
        else:
            print(asked, f"-> {result.backend}:", "; ".join(result.value))
