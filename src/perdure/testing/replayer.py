"""Replaying recorded histories against today's code, to know before a deploy whether running workflows go on."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

from perdure.api import messages as m
from perdure.client import WorkflowHistory
from perdure.converter import DEFAULT_MAX_PAYLOAD_BYTES, DataConverter, default, limited
from perdure.exceptions import DefinitionError
from perdure.replay import guard as determinism
from perdure.replay.outcome import TaskFailed
from perdure.replay.ports import NO_GUARD
from perdure.replay.run import WorkflowRun
from perdure.worker.registry import workflows_by_name

__all__ = ["Replayer", "WorkflowReplayResult", "WorkflowReplayResults"]

_PAGE_EVENTS = 1000


@dataclass(frozen=True, slots=True)
class WorkflowReplayResult:
    """One replay; `replay_failure` is None if today's code does what the history recorded."""

    history: WorkflowHistory
    replay_failure: BaseException | None


@dataclass(frozen=True, slots=True)
class WorkflowReplayResults:
    """Several replays; failures by run id."""

    replay_failures: dict[str, BaseException]


class Replayer:
    """Replays histories.

    Example::

        history = await handle.fetch_history()
        await Replayer(workflows=[fulfil]).replay_workflow(history)
    """

    def __init__(
        self,
        *,
        workflows: Sequence[object],
        data_converter: DataConverter | None = None,
        namespace: str = "default",
        guard: bool = True,
    ) -> None:
        """Make a replayer.

        Args:
            workflows: as for `Worker`.
            data_converter: as the histories were written with.
            namespace: of the histories.
            guard: as for `Worker`.

        Raises:
            DefinitionError: something is not a workflow, or two have the same name.
        """
        self._definitions = workflows_by_name(workflows)
        self._converter = limited(data_converter or default(), DEFAULT_MAX_PAYLOAD_BYTES)
        self._namespace = namespace
        self._guard = determinism if guard else NO_GUARD
        if guard:
            determinism.install()

    async def replay_workflow(
        self, history: WorkflowHistory, *, raise_on_replay_failure: bool = True
    ) -> WorkflowReplayResult:
        """Replay one history.

        Raises:
            NondeterminismError: today's code does not do what the history recorded.
            DefinitionError: its workflow type is not among the workflows.
            ValueError: it is no history.
        """
        result = WorkflowReplayResult(history, self._replay(history))
        if result.replay_failure is not None and raise_on_replay_failure:
            raise result.replay_failure
        return result

    async def replay_workflows(
        self,
        histories: AsyncIterable[WorkflowHistory] | Iterable[WorkflowHistory],
        *,
        raise_on_replay_failure: bool = True,
    ) -> WorkflowReplayResults:
        """Replay several histories; see `replay_workflow`."""
        failures: dict[str, BaseException] = {}
        async for history in _each(histories):
            result = await self.replay_workflow(history, raise_on_replay_failure=raise_on_replay_failure)
            if result.replay_failure is not None:
                failures[history.run_id] = result.replay_failure
        return WorkflowReplayResults(failures)

    def _replay(self, history: WorkflowHistory) -> BaseException | None:
        run_id = history.run_id
        name = history.events[0].workflow_execution_started_event_attributes.workflow_type.name
        definition = self._definitions.get(name) or self._definitions.get(None)
        if definition is None:
            raise DefinitionError(
                f"the history is of workflow type {name!r}, which is not among the replayer's workflows"
            )
        run = WorkflowRun(definition, namespace=self._namespace, converter=self._converter, guard=self._guard)
        try:
            run.begin(
                m.PollWorkflowTaskQueueResponse(
                    workflow_execution=m.WorkflowExecution(workflow_id=history.workflow_id, run_id=run_id),
                    workflow_type=m.WorkflowType(name=name),
                    attempt=1,
                )
            )
            events = history.events
            for begin in range(0, len(events), _PAGE_EVENTS):
                run.feed(events[begin : begin + _PAGE_EVENTS], last=begin + _PAGE_EVENTS >= len(events))
            outcome = run.outcome()
        finally:
            run.close()
        return outcome.error if isinstance(outcome, TaskFailed) else None


async def _each(
    histories: AsyncIterable[WorkflowHistory] | Iterable[WorkflowHistory],
) -> AsyncIterator[WorkflowHistory]:
    if isinstance(histories, AsyncIterable):
        async for history in histories:
            yield history
    else:
        for history in histories:
            yield history
