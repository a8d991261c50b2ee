"""Never below the floor, never unsafe without the operator, and every refusal names its reason and its fix."""

from collections.abc import Mapping
from typing import Any, ClassVar

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.endpoint import Endpoint
from gateway.errors import BackendUnavailable, InvalidRequest, PolicyDenied, SandboxError
from runtimes.base import BackendContext, Capabilities, Sandbox, SandboxSpec
from runtimes.limits import LIMIT_NAMES, SHARED, LimitName, Limits
from runtimes.unsafe import UnsafeBackend
from sandbox import AsyncExec
from sandbox.policy import Decision, Wanted, decide
from sandbox.profile import PROFILES, Profile

DEV, STANDARD, HARDENED = (PROFILES[name] for name in ("dev", "standard", "hardened"))
HELD: frozenset[LimitName] = frozenset({"memory_bytes", "cpu_seconds"})


def found(
    kind: str, boundaries: int = 1, *, enforces: frozenset[LimitName] = HELD, usable: bool = True
) -> Capabilities:
    reason, fix = ("", "") if usable else ("it is broken", "Mend it")
    languages = frozenset({"python"})
    return Capabilities(
        kind, usable=usable, boundaries=boundaries, languages=languages, enforces=enforces, reason=reason, fix=fix
    )


def known(*capabilities: Capabilities) -> dict[str, Capabilities]:
    return {one.kind: one for one in capabilities}


def wanted(backend: str | None = None, language: str = "python", **limits: float) -> Wanted:
    return Wanted(language, backend, Limits.of({"memory_bytes": 1 << 20, **limits}))


KINDS = st.sampled_from(["unsafe", "docker", "gvisor", "wasm", "mine", "yours"])
CAPABILITIES = st.builds(
    Capabilities,
    kind=KINDS,
    usable=st.booleans(),
    boundaries=st.integers(0, 3),
    languages=st.frozensets(st.sampled_from(["python", "javascript"])),
    enforces=st.frozensets(st.sampled_from(LIMIT_NAMES)),
    reason=st.just("broken"),
    fix=st.just("Mend it"),
)
BOUNDS = st.dictionaries(st.sampled_from(LIMIT_NAMES), st.integers(1, 1000))
WANTED = st.builds(
    Wanted,
    language=st.sampled_from(["python", "javascript", "cobol"]),
    backend=st.none() | KINDS,
    limits=BOUNDS.map(lambda bounds: Limits.of(dict[str, Any](bounds.items()))),
)


@given(
    st.sampled_from(list(PROFILES.values())),
    WANTED,
    st.lists(CAPABILITIES, unique_by=lambda one: one.kind).map(lambda some: known(*some)),
    st.booleans(),
)
def test_nothing_that_is_not_permitted_is_ever_chosen(
    profile: Profile, wanted: Wanted, capabilities: Mapping[str, Capabilities], allow_unsafe: bool
) -> None:
    try:
        decision = decide(profile, wanted, capabilities, allow_unsafe=allow_unsafe)
    except (PolicyDenied, BackendUnavailable, InvalidRequest):
        return
    chosen = capabilities[decision.backend]
    assert chosen.usable
    assert chosen.boundaries >= profile.floor
    assert chosen.boundaries > 0 or allow_unsafe
    assert wanted.backend in (None, decision.backend)
    assert wanted.language in chosen.languages
    asked = set(wanted.limits.asked())
    assert decision.limits == wanted.limits
    assert decision.enforced == asked & (SHARED | chosen.enforces)
    assert not profile.strict or decision.enforced == asked


@pytest.mark.parametrize(("profile", "chosen"), [(DEV, "unsafe"), (STANDARD, "wasm"), (HARDENED, "gvisor")], ids=str)
def test_the_lightest_permitted_backend_is_taken(profile: Profile, chosen: str) -> None:
    capabilities = known(found("mine", 3), found("docker", 1), found("gvisor", 2), found("wasm", 1), found("unsafe", 0))
    assert decide(profile, wanted(), capabilities, allow_unsafe=True).backend == chosen


def test_a_backend_of_somebody_elses_is_taken_last() -> None:
    assert decide(STANDARD, wanted(), known(found("b"), found("a")), allow_unsafe=False).backend == "a"
    assert decide(STANDARD, wanted(), known(found("a"), found("docker")), allow_unsafe=False).backend == "docker"


def denied(profile: Profile, want: Wanted, *capabilities: Capabilities, allow_unsafe: bool = False) -> PolicyDenied:
    with pytest.raises(PolicyDenied) as caught:
        decide(profile, want, known(*capabilities), allow_unsafe=allow_unsafe)
    return caught.value


