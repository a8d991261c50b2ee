"""The only door from guest to tools: tools, grants, the runner, the journal and the gRPC service in front of them."""
