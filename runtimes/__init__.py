"""Backends and what they share: limits, warm pools, the supervisor of one execution, and the guest side."""