def test_unsafe_needs_the_operator() -> None:
    error = denied(DEV, wanted("unsafe"), found("unsafe", 0))
    assert str(error) == (
        "backend 'unsafe' does not isolate, and unsafe backends are off. "
        "The operator can allow them with Exec(allow_unsafe=True); then profile 'dev' may use it"
    )


@pytest.mark.parametrize("profile", [STANDARD, HARDENED])
def test_the_operator_cannot_allow_unsafe_above_dev(profile: Profile) -> None:
    error = denied(profile, wanted("unsafe"), found("unsafe", 0), allow_unsafe=True)
    assert "has 0" in error.reason
    assert "stronger backend" in error.fix


def test_what_is_asked_for_is_not_replaced() -> None:
    error = denied(HARDENED, wanted("docker"), found("docker", 1), found("gvisor", 2))
    assert "'docker' has 1" in error.reason


def test_strict_profiles_refuse_what_cannot_be_held() -> None:
    error = denied(STANDARD, wanted("docker", disk_bytes=1000), found("docker"))
    assert "cannot hold disk_bytes" in error.reason
    assert "Leave the limit out" in error.fix


def test_dev_says_what_is_not_held() -> None:
    decision = decide(DEV, wanted(disk_bytes=1000, wall_seconds=1), known(found("docker")), allow_unsafe=False)
    assert decision == Decision("docker", decision.limits, frozenset({"memory_bytes", "wall_seconds"}))
    assert decision.limits.disk_bytes == 1000


def test_a_permitted_backend_that_is_broken_says_how_to_mend_it() -> None:
    with pytest.raises(BackendUnavailable, match=r"'wasm' cannot be used here: it is broken\. Mend it"):
        decide(STANDARD, wanted("wasm"), known(found("wasm", usable=False)), allow_unsafe=False)


def test_a_refusal_of_all_names_every_reason() -> None:
    error = denied(HARDENED, wanted(), found("docker"), found("unsafe", 0), found("gvisor", 2, usable=False))
    for part in ("'docker' has 1", "'unsafe' has 0", "Mend it", "no backend fits profile 'hardened'"):
        assert part in str(error)
    assert not str(error).endswith(". ")


def test_unknown_names_list_what_there_is() -> None:
    with pytest.raises(InvalidRequest, match="unknown backend 'podman'; there are docker, wasm"):
        decide(STANDARD, wanted("podman"), known(found("wasm"), found("docker")), allow_unsafe=False)
    with pytest.raises(InvalidRequest, match="language 'cobol'; there are python"):
        decide(STANDARD, wanted(language="cobol"), known(found("wasm")), allow_unsafe=False)


class Wrapper:
    """A backend of somebody's that passes everything on to unsafe, and says truly what that is worth."""

    kind: ClassVar[str] = "fortress"
    warm_size: ClassVar[int] = 0

    def __init__(self, context: BackendContext) -> None:
        self._wrapped = UnsafeBackend(context)

    async def probe(self) -> Capabilities:
        honest = await self._wrapped.probe()
        return Capabilities(
            self.kind,
            usable=True,
            boundaries=honest.boundaries,
            languages=honest.languages,
            enforces=frozenset(LIMIT_NAMES),
        )

    async def start(self, spec: SandboxSpec, endpoint: Endpoint) -> Sandbox:
        return await self._wrapped.start(spec, endpoint)

    async def aclose(self) -> None:
        await self._wrapped.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["fortress", "wasm", "docker", "unsafe"])
@pytest.mark.parametrize(
    ("profile", "allow_unsafe"), [("dev", False), ("standard", False), ("standard", True), ("hardened", True)]
)
async def test_a_wrapped_unsafe_backend_is_denied_under_every_name(name: str, profile: str, allow_unsafe: bool) -> None:
    async with AsyncExec(backends={name: Wrapper}, allow_unsafe=allow_unsafe) as exec:
        for asked in (None, name):
            with pytest.raises(PolicyDenied):
                await exec.execute_code("1", profile=profile, backend=asked)


@pytest.mark.anyio
async def test_a_wrapped_unsafe_backend_runs_for_dev_when_allowed() -> None:
    async with AsyncExec(backends={"fortress": Wrapper}, allow_unsafe=True) as exec:
        assert (await exec.execute_code("1 + 1", profile="dev")).value == 2


@pytest.mark.anyio
@pytest.mark.parametrize("profile", ["", "DEV", "none", "standard "])
async def test_there_is_no_profile_to_fall_back_to(profile: str) -> None:
    async with AsyncExec(backends={"fortress": Wrapper}, allow_unsafe=True) as exec:
        with pytest.raises(SandboxError, match=r"unknown profile .*; there are dev, standard, hardened"):
            await exec.execute_code("1", profile=profile)
    await anyio.lowlevel.checkpoint()
