"""Choosing among tools that do the same, by how well they did."""

from gateway.selection.group import ToolGroup
from gateway.selection.selection import Selection
from gateway.selection.selector import Decision, reward

__all__ = ["Decision", "Selection", "ToolGroup", "reward"]
