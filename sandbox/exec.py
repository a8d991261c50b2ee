"""`AsyncExec`, the facade: builds the parts once, passes requests on, decides nothing. `Exec` in sync.py mirrors it."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import anyio
from anyio.abc import TaskGroup

from gateway.context import ANYBODY, Caller
from gateway.errors import Closed, InvalidRequest
from gateway.journal.base import Journal
from gateway.journal.opening import open_journal
from gateway.notices import CallFeed
from gateway.pipeline import Pipeline
from gateway.policies.base import NO_POLICIES, Policies, Services
from gateway.policies.store import Store, open_store
from gateway.providers.secret import Secret
from gateway.runner import Runner
from gateway.secrets import Secrets, trace
from gateway.sources import SourceReport, Sources, ToolSource
from gateway.tools.registry import ToolRegistry
from gateway.tools.resolvers import ToolResolver
from gateway.tools.search import ToolSearch
from gateway.tools.versions import VersionSelector
from runtimes.base import Backend, Capabilities
from runtimes.limits import Limits
from runtimes.pool import PoolMetrics
from sandbox.assemble import unobserved
from sandbox.controls import Controls
from sandbox.durable import Durable, OnApproval
from sandbox.history import History, checked_resume
from sandbox.learnt import keep, recall
from sandbox.logs import be_silent
from sandbox.observed import Observed, make_metrics
from sandbox.request import Request
from sandbox.result import Event, ExecutionResult
from sandbox.running import Running
from sandbox.runtime import Runtime, installed_backends
from sandbox.toolbox import Toolbox

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from gateway.tools.semantic import Embedder  # its module is for who has one

be_silent()
_log = logging.getLogger(__name__)


class AsyncExec(Toolbox, Controls, Observed, History):
    """Runs snippets that may call the tools registered here, and nothing else.

    Use it as `async with AsyncExec() as exec`, or call `aclose` when done. It starts what it needs on first use, and
    belongs to the event loop it is first used in. Arguments not given come from `toolexec.toml`, then `TOOLEXEC_*`:

    profile             dev, standard (default) or hardened: what executions ask for unless they say otherwise
    language            likewise, default python
    limits              likewise: a `Limits` or a mapping of its fields; default 30 s, 256 MiB of memory, 64 MiB of
                        files, 100 tool calls, and 1 MiB of output a stream
    allow_unsafe        whether profile dev may run code on this host without isolation (default no)
    workers             worker processes a backend may keep (default one per core)
    pool_size           warm sandboxes a backend keeps (default its own choice)
    pool_idle_seconds   how long it keeps them when nobody wants one (default 600)
    secrets             what tools may name by `SecretRef`: texts, or functions that give them, by name; masked in every
                        record, result and error of a call
    journal             where records are kept: a journal, or a URL such as `sqlite:///journal.db` (default in memory)
    resume              "auto" takes executions up at the start that a crash of their host cut off (default by hand)
    on_approval         asked about each call that waits for a person (default nobody: `approvals` lists them)
    store               what policies remember, a `Store` or its URL, such as `redis://…`; with one that processes share
                        they have limits, claims and results in common (default `memory`, this process alone)
    embedder            finds tools by meaning as well, such as a `LocalEmbedder` (default by words only)
    alpha               how much words count beside meaning, 0 to 1 (default 0.5)
    resolvers           know tools that are not registered, by id (default none); see gateway/tools/resolvers.py
    selector            chooses which version of a tool answers to its id without version (default the newest)
    backends            backend classes by kind (default the installed ones)
    backend_options     options of single backends by kind, such as `{"docker": {"image": "…"}}`
    tool_policies       policies of tools that choose none themselves; before what settings say
    tool_settings       fields of `ToolSettings`, such as `{"retry_enabled": True}`
    metrics             a `CollectorRegistry` of prometheus-client, or True for one of its own (default no metrics)

    Raises InvalidRequest when one of them is wrong.
    """

    def __init__(
        self,
        *,
        profile: str | None = None,
        language: str | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        allow_unsafe: bool | None = None,
        workers: int | None = None,
        pool_size: int | None = None,
        pool_idle_seconds: float | None = None,
        secrets: Mapping[str, Secret] | None = None,
        journal: Journal | str | None = None,
        resume: Literal["auto"] | None = None,
        on_approval: OnApproval | None = None,
        store: Store | str | None = None,
        embedder: "Embedder | None" = None,
        alpha: float = 0.5,
        resolvers: Iterable[ToolResolver] = (),
        selector: VersionSelector | None = None,
        backends: Mapping[str, type[Backend]] | None = None,
        backend_options: Mapping[str, Mapping[str, Any]] | None = None,
        tool_policies: Policies = NO_POLICIES,
        tool_settings: Mapping[str, Any] | None = None,
        metrics: "CollectorRegistry | bool | None" = None,
    ) -> None:
        from sandbox.config import load_settings  # noqa: PLC0415 - a sixth of our import time, and only needed here

        self._settings = load_settings(
            profile=profile,
            language=language,
            limits=None if limits is None else Limits.of(limits).asked(),
            allow_unsafe=allow_unsafe,
            workers=workers,
            pool_size=pool_size,
            pool_idle_seconds=pool_idle_seconds,
            journal=journal if isinstance(journal, str) else None,
            backend_options=backend_options,
            metrics=metrics if metrics is None or isinstance(metrics, bool) else True,
            store=store if isinstance(store, str) else None,
            tools=tool_settings,
        )
        wanted = self._settings.tools
        registry = ToolRegistry(resolvers=resolvers, selector=selector)
        search = ToolSearch(registry, embedder=embedder, alpha=alpha)
        if journal is None or isinstance(journal, str):
            journal = open_journal(self._settings.journal.get_secret_value())
        self._journal: Journal = journal
        self._store = _store(store, self._settings.store.get_secret_value())
        pipeline = Pipeline(
            Runner(registry),
            Services(store=self._store),
            defaults=wanted.defaults(tool_policies),
            disabled=wanted.disabled(),
            feed=CallFeed(),
            secrets=Secrets(secrets) if secrets else None,
        )
        counted = make_metrics(pipeline, metrics) if self._settings.metrics else None
        classes = installed_backends() if backends is None else backends
        self._runtime = Runtime(self._settings, search, self._journal, classes, pipeline, counted)
        self._durable = Durable(self._journal, registry, self._runtime, on_approval)
        self._resumes = checked_resume(resume)
        Toolbox.__init__(self, registry, self._runtime.gateway, pipeline)
        Observed.__init__(self, pipeline, counted, wanted)
        self.selection.enabled, self.selection.epsilon = wanted.bandit_enabled, wanted.bandit_epsilon
        self.selection.blocked = self._health.is_unhealthy
        self.selection.on_decision = None if counted is None else counted.selection
        self._recalled = False
        self._service: asyncio.Task[None] | None = None
        self._started: asyncio.Future[TaskGroup] | None = None
        self._opening = anyio.Lock()

    @property
    def default_profile(self) -> str:
        """What executions ask for unless they say otherwise."""
        return self._settings.profile

    @property
    def default_limits(self) -> Limits:
        """What executions are held to where they ask for nothing else."""
        return self._settings.default_limits

    @property
    def journal(self) -> Journal:
        """Where the records are."""
        return self._journal

    async def execute_code(
        self,
        code: str,
        *,
        language: str | None = None,
        profile: str | None = None,
        backend: str | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        allowed_tools: Iterable[str] | None = None,
        caller: Caller = ANYBODY,
        check: bool = False,
        env: Mapping[str, str] | None = None,
        files: Mapping[str, bytes | str] | None = None,
    ) -> ExecutionResult:
        """Run a snippet and return how it ended; what the guest does wrong is in the result, never an exception.

        backend         only among those that the profile permits; None lets policy choose
        limits          over the defaults, field by field
        allowed_tools   tool ids and `namespace:*`; None allows every tool
        caller          on whose behalf: tools with roles are there for callers of these only, and providers see it
        check           look for errors of type first, in Python; if there are any nothing is run, and the outcome is
                        `raised` with the first of them as a TypeCheckError (needs the extra `check`)
        env             the snippet's environment; it has no other
        files           contents by relative path, in the snippet's working folder; what it leaves there comes back as
                        `result.artifacts`

        Raises InvalidRequest, PolicyDenied, BackendUnavailable, Busy, SandboxLost, Closed.
        """
        request = self._request(
            code,
            language=language,
            profile=profile,
            backend=backend,
            limits=limits,
            allowed_tools=allowed_tools,
            caller=caller,
            check=check,
            env=env,
            files=files,
        )
        await self._open()
        return await self._durable.settled(await self._runtime.execute(request, unobserved))

    async def stream_code(
        self,
        code: str,
        *,
        language: str | None = None,
        profile: str | None = None,
        backend: str | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        allowed_tools: Iterable[str] | None = None,
        caller: Caller = ANYBODY,
        check: bool = False,
        env: Mapping[str, str] | None = None,
        files: Mapping[str, bytes | str] | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Run a snippet and yield what happens as it happens; the last event is `finished`, with the result.

        Arguments and exceptions are those of `execute_code`. While `on_approval` is asked nothing happens; what it
        decides is followed by the events of the same execution going on, with nothing said twice. Leaving the loop
        early ends the execution.
        """
        request = self._request(
            code,
            language=language,
            profile=profile,
            backend=backend,
            limits=limits,
            allowed_tools=allowed_tools,
            caller=caller,
            check=check,
            env=env,
            files=files,
        )
        tasks = await self._open()
        running = Running()
        tasks.start_soon(running.run, partial(self._durable.watched, request))
        try:
            async for event in running.events:
                yield event
            running.check()
        finally:
            await running.aclose()

    async def connect(self, *sources: ToolSource) -> tuple[SourceReport, ...]:
        """Open sources, such as an MCP server, and register their tools; follow their changes until `disconnect`.

        When one fails, those before it are removed again. Raises InvalidRequest when a name is taken, ToolUnavailable
        when one does not answer in time, and what else a source raises as it opens.
        """
        with self._lending():
            return await (await self._connected()).add(*sources)

    async def disconnect(self, name: str) -> None:
        """Take the tools of a source away and close it. Raises InvalidRequest, ExceptionGroup when closing failed."""
        await (await self._connected()).remove(name)

    async def refresh(self, name: str | None = None) -> tuple[SourceReport, ...]:
        """Ask one source, or all, what they offer now; one that fails keeps its tools, and its report says why."""
        with self._lending():
            return await (await self._connected()).refresh(name)

    async def sources(self) -> tuple[SourceReport, ...]:
        """What each connected source has brought, and what went wrong last."""
        return (await self._connected()).reports()

    async def check_sources(self) -> dict[str, str]:
        """What is wrong with each connected source now, by its name; empty when nothing is."""
        with self._lending():
            return await (await self._connected()).health()

    async def probe(self) -> dict[str, Capabilities]:
        """What each backend can do on this host, found out anew."""
        await self._open()
        return await self._runtime.probe()

    async def pool_metrics(self) -> tuple[PoolMetrics, ...]:
        """How well the warm sandboxes serve: of each pool, one for each kind of sandbox that was asked for, how many
        there are, how often a claim found one ready, and how long a new one takes."""
        await self._open()
        return self._runtime.pool_metrics()

    async def aclose(self) -> None:
        """End running executions and release everything. Idempotent; what runs is told Closed."""
        if self._closed:
            return
        self._closed = True
        if self._sources is not None:
            with self._lending():
                await _quietly(self._sources.aclose())
        if self._service is not None:
            self._service.cancel()
            await asyncio.wait([self._service])
            self._service = None
        with self._lending():
            await self._close_tools()
        await self._close_observed()
        await self._journal.aclose()
        if self._recalled:
            await keep(self.selection, self._store, self._settings.tools.bandit_redis_key)
        await self._store.aclose()

    async def __aenter__(self) -> Self:
        await self._open()
        if (key := self._settings.tools.bandit_redis_key) and not self._recalled:
            self._recalled = await recall(self.selection, self._store, key)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def _request(self, code: str, *, language: str | None, profile: str | None, **rest: Any) -> Request:
        return Request.of(
            code,
            language=self._settings.language if language is None else language,
            profile=self._settings.profile if profile is None else profile,
            default_limits=self._settings.default_limits,
            **rest,
        )

    async def _connected(self) -> Sources:
        tasks = await self._open()
        if self._sources is None:
            self._sources = Sources(self.registry, tasks)
        return self._sources

    async def _open(self) -> TaskGroup:
        """Start the runtime on first use; it lives in a task of its own until `aclose`."""
        if self._closed:
            raise Closed("Exec")
        if self._started is not None and self._started.done() and self._started.exception() is None:
            return self._alive(self._started.result())
        async with self._opening:
            if self._started is None:
                self._started = asyncio.get_running_loop().create_future()
                self._service = asyncio.create_task(self._runtime.serve(self._started.set_result))
                self._service.add_done_callback(partial(_pass_on, self._started))
            try:
                # Shielded: when the first caller is cancelled, the next one finds a runtime that has started.
                tasks = await asyncio.shield(self._started)
            except Exception:
                self._started = None  # it could not start, and may be tried again
                raise
        if self._resumes:
            self._resumes = False
            tasks.start_soon(self._durable.keep_resuming)
        return tasks

    def _alive(self, tasks: TaskGroup) -> TaskGroup:
        """A runtime that crashed is as good as closed, and says why."""
        if self._service is not None and self._service.done():
            raise Closed("Exec") from (None if self._service.cancelled() else self._service.exception())
        return tasks


async def _quietly(closing: Awaitable[None]) -> None:
    try:
        await closing
    except ExceptionGroup as exc:
        _log.error("a source did not close cleanly: %s", trace(exc))


def _store(given: Store | str | None, url: str) -> Store:
    if given is None or isinstance(given, str):
        return open_store(url)
    if not isinstance(given, Store):
        raise InvalidRequest(f"store must be a Store or the URL of one, not {type(given).__name__}")
    return given


def _pass_on(started: "asyncio.Future[TaskGroup]", service: "asyncio.Task[None]") -> None:
    """A runtime that could not start says so to whoever waits for it."""
    if not started.done():
        error = None if service.cancelled() else service.exception()
        started.set_exception(error or Closed("Exec"))
