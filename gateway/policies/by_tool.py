"""One choice for several tools: a default for all that is another for some, or only there for some."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from gateway.policies.base import Policy, PolicyConfig, Services

if TYPE_CHECKING:
    from gateway.tools.registry import RegisteredTool


@dataclass(frozen=True, slots=True, kw_only=True)
class ByTool:
    """`tools` has configs by tool id, with its version or without; `otherwise` is for all others, None for nothing."""

    kind: ClassVar[str] = "by_tool"

    tools: Mapping[str, PolicyConfig] = field(default_factory=dict)
    otherwise: PolicyConfig | None = None

    def build(self, tool: "RegisteredTool", services: Services) -> Policy | None:
        names = (tool.id, tool.tool.id.unversioned)
        config = next((self.tools[name] for name in names if name in self.tools), self.otherwise)
        return None if config is None else config.build(tool, services)
