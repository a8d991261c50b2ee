"""Routes a request to a backend: decides, opens a grant at the gateway, supervises, puts the result together."""

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from gateway.answers import answers_ahead
from gateway.calls import Keeper
from gateway.direct import DirectGateway
from gateway.errors import (
    BackendUnavailable,
    Closed,
    InvalidRequest,
    JournalUnavailable,
    PolicyDenied,
    SandboxError,
    SandboxLost,
)
from gateway.frames import Execute
from gateway.grant import Grant
from gateway.ids import new_execution_id
from gateway.journal.base import Blob, ExecutionFinished, ExecutionStarted, Journal, Mode, ToolCall
from gateway.past import Beyond, Past
from gateway.pipeline import Pipeline
from gateway.site import TapeLog
from gateway.suspension import Suspension
from gateway.tools.access import stubs_for
from gateway.tools.search import ToolSearch
from runtimes._background import BackendTasks, contained, said
from runtimes._failure import Stop
from runtimes.base import Backend, BackendContext, Capabilities, SandboxSpec
from runtimes.folder import make_folder, remove_folder
from runtimes.limits import SHARED, Limits
from runtimes.pool import Claimed, Pool, PoolMetrics, Pools
from runtimes.supervisor import Collected, Supervisor, end
from sandbox.again import Run
from sandbox.assemble import Observer, call_observer, flawed_result, make_result, output_observer
from sandbox.opening import Openings
from sandbox.policy import Decision, Wanted, by_preference, decide
from sandbox.profile import Profile
from sandbox.recorded import cut_off, ended, started
from sandbox.request import Request
from sandbox.result import Event, ExecutionResult
from sandbox.watched import watched

if TYPE_CHECKING:
    from gateway.metrics import Metrics
    from gateway.server import GatewayServer
    from runtimes.check import Diagnostic
    from sandbox.config import Settings  # imported by whoever makes one: see sandbox/exec.py

GROUP = "toolexec.backends"
RECORD_SECONDS = 5.0
"""How long a cancelled execution may still take to record its end."""

GRACE_SECONDS = 0.25
"""How much longer than its execution a grant lasts: the execution is ended, and no guest is told before that its tool
ran out of time."""

MAX_DECISIONS = 1000
"""Kept until a backend is found to be different. Callers choose limits, and so there can be any number."""

CLOSE_SECONDS = 15.0
"""How long closing waits for executions to hear of it."""

BackendClass = type[Backend]


def installed_backends() -> dict[str, BackendClass]:
    """Every backend class that this environment has, by kind. Loading one imports nothing heavy."""
    return {entry.name: entry.load() for entry in entry_points(group=GROUP)}


