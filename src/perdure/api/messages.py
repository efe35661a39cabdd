"""Short names for the API's messages: ``m.HistoryEvent``, ``m.Payload``, ``m.StartWorkflowExecutionRequest``.

Use as ``from perdure.api import messages as m``. No name means two things: where packages clash, the last import
below says which one is meant, and a tidy test checks that it lists every clash. Enum values keep their full names:
``m.EventType.EVENT_TYPE_TIMER_FIRED``.
"""

# This module exists to gather the API's names in one place.
# ruff: noqa: F403
# pyright: reportWildcardImportFromLibrary=false
from temporalio.api.activity.v1 import *
from temporalio.api.batch.v1 import *
from temporalio.api.command.v1 import *
from temporalio.api.common.v1 import *
from temporalio.api.deployment.v1 import *
from temporalio.api.enums.v1 import *
from temporalio.api.errordetails.v1 import *
from temporalio.api.failure.v1 import *
from temporalio.api.filter.v1 import *
from temporalio.api.history.v1 import *
from temporalio.api.namespace.v1 import *
from temporalio.api.operatorservice.v1 import *
from temporalio.api.protocol.v1 import *
from temporalio.api.query.v1 import *
from temporalio.api.schedule.v1 import *
from temporalio.api.sdk.v1 import *
from temporalio.api.taskqueue.v1 import *
from temporalio.api.update.v1 import *
from temporalio.api.worker.v1 import *
from temporalio.api.workflow.v1 import *
from temporalio.api.workflow.v1 import CallbackInfo as CallbackInfo
from temporalio.api.workflow.v1 import OnConflictOptions as OnConflictOptions
from temporalio.api.workflowservice.v1 import *
