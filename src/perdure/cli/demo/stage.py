"""What the demo shows: progress while it runs, then what was proven."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from perdure.cli.demo.director import Director
from perdure.cli.demo.director import Progress as Work
from perdure.cli.demo.orders import example_folder, read_orders
from perdure.cli.demo.proof import Proof
from perdure.cli.errors import CliError

__all__ = ["perform"]

VIOLATIONS_SHOWN = 20


class _Bar:
    """A progress bar on a terminal, a line every tenth elsewhere."""

    def __init__(self, console: Console, orders: int) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=40),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[steps]} steps"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(f"{orders} orders", total=1.0, steps=0)
        self._tenths = 0

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, work: Work) -> None:
        self._bar.update(self._task, completed=work.fraction, steps=work.steps)
        if not self._console.is_terminal and int(work.fraction * 10) > self._tenths:
            self._tenths = int(work.fraction * 10)
            self._console.print(f"  {self._tenths * 10:>3} %  {work.steps} steps")


def perform(csv: Path | None, kill_at: float, keep: Path | None, console: Console) -> int:
    """Run the demo; returns the exit status.

    Args:
        csv: the orders; the example's own if None.
        kill_at: fraction of the work after which the process is killed.
        keep: folder for the database and the ledger; a temporary one, kept only on failure, if None.
        console: where to show it.

    Raises:
        CliError: the orders can't be used, or the demo can't be performed.
    """
    csv = csv or example_folder() / "orders.csv"
    orders = read_orders(csv)
    folder = _folder(keep)
    passed = False
    try:
        proof = _perform(csv, [order.order_id for order in orders], kill_at, folder, console)
        passed = proof.holds
    finally:
        if keep is None and passed:
            shutil.rmtree(folder)
        else:
            console.print(f"The database and the ledger are in {folder}", style="dim", highlight=False)
    return 0 if passed else 1


def _folder(keep: Path | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="perdure-demo-"))
    keep.mkdir(parents=True, exist_ok=True)
    if any(keep.iterdir()):
        raise CliError(f"{keep} is not empty", "Give a new folder: the demo starts from nothing.")
    return keep.resolve()


def _perform(csv: Path, order_ids: list[str], kill_at: float, folder: Path, console: Console) -> Proof:
    bar = _Bar(console, len(order_ids))
    director = Director(folder, csv, order_ids, kill_at, bar.show)
    console.print(f"{len(order_ids)} orders: reserve, charge, label, e-mail, complete.")
    console.print("Some steps fail and are retried; some fail for good, and are undone in reverse.\n")
    with bar:
        killed = director.first_act()
    console.print(
        f"\n[bold red]kill -9 {killed.pid}[/] at {killed.fraction:.0%} of the work, after {killed.steps} steps"
    )
    recorded = asyncio.run(director.look_inside())
    console.print(
        f"The database holds {recorded.closed_runs} finished and {recorded.open_runs} unfinished orders,\n"
        f"and {len(recorded.completed_steps)} completed steps.\n"
    )
    with bar:
        resumed = director.second_act()
    proof = asyncio.run(director.verdict())
    console.print(
        f"\n[bold]Process {resumed.pid} resumed {recorded.open_runs} orders[/]: first step "
        f"{resumed.first_step_s:.2f} s\nafter it was started (Python's own start included), then {resumed.steps} "
        f"steps, {resumed.steps_per_s:,.0f} a second\n(each is slow outside, on purpose, and fsyncs the ledger).\n"
    )
    _tell(proof, len(recorded.completed_steps), console)
    return proof


def _tell(proof: Proof, recorded: int, console: Console) -> None:
    console.print("What the ledger of the outside world says:")
    claims = [
        f"every order is at its end: {proof.fulfilled} fulfilled, {proof.cancelled} cancelled and undone",
        f"no completed step ran twice: none of the {recorded} recorded at the kill ran again",
        f"no payment was charged twice: {_money(proof.charged_cents)} charged, {_money(proof.refunded_cents)} refunded",
    ]
    if proof.holds:
        for claim in claims:
            console.print(f"  [green]✓[/] {claim}", highlight=False)
        console.print(
            f"  {proof.repeated} steps were running when the process died, and were run again;\n"
            f"  {proof.retries} failed and were retried.\n\n[bold green]Proven.[/]",
            highlight=False,
        )
        return
    for violation in proof.violations[:VIOLATIONS_SHOWN]:
        console.print(f"  [red]✗[/] {violation}", highlight=False)
    if len(proof.violations) > VIOLATIONS_SHOWN:
        console.print(f"  … and {len(proof.violations) - VIOLATIONS_SHOWN} more")
    console.print("\n[bold red]Not proven.[/]")


def _money(cents: int) -> str:
    return f"{cents / 100:,.2f}"