class Runtime:
    """Everything that runs executions, between `serve` and its cancellation."""

    def __init__(
        self,
        settings: "Settings",
        tools: ToolSearch,
        journal: Journal,
        backends: Mapping[str, BackendClass],
        pipeline: Pipeline,
        metrics: "Metrics | None" = None,
    ) -> None:
        if unknown := ", ".join(sorted(set(settings.backend_options) - set(backends))):
            raise InvalidRequest(f"backend_options for {unknown}; there are {', '.join(sorted(backends))}")
        self._settings = settings
        self._registry = tools.registry
        self._journal = journal
        self._classes = backends
        self._search = tools
        self.pipeline = pipeline
        self._metrics = metrics
        if metrics is not None:
            metrics.follow_pools(lambda: [(pool.backend, pool.claims, pool.hits) for pool in self.pool_metrics()])
        self._backends: dict[str, Backend] = {}
        self._capabilities: dict[str, Capabilities] = {}
        self._broken: dict[str, Capabilities] = {}
        self._decisions: dict[tuple[Profile, Wanted], Decision] = {}
        self._probing = anyio.Lock()
        self._pools: Pools | None = None
        self._openings = Openings()
        self._running: set[anyio.CancelScope] = set()
        self._idle = anyio.Event()
        self._closing = False

    async def serve(self, started: Callable[[TaskGroup], None]) -> None:
        """Own server, backends and pools until cancelled; then leave nothing behind. Calls `started` when ready."""
        from gateway.server import GatewayServer  # noqa: PLC0415 - gRPC, a fifth of our import time, is for guests alone

        folder = make_folder()
        try:
            async with GatewayServer(folder) as server, anyio.create_task_group() as tasks:
                self._open(folder, server, tasks)
                tasks.start_soon(self._openings.serve)
                try:
                    started(tasks)
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=True):
                        await self._close()
                    tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if isinstance(wrong := group.exceptions[0], InvalidRequest):
                raise wrong from group  # an option of a backend
            raise
        finally:
            remove_folder(folder)

    async def probe(self) -> dict[str, Capabilities]:
        """What each installed backend can do here, found out anew."""
        async with self._probing:
            self._capabilities = await self._probe()
            self._decisions = {}
        return dict(self._capabilities)

    def pool_metrics(self) -> tuple[PoolMetrics, ...]:
        """Of each pool that is kept."""
        return () if self._pools is None else self._pools.metrics()

    @property
    def unended(self) -> Collection[str]:
        """Executions that are over here, and whose end the journal could not keep."""
        return self._openings.unended

    def gateway(
        self,
        grant: Grant,
        on_call: Callable[[ToolCall], None] | None = None,
        on_flood: Callable[[], None] | None = None,
        *,
        keeper: Keeper | None = None,
        past: Past | None = None,
        suspension: Suspension | None = None,
    ) -> DirectGateway:
        """A gateway with the rights of `grant`. Its records go to `keeper`, or else into the journal."""
        return DirectGateway(
            grant,
            self.pipeline,
            self._registry,
            self._search,
            keeper or self._journal,
            on_call,
            on_flood,
            past=past,
            suspension=suspension,
            in_flight=self._settings.tools.in_flight,
        )

    async def execute(self, request: Request, observe: Observer, run: Run | None = None) -> ExecutionResult:
        """Run one snippet, for the first time unless it is told which `run` it is.

        Its sandbox is dead, and its end recorded, when this returns, raises or is cancelled.
        """
        scope = anyio.CancelScope()
        self._running.add(scope)
        try:
            with scope:
                return await self._execute(request, observe, run)
        except (SandboxLost, Closed) as error:
            if self._closing:
                raise Closed("Exec") from error
            raise
        finally:
            self._running.discard(scope)
            self._idle.set()
        raise Closed("Exec")

    async def _execute(self, request: Request, observe: Observer, run: Run | None) -> ExecutionResult:
        decision = await self._decide(request)
        run = run or Run.first(self._start_of(new_execution_id(), request, decision), self._journal)
        with watched(run.execution_id, request, decision.backend, self._metrics) as watch:
            try:
                watch.result = await self._run(run, request, decision, observe)
            except SandboxError as error:
                error.execution_id = run.execution_id
                raise
        return watch.result

    async def _run(self, run: Run, request: Request, decision: Decision, observe: Observer) -> ExecutionResult:
        if request.check and (flaws := await self._check(request)):
            return await self._turn_down(run, request, decision, flaws)
        claimed = await self._pool(decision, request).claim()
        begun = time.perf_counter()
        async with self._openings.begun(run.keeper, self._record_of(run, request, decision)) as keeper:
            run = replace(run, keeper=keeper)
            try:
                observe(Event("started", execution_id=run.execution_id, backend=decision.backend))
                result, tape = await self._supervise(run, request, decision, claimed, observe)
            except BaseException as error:
                await end(claimed.sandbox, claimed.attachment)
                record = cut_off(run.execution_id, request, error, time.perf_counter() - begun, self.pipeline.secrets)
                await self._record_cut_off(run.keeper, record, error)
                raise
            record = ended(result, request, self.pipeline.secrets)
            await self._record_end(run.keeper, replace(record, tape=Blob.of(tape.take()), reads=tape.take_reads()))
        return result

    async def start(self, request: Request, mode: Mode, parent: str, seed: str | None) -> ExecutionStarted:
        """The record with which an execution of a session begins. Raises PolicyDenied on a backend that cannot."""
        decision = await self._decide(request)
        found = self._capabilities[decision.backend]
        if not found.replays_exactly:
            raise PolicyDenied(
                f"backend {decision.backend!r} cannot rebuild a session's variables exactly", "Use backend wasm"
            )
        record = self._start_of(new_execution_id(), request, decision)
        return replace(record, mode=mode, parent=parent, seed=seed or record.seed)

    def _start_of(self, execution_id: str, request: Request, decision: Decision) -> ExecutionStarted:
        return started(execution_id, request, decision, self._capabilities[decision.backend], self.pipeline.secrets)

    def _record_of(self, run: Run, request: Request, decision: Decision) -> ExecutionStarted:
        """With which this run begins: one that goes on says what it has now, under the seed of the first."""
        if not run.resumes:
            return run.started
        now = self._start_of(run.execution_id, request, decision)
        return replace(now, mode=Mode.RESUME, parent=run.started.parent, seed=run.started.seed)

    async def _supervise(
        self, run: Run, request: Request, decision: Decision, claimed: Claimed, observe: Observer
    ) -> tuple[ExecutionResult, TapeLog]:
        """The result, and what the guest was told since its last call."""
        limits, past = decision.limits, run.past
        collected = Collected(limits.output_bytes, output_observer(observe))
        supervisor = Supervisor(claimed.sandbox, claimed.attachment, limits, decision.enforced, collected)
        grant = _grant(run.execution_id, request, limits)
        suspension = Suspension(
            partial(supervisor.mark, Stop.SUSPENDED), partial(supervisor.stop, Stop.SUSPENDED), grant.deadline
        )
        gateway = self.gateway(
            grant,
            call_observer(observe),
            partial(supervisor.stop, Stop.CALL_FLOOD),
            keeper=run.keeper,
            past=past,
            suspension=suspension if run.suspends else None,
        )
        if past is not None:
            past.on_end = partial(supervisor.stop, Stop.RECORD_ENDS)
        try:
            frame = _execute_frame(run, request)
            if past is not None and past.beyond is not Beyond.MISSING and self._told_the_same(run, decision):
                frame = replace(frame, replies=await answers_ahead(past))
            ended = await supervisor.run(frame, gateway, gateway.tape)
        finally:
            grant.closed = True
            suspension.close()
        if past is not None:
            departed = ended.departed or gateway.tape.goes_on
            past.exact = not departed and self._told_the_same(run, decision)
        result = make_result(run.execution_id, request, decision, ended, gateway.calls)
        for artifact in result.artifacts:
            observe(Event("artifact", artifact=artifact))
        return result, gateway.tape

    def _told_the_same(self, run: Run, decision: Decision) -> bool:
        found, then = self._capabilities[decision.backend], run.started.environment
        now = (found.kind, found.version, found.details.get("guest"))
        return found.replays_exactly and now == (
            then.get("backend"),
            then.get("backend_version"),
            then.get("details", {}).get("guest"),
        )

    async def _check(self, request: Request) -> "tuple[Diagnostic, ...]":
        from runtimes.check import check_snippet  # noqa: PLC0415 - an extra's, and not needed by most

        grant = _grant("", request, request.limits)
        return await check_snippet(request.code, await stubs_for(grant, self._registry))

    async def _turn_down(
        self, run: Run, request: Request, decision: Decision, flaws: "tuple[Diagnostic, ...]"
    ) -> ExecutionResult:
        """An execution that ends before it begins: recorded, and nothing run."""
        result = flawed_result(run.execution_id, request, decision, flaws)
        await run.keeper.append(self._record_of(run, request, decision))
        await self._record_end(run.keeper, ended(result, request, self.pipeline.secrets))
        return result

    async def _decide(self, request: Request) -> Decision:
        wanted = Wanted(request.language, request.backend, request.limits)
        decisions = self._decisions  # those of now: what is found out meanwhile makes this one too old to be kept
        if (found := decisions.get((request.profile, wanted))) is not None:
            return replace(found, limits=request.limits)  # equal to the ones it was made for, and maybe 1 for 1.0
        decision = await self._decide_anew(request, wanted)
        if len(decisions) < MAX_DECISIONS:
            decisions[request.profile, wanted] = decision
        return decision

    async def _decide_anew(self, request: Request, wanted: Wanted) -> Decision:
        """Probes only as far as it takes: a probe may start an engine's guest, and take seconds."""
        known: dict[str, Capabilities] = {}
        for kind in [request.backend] if request.backend in self._backends else by_preference(self._backends):
            known[kind] = await self._known(kind)
            with suppress(SandboxError):
                return decide(request.profile, wanted, known, allow_unsafe=self._settings.allow_unsafe)
        return decide(request.profile, wanted, known, allow_unsafe=self._settings.allow_unsafe)

    async def _known(self, kind: str) -> Capabilities:
        async with self._probing:
            if kind not in self._capabilities:
                self._capabilities[kind] = await self._backends[kind].probe()
            return self._broken.get(kind) or self._capabilities[kind]

    def _pool(self, decision: Decision, request: Request) -> Pool:
        assert self._pools is not None
        backend = self._backends[decision.backend]
        spec = _spec(request.language, decision)
        size = backend.warm_size if self._settings.pool_size is None else self._settings.pool_size
        usual = decision.limits == self._settings.default_limits
        return self._pools.pool(backend, spec, size if usual else min(size, 2))

    def _open(self, folder: Path, server: "GatewayServer", tasks: TaskGroup) -> None:
        self._pools = Pools(server, tasks, self._settings.pool_idle_seconds)
        options = self._settings.backend_options
        for kind, backend in self._classes.items():
            own = folder / kind
            own.mkdir(mode=0o700)
            context = BackendContext(
                own,
                BackendTasks(kind, tasks, partial(self._broke, kind)),
                self._settings.workers,
                attachment=server.attachment,
                listen=server.listen,
                listen_tls=server.listen_tls,
                options=options.get(kind, {}),
            )
            self._backends[kind] = backend(context)

    def _broke(self, kind: str, error: Exception) -> None:
        """What a backend does in the background failed: it is used no more."""
        gone = BackendUnavailable(kind, f"a background task of it failed: {said(error)}", "Make another Exec")
        self._broken[kind] = Capabilities(kind, usable=False, reason=gone.reason, fix=gone.fix)
        self._decisions = {}
        if self._pools is not None:
            self._pools.give_up(kind, gone)

    async def _close(self) -> None:
        """End everything and wait until whoever ran something was told."""
        self._closing = True
        for scope in self._running:
            scope.cancel()
        if self._pools is not None:
            await self._pools.aclose()
        for kind, backend in self._backends.items():
            await contained(f"backend {kind}, as it closes,", lambda _error: None, backend.aclose)
        with anyio.move_on_after(CLOSE_SECONDS):
            while self._running:
                self._idle = anyio.Event()
                await self._idle.wait()

    async def _probe(self) -> dict[str, Capabilities]:
        found: dict[str, Capabilities] = {}

        async def probe(kind: str, backend: Backend) -> None:
            found[kind] = self._broken.get(kind) or await backend.probe()

        async with anyio.create_task_group() as probes:
            for kind, backend in self._backends.items():
                probes.start_soon(probe, kind, backend)
        return found

    async def _record_end(self, keeper: Keeper, record: ExecutionFinished) -> None:
        """Cancellation waits for it. Raises JournalUnavailable when it takes too long."""
        if getattr(keeper.append, "at_once", False):
            await keeper.append(record)
            return
        with anyio.move_on_after(RECORD_SECONDS, shield=True) as scope:
            await keeper.append(record)
        if scope.cancelled_caught:
            raise JournalUnavailable("in use", f"it did not keep the end of an execution in {RECORD_SECONDS:g} s")

    async def _record_cut_off(self, keeper: Keeper, record: ExecutionFinished, reason: BaseException) -> None:
        """Never raises: `reason` goes on, with a note if this failed."""
        try:
            await self._record_end(keeper, record)
        except Exception as error:  # noqa: BLE001 - the reason must not turn into another error
            reason.add_note(f"the end of execution {record.execution_id} was not recorded: {error}")


def _execute_frame(run: Run, request: Request) -> Execute:
    return Execute(
        run.execution_id,
        request.code,
        request.env,
        request.files,
        seed=bytes.fromhex(run.started.seed),
        unix_micros=run.unix_micros,
        tape=run.tape,
        earlier=run.earlier,
    )


def _grant(execution_id: str, request: Request, limits: Limits) -> Grant:
    return Grant(
        execution_id=execution_id,
        allowed_tools=request.allowed_tools,
        caller=request.caller,
        tool_calls=limits.tool_calls,
        chain_steps=limits.chain_steps,
        deadline=None if limits.wall_seconds is None else time.monotonic() + limits.wall_seconds + GRACE_SECONDS,
    )


def _spec(language: str, decision: Decision) -> SandboxSpec:
    """The part of the limits that this backend holds from a sandbox's start."""
    held = {name: value for name, value in decision.limits.asked().items() if name in decision.enforced - SHARED}
    return SandboxSpec(language=language, **held)
