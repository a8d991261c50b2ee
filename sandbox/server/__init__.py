"""Servers that put an `AsyncExec` within reach of other processes."""
