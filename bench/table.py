"""What is measured against which budget, and how a result is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["Budget", "Row", "print_table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """One figure of a row and what it may be.

    Attributes:
        metric: its name in the row's result.
        label: its name for people, with the unit.
        limit: the budget; None = told, not judged.
        at_least: True if more is better.
        digits: decimal places shown.
    """

    metric: str
    label: str
    limit: float | None = None
    at_least: bool = False
    digits: int = 2

    def met_by(self, value: float) -> bool | None:
        if self.limit is None:
            return None
        return value >= self.limit if self.at_least else value <= self.limit

    def shown(self, value: float) -> str:
        return f"{value:,.{self.digits}f}"

    @property
    def limit_shown(self) -> str:
        return "" if self.limit is None else f"{'≥' if self.at_least else '≤'} {self.limit:,g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the budget table."""

    name: str
    what: str
    measure: Callable[..., Mapping[str, float]]
    budgets: tuple[Budget, ...]
    timeout_s: float = 240


def print_table(rows: list[Row], results: Mapping[str, Mapping[str, float] | str], console: Console) -> None:
    """One line a figure; a row that failed says why."""
    table = Table(title="Perdure, embedded, durable settings on", box=None, pad_edge=False)
    for column in ("row", "figure"):
        table.add_column(column, no_wrap=True)
    for column in ("measured", "budget"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        result = results.get(row.name)
        if result is None:
            continue
        table.add_row(f"[bold]{row.name}[/]", f"[bold]{row.what}[/]")
        if isinstance(result, str):
            table.add_row("", f"[red]failed: {escape(result)}[/]")
            continue
        for budget in row.budgets:
            value = result[budget.metric]
            met = budget.met_by(value)
            mark = "" if met is None else "[green]✓[/]" if met else "[red]✗ miss[/]"
            table.add_row("", budget.label, budget.shown(value), budget.limit_shown, mark)
    console.print(table)
