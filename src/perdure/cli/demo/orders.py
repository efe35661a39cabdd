"""Where the order example lives, and reading a CSV of orders with its columns checked."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perdure.cli.errors import CliError

__all__ = ["COLUMNS", "MAX_ORDERS", "OrderRow", "example_folder", "read_orders"]

MAX_ORDERS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRow:
    """One row of the CSV; the order example's `Order` has the same fields."""

    order_id: str
    customer: str
    email: str
    sku: str
    quantity: int
    amount_cents: int
    card: str
    country: str


COLUMNS: dict[str, Callable[[str], str | int]] = {
    "order_id": str,
    "customer": str,
    "email": str,
    "sku": str,
    "quantity": int,
    "amount_cents": int,
    "card": str,
    "country": str,
}


def example_folder() -> Path:
    """The folder of the order example: beside this command if it is installed, else in the checkout.

    Raises:
        CliError: neither is there.
    """
    command = Path(__file__).resolve().parent.parent
    for folder in (command / "orders", command.parents[2] / "examples" / "orders"):
        if (folder / "workflow.py").is_file():
            return folder
    raise CliError("the order example is missing from this installation", "Install perdure again.")


def read_orders(file: Path) -> list[OrderRow]:
    """Read and check a CSV of orders.

    Raises:
        CliError: no such file, not UTF-8 text, a column missing, a value of the wrong kind, an order id twice, or
            no orders at all; names the line.
    """
    wanted = f"It takes a CSV file with the columns {', '.join(COLUMNS)}."
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{file} can't be read: {error}", wanted) from error
    reader = csv.DictReader(text.splitlines())
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise CliError(f"{file} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}", wanted)
    orders: dict[str, OrderRow] = {}
    for row in reader:
        order = _order_of(row, f"{file}, line {reader.line_num}")
        if order.order_id in orders:
            raise CliError(f"{file}, line {reader.line_num}: order {order.order_id} stands there twice", wanted)
        orders[order.order_id] = order
        if len(orders) > MAX_ORDERS:
            raise CliError(f"{file} has more than {MAX_ORDERS:,} orders", "Give the demo fewer.")
    if not orders:
        raise CliError(f"{file} has no orders", wanted)
    return list(orders.values())


def _order_of(row: dict[str, str | None], where: str) -> OrderRow:
    values: dict[str, str | int] = {}
    for column, convert in COLUMNS.items():
        text = (row.get(column) or "").strip()
        if not text:
            raise CliError(f"{where}: {column} is empty", "Every order needs a value in every column.")
        try:
            values[column] = convert(text)
        except ValueError as error:
            raise CliError(f"{where}: {column} is {text!r}", "It must be a whole number.") from error
    for column in ("quantity", "amount_cents"):
        number = values[column]
        if isinstance(number, int) and number <= 0:
            raise CliError(f"{where}: {column} is {number}", "It must be above 0.")
    return OrderRow(**values)  # pyright: ignore[reportArgumentType] - COLUMNS gives each field its type
