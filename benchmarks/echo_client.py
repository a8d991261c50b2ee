"""The bare round trip that a tool call rides on: one gRPC stream, one small frame each way. Run by run.py."""

import json
import queue
import sys
import time

import grpc

from gateway.v1 import gateway_pb2 as pb

CALL = pb.ToolCall(id=1, operation="run_tool", arguments=b'{"tool_id":"add","arguments":{"a":1,"b":1}}')


def main(address: str, count: int) -> list[float]:
    outbox: queue.SimpleQueue[pb.GuestFrame | None] = queue.SimpleQueue()
    stream = grpc.insecure_channel(address).stream_stream(
        "/echo/Echo",
        request_serializer=pb.GuestFrame.SerializeToString,
        response_deserializer=pb.HostFrame.FromString,
    )(iter(outbox.get, None))
    replies = iter(stream)
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        outbox.put(pb.GuestFrame(tool_call=CALL))
        next(replies)
        seconds.append(time.perf_counter() - started)
    outbox.put(None)
    return seconds


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
