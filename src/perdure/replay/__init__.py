"""Replay: a workflow task's history in, commands out; no I/O, no clock, no chance.

`WorkflowRun` is one cached execution of a workflow: fed with history events it runs the user's code on a
deterministic event loop and answers an `Outcome`. `WorkflowDefinition` says what to run. `perdure.replay.ports` names
what comes in from outside, `perdure.replay.context` is how the authoring API finds the running workflow.
"""

from perdure.replay.definition import REGISTRY, HandlerDefinition, Signature, WorkflowDefinition
from perdure.replay.outcome import Outcome, StepCall, StepsNeeded, TaskCompleted, TaskFailed
from perdure.replay.ports import ActivityCancellationType, ActivityOptions, Converter, Guard, PayloadConverter
from perdure.replay.run import WorkflowRun

__all__ = [
    "REGISTRY",
    "ActivityCancellationType",
    "ActivityOptions",
    "Converter",
    "Guard",
    "HandlerDefinition",
    "Outcome",
    "PayloadConverter",
    "Signature",
    "StepCall",
    "StepsNeeded",
    "TaskCompleted",
    "TaskFailed",
    "WorkflowDefinition",
    "WorkflowRun",
]
