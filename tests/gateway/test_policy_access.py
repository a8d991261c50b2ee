"""Who may call a tool: users, permissions, roles, in this order, and before anything that costs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.context import ANYBODY, Caller
from gateway.errors import InvalidRequest, PermissionMissing, RoleDenied, Unauthorized
from gateway.payload import Encoded
from gateway.policies.access import AccessRules
from gateway.policies.base import Call, Policies, Proceed
from gateway.policies.kinds import policies_from_json, policies_json
from sandbox import AsyncExec, ParallelCall

pytestmark = pytest.mark.anyio


class Counted:
    """A policy further in, which only sees what access lets through."""

    def __init__(self) -> None:
        self.calls = 0

    async def apply(self, call: Call, proceed: Proceed) -> Encoded:
        self.calls += 1
        return await proceed(call)


async def outcome(rules: AccessRules, caller: Caller) -> str:
    """`ok`, or the code of the refusal; nothing that costs may have seen a refused call."""
    ran: list[int] = []
    spent = Counted()
    async with AsyncExec() as exec:

        @exec.tool(policies=Policies(access=rules, idempotency=spent, cache=spent, rate_limit=spent))
        async def pay(amount: int) -> int:
            ran.append(amount)
            return amount

        (call,) = await exec.run_parallel([ParallelCall("pay", {"amount": 1})], caller=caller)
    assert (ran, spent.calls) == (([1], 3) if call.ok else ([], 0))
    if call.error is None:
        return "ok"
    assert call.error["retryable"] is False
    return str(call.error["code"])


EVERYTHING = AccessRules(
    users=frozenset({"ann"}), permissions=frozenset({"pay", "see"}), roles=frozenset({"coach", "system"})
)
FITTING = {"user_id": "ann", "permissions": frozenset({"pay", "see", "more"}), "role": "Coach"}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, "ok"),
        ({"role": "SYSTEM"}, "ok"),
        ({"role": " coach "}, "ok"),
        ({"user_id": "bob"}, "unauthorized"),
        ({"user_id": "Ann"}, "unauthorized"),
        ({"user_id": ""}, "unauthorized"),
        ({"user_id": "*"}, "unauthorized"),
        ({"permissions": frozenset({"pay"})}, "insufficient_permissions"),
        ({"permissions": frozenset({"PAY", "SEE"})}, "insufficient_permissions"),
        ({"permissions": frozenset({"*"})}, "insufficient_permissions"),
        ({"role": ""}, "unauthorized_role"),
        ({"role": "coaches"}, "unauthorized_role"),
        ({"role": "*"}, "unauthorized_role"),
        ({"user_id": "", "permissions": frozenset(), "role": ""}, "unauthorized"),
        ({"permissions": frozenset(), "role": ""}, "insufficient_permissions"),
    ],
)
async def test_users_then_permissions_then_the_role(change: dict[str, Any], code: str) -> None:
    assert await outcome(EVERYTHING, Caller(**{**FITTING, **change})) == code


@pytest.mark.parametrize("rules", [AccessRules(), AccessRules(users=frozenset("*"), roles=frozenset("*"))])
async def test_nothing_asked_for_is_everybody(rules: AccessRules) -> None:
    assert await outcome(rules, ANYBODY) == "ok"


async def test_system_is_a_role_like_any_other() -> None:
    rules = AccessRules(roles=frozenset({"system"}))
    assert await outcome(rules, Caller(role="coach")) == "unauthorized_role"
    assert await outcome(AccessRules(roles=frozenset({"coach"})), Caller(role="system")) == "unauthorized_role"


async def test_a_refusal_says_what_is_missing_and_is_recorded() -> None:
    async with AsyncExec(workers=1, pool_size=1) as exec:

        @exec.tool(policies=Policies(access=AccessRules(permissions=frozenset({"see", "pay"}))))
        def pay() -> int:
            return 1

        code = """
        try:
            tools.pay()
        except tools.ToolError as error:
            return error.code, error.details, error.retryable
        """
        caller = Caller(permissions=frozenset({"see"}))
        result = await exec.execute_code(code, caller=caller)
        assert result.value == ["insufficient_permissions", {"missing": ["pay"]}, False]
        assert [(call.status, call.attempts) for call in result.tool_calls] == [("refused", 0)]
        allowed = await exec.execute_code("return tools.pay()", caller=Caller(permissions=frozenset({"see", "pay"})))
        assert allowed.value == 1


@given(
    users=st.frozensets(st.sampled_from(["a", "b"])),
    permissions=st.frozensets(st.sampled_from(["p", "q"])),
    roles=st.frozensets(st.sampled_from(["r", "s", "system"])),
    user=st.sampled_from(["", "a", "b"]),
    held=st.frozensets(st.sampled_from(["p", "q"])),
    role=st.sampled_from(["", "R", "s", "System"]),
)
def test_the_first_rule_that_does_not_hold_is_the_one_told(
    users: frozenset[str],
    permissions: frozenset[str],
    roles: frozenset[str],
    user: str,
    held: frozenset[str],
    role: str,
) -> None:
    rules = AccessRules(users=users, permissions=permissions, roles=roles)
    refusal = rules.refusal("t", Caller(user_id=user, permissions=held, role=role))
    broken = [
        kind
        for kind, holds in (
            (Unauthorized, not users or user in users),
            (PermissionMissing, permissions <= held),
            (RoleDenied, not roles or role.lower() in roles),
        )
        if not holds
    ]
    assert type(refusal) is (broken[0] if broken else type(None))


@pytest.mark.parametrize(
    "options", [{"users": "ann"}, {"roles": [""]}, {"users": [" "]}, {"permissions": [3]}, {"permissions": ["*"]}]
)
def test_rules_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        AccessRules(**options)


def test_rules_are_written_and_read() -> None:
    written = {"access": {"kind": "rules", "users": ["ann"], "permissions": [], "roles": ["coach"]}}
    policies = policies_from_json({"access": {"kind": "rules", "users": ["ann"], "roles": ["COACH"]}})
    assert policies.access == AccessRules(users=frozenset({"ann"}), roles=frozenset({"coach"}))
    assert policies_json(policies) == written
    with pytest.raises(InvalidRequest, match="groups"):
        policies_from_json({"access": {"kind": "rules", "groups": ["x"]}})
