"""The server: an engine's RPCs over gRPC.

`Server` listens at an address and answers with the functions of `EngineService`: `handlers` turns each RPC of the table
(`perdure.engine.service.table`) into a handler on bytes, `status` turns refusals into gRPC's statuses. This package
imports the engine and the API, never the SDK; the engine knows nothing of it.
"""

from perdure.server.server import Server

__all__ = ["Server"]
