"""Where a command's workflows are: in a database file, or behind a server's address.

Each command that asks or changes something takes these options. Without any it is the file ``perdure.db``; a process
that has the file open does not have to stop.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.errors import CliError
from perdure.client import Client

__all__ = ["ADDRESS", "DATABASE", "NAMESPACE", "Address", "Database", "Namespace", "Target", "existing_database"]

Database = Annotated[Path, typer.Option("--db", help="The database file.")]
Address = Annotated[
    str | None,
    typer.Option("--address", envvar="PERDURE_ADDRESS", help="A server, HOST:PORT, rather than a database file."),
]
Namespace = Annotated[str, typer.Option(help="The namespace.")]

DATABASE = Path("perdure.db")
ADDRESS: str | None = None
NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class Target:
    """What the options say."""

    db: Path = DATABASE
    address: str | None = ADDRESS
    namespace: str = NAMESPACE

    async def connect(self) -> Client:
        """A client of it.

        Raises:
            CliError: there is no such database.
            PerdureError: it cannot be opened, or the server not reached.
        """
        where = existing_database(self.db) if self.address is None else self.address
        return await Client.connect(where, namespace=self.namespace)


def existing_database(db: Path) -> str:
    """The target of a database that must be there already.

    Raises:
        CliError: it is not.
    """
    if not db.is_file():
        raise CliError(
            f"there is no database {db}",
            "Give the file with --db (`perdure run` makes one), or a server with --address.",
        )
    return f"sqlite:{db}"
