"""Where a backend is known to differ from the contract. Each entry is a strict xfail: it fails when the gap closes."""

from collections.abc import Mapping

_NOT_IN_THE_COMPONENT = "componentize-py builds its CPython without this C library"
_ITS_OWN = "a container has a file system of its own, with an /etc/passwd; the host's is not in it"
_PROCESSES = "a container has processes of its own; they are bounded, and gone with it"
_LIBRARIES = "a container has a C library of its own; what it may ask of the kernel is filtered"
_ITS_INIT = "process 1 is the guest's own init, with an environment of ours; gVisor does not hide it from its user"

_CONTAINED = {
    "test_profile_standard_isolates_or_refuses[host files]": _ITS_OWN,
    "test_profile_standard_isolates_or_refuses[folders above]": _ITS_OWN,
    "test_profile_standard_isolates_or_refuses[links]": _ITS_OWN,
    "test_profile_standard_isolates_or_refuses[processes]": _PROCESSES,
    "test_profile_standard_isolates_or_refuses[libraries]": _LIBRARIES,
}
"""What a guest of a container finds that one of WebAssembly does not; none of it is the host's."""

KNOWN_GAPS: Mapping[tuple[str, str], str] = {
    ("wasm", "test_the_module_works[bz2]"): _NOT_IN_THE_COMPONENT,
    ("wasm", "test_the_module_works[lzma]"): _NOT_IN_THE_COMPONENT,
    **{("docker", test): reason for test, reason in _CONTAINED.items()},
    ("gvisor", "test_profile_standard_isolates_or_refuses[processes]"): _PROCESSES,
    ("gvisor", "test_profile_standard_isolates_or_refuses[libraries]"): _LIBRARIES,
    ("gvisor", "test_profile_standard_isolates_or_refuses[other processes]"): _ITS_INIT,
}
"""By backend and test (`test_name`, or `test_name[case]`): why it cannot hold there."""

NO_LANGUAGE: Mapping[tuple[str, str], str] = {
    ("wasm", "bash"): "a guest in WebAssembly has no processes",
    ("wasm", "javascript"): "the component holds CPython only",
}
"""By backend and language: why its guests never speak it."""
