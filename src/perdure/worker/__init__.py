"""Running workflows and activities; see `Worker`."""

from perdure.worker.worker import Worker, WorkerStatistics

__all__ = ["Worker", "WorkerStatistics"]
