"""Testing: workflows on virtual time, activities by themselves, histories against today's code."""

from perdure.testing.activities import ActivityEnvironment
from perdure.testing.environment import Environment, WorkflowEnvironment
from perdure.testing.replayer import Replayer, WorkflowReplayResult, WorkflowReplayResults

__all__ = [
    "ActivityEnvironment",
    "Environment",
    "Replayer",
    "WorkflowEnvironment",
    "WorkflowReplayResult",
    "WorkflowReplayResults",
]
