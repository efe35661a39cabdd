"""Runs the rows, each in a fresh process, and prints the table.

python -m bench [--only NAME …] [--list]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from bench import floor
from bench.rows import ROWS
from bench.table import print_table

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> int:
    """Returns 1 if a row failed to run; a missed budget is shown, not an error."""
    options = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    options.add_argument("--only", action="append", metavar="NAME", help="this row only; may be given again")
    options.add_argument("--list", action="store_true", help="name the rows")
    options.add_argument("--row", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.list:
        for row in ROWS:
            print(f"{row.name:16} {row.what}")
        return 0
    if arguments.row:
        return _measure_here(arguments.row)
    unknown = set(arguments.only or ()) - {row.name for row in ROWS}
    if unknown:
        options.error(f"no such row: {', '.join(sorted(unknown))} (--list names them)")
    return _measure_all(arguments.only)


def _measure_here(name: str) -> int:
    """In the child: one row, one JSON object on stdout."""
    row = next(row for row in ROWS if row.name == name)
    with _folder() as folder:
        print(json.dumps(dict(row.measure(Path(folder)))))
    return 0


def _folder() -> tempfile.TemporaryDirectory[str]:
    RESULTS.mkdir(exist_ok=True)
    return tempfile.TemporaryDirectory(dir=RESULTS, prefix="run-", ignore_cleanup_errors=True)


def _measure_all(only: list[str] | None) -> int:
    console = Console(width=None if sys.stdout.isatty() else 110)
    rows = [row for row in ROWS if not only or row.name in only]
    results: dict[str, Mapping[str, float] | str] = {}
    begin = time.monotonic()
    with _folder() as folder:
        floors = floor.measure(Path(folder))
    for row in rows:
        console.print(f"[dim]{row.name}: {row.what}[/]")
        results[row.name] = _measure_apart(row.name, row.timeout_s)
    print_table(rows, results, console)
    console.print(
        "floor: "
        + ", ".join(f"{name.replace('_per_s', '/s').replace('_', ' ')} {value:,.0f}" for name, value in floors.items())
    )
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}"
    console.print(f"machine: {machine}, Python {platform.python_version()}; {time.monotonic() - begin:.0f} s in all")
    document = {"machine": machine, "python": platform.python_version(), "floor": floors, "rows": results}
    (RESULTS / "latest.json").write_text(json.dumps(document, indent=2) + "\n")
    console.print(f"written to {RESULTS / 'latest.json'}")
    return int(any(isinstance(result, str) for result in results.values()))


def _measure_apart(name: str, timeout_s: float) -> Mapping[str, float] | str:
    command = [sys.executable, "-m", "bench", "--row", name]
    try:
        done = subprocess.run(
            command, cwd=RESULTS.parent.parent, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not done after {timeout_s:.0f} s"
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
