"""The demo's CSV: what it takes, and what it says of anything else."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from perdure.cli.demo.orders import COLUMNS, OrderRow, example_folder, read_orders
from perdure.cli.errors import CliError

HEAD = ",".join(COLUMNS)
ROW = "A1,Ada,ada@example.com,MUG-12,2,2500,4242-4242-4242-4242,DE"


def write(folder: Path, *lines: str) -> Path:
    file = folder / "orders.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_the_example_has_200_orders() -> None:
    orders = read_orders(example_folder() / "orders.csv")
    assert len(orders) == 200
    assert sum(order.card.endswith("-0002") for order in orders) > 0


def test_columns_are_the_fields() -> None:
    assert list(COLUMNS) == [field.name for field in dataclasses.fields(OrderRow)]


def test_a_good_file(tmp_path: Path) -> None:
    assert read_orders(write(tmp_path, HEAD + ",note", ROW + ",gift"))[0].amount_cents == 2500


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEAD.replace(",card", ""), ROW], "lacks the column card"),
        ([HEAD], "has no orders"),
        ([], "lacks the columns"),
        ([HEAD, ROW, ROW], "line 3: order A1 stands there twice"),
        ([HEAD, ROW.replace(",2,", ",two,")], "line 2: quantity is 'two'"),
        ([HEAD, ROW.replace(",2,", ",-2,")], "line 2: quantity is -2"),
        ([HEAD, ROW.replace("A1", "")], "line 2: order_id is empty"),
        ([HEAD, "A1,Ada"], "line 2: email is empty"),
    ],
)
def test_bad_files(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(CliError, match=message) as caught:
        read_orders(write(tmp_path, *lines))
    assert caught.value.hint


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="can't be read"):
        read_orders(tmp_path / "none.csv")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    file = tmp_path / "orders.csv"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CliError, match="can't be read"):
        read_orders(file)


def test_the_path_is_left_as_it_was() -> None:
    assert str(example_folder()) not in sys.path
