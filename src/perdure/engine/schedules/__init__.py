"""Schedules: workflows started by the calendar (see `schedules` for the theory, `stepping` for the rules)."""

from perdure.engine.schedules.schedules import Schedule, Schedules

__all__ = ["Schedule", "Schedules"]
