"""Where a backend is known to differ from the contract. Each entry is a strict xfail: it fails when the gap closes."""

from collections.abc import Mapping

_NOT_IN_THE_COMPONENT = "componentize-py builds its CPython without this C library"

KNOWN_GAPS: Mapping[tuple[str, str], str] = {
    ("wasm", "test_the_module_works[bz2]"): _NOT_IN_THE_COMPONENT,
    ("wasm", "test_the_module_works[lzma]"): _NOT_IN_THE_COMPONENT,
}
"""By backend and test (`test_name`, or `test_name[case]`): why it cannot hold there."""
