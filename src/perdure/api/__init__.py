"""The seam between the SDK and the engine.

`WorkflowService` is the protocol, `RpcError` its one error; `perdure.api.messages` holds short names for the
API's protobuf messages, `perdure.api.durations` and `perdure.api.framing` the conversions both halves share.
This package depends on nothing else of Perdure's.
"""

from perdure.api.errors import EngineStoppedError, RpcError, StatusCode
from perdure.api.service import WorkflowService

__all__ = ["EngineStoppedError", "RpcError", "StatusCode", "WorkflowService"]
