"""Where a backend is known to differ from the contract. Each entry is a strict xfail: it fails when the gap closes."""

from collections.abc import Mapping

KNOWN_GAPS: Mapping[tuple[str, str], str] = {}
"""By backend and test (`test_name`, or `test_name[case]`): why it cannot hold there."""
