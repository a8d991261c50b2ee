"""gRPC, imported with the pollers that are quickest for us. Everything of ours that runs in a host gets it from here.

gRPC reads its switches from the environment when a process first imports it. Switches that the operator set are left
alone, and ours are gone again at once: nothing that the host starts inherits them.
"""

import os

from gateway.endpoint import GRPC_EXPERIMENTS

_NAME = "GRPC_EXPERIMENTS"
_ours = _NAME not in os.environ
if _ours:
    os.environ[_NAME] = GRPC_EXPERIMENTS
try:
    import grpc
    import grpc.aio
finally:
    if _ours:
        del os.environ[_NAME]

__all__ = ["grpc"]
