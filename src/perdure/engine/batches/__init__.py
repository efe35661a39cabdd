"""Batch operations: one thing done to many workflows, by durable jobs (see `runner`)."""

from perdure.engine.batches.job import Failure, Job, JobState
from perdure.engine.batches.operations import check_operation, type_of
from perdure.engine.batches.runner import Batches

__all__ = ["Batches", "Failure", "Job", "JobState", "check_operation", "type_of"]
