"""Programs as tools."""

from gateway.providers.cli.program import CliProvider, cli_tool

__all__ = ["CliProvider", "cli_tool"]
