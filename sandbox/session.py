"""Executions that share variables: each runs in a fresh sandbox, after what the session has done before is replayed."""

import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeAlias

import anyio

from gateway.errors import Closed, InvalidRequest
from runtimes.limits import Limits
from sandbox.result import ExecutionResult

IDLE_SECONDS = 3600.0


RunTurn: TypeAlias = Callable[[str, str, Limits | Mapping[str, Any] | None], Awaitable[ExecutionResult]]
"""Runs one snippet after the execution with this id ("" for the first), held to these limits."""


class Session:
    """Made by `AsyncExec.session`. Its executions run one at a time.

    An execution that is ended from outside (at a limit, say) leaves the variables as they were before it. Nothing is
    kept alive between executions, so a session costs nothing while it is not used, and any host with the same journal
    can go on with it: `exec.session(after=session.last)`.
    """

    def __init__(
        self,
        run: RunTurn,
        keeps: Callable[[str], Awaitable[bool]],
        *,
        after: str = "",
        idle_seconds: float | None = IDLE_SECONDS,
    ) -> None:
        if idle_seconds is not None and not idle_seconds > 0:
            raise InvalidRequest(f"idle_seconds must be above 0, or None for any time, not {idle_seconds}")
        self._run = run
        self._keeps = keeps
        self._idle_seconds = idle_seconds
        self._used_at = time.monotonic()
        self._one = anyio.Lock()
        self._open = True
        self.last = after
        """The id of the execution that the next one follows, empty before the first."""

    async def execute_code(self, code: str, *, limits: Limits | Mapping[str, Any] | None = None) -> ExecutionResult:
        """Run a snippet that sees what the ones before have left: variables, imports, files.

        `limits` bound the replay of those too. Raises Closed when the session was closed or idle for too long,
        InvalidRequest while its last execution is suspended, and what `AsyncExec.execute_code` raises.
        """
        async with self._one:
            self._check_open()
            try:
                result = await self._run(code, self.last, limits)
            finally:
                self._used_at = time.monotonic()
            if await self._keeps(result.execution_id):
                self.last = result.execution_id
            return result

    def fork(self) -> "Session":
        """A second session with the same past; from here on neither sees what the other does."""
        self._check_open()
        return Session(self._run, self._keeps, after=self.last, idle_seconds=self._idle_seconds)

    async def aclose(self) -> None:
        """Nothing more runs in it. Idempotent."""
        self._open = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def _check_open(self) -> None:
        idle = self._idle_seconds is not None and time.monotonic() - self._used_at > self._idle_seconds
        if idle or not self._open:
            self._open = False
            raise Closed("session")
