"""Where a command's workflows are: in a database file, or behind a server's address.

Each command that asks or changes something takes these options. Without any it is the file ``perdure.db``; a process
that has the file open does not have to stop. A server that wants an API key finds it in ``PERDURE_API_KEY``; an
address that begins with ``https://`` is spoken to over TLS.
"""

from __future__ import annotations

import os
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
        if self.address is None:
            return await Client.connect(existing_database(self.db), namespace=self.namespace)
        # Not an option: other users of the machine can read a command's.
        api_key = os.environ.get("PERDURE_API_KEY")
        return await Client.connect(self.address, namespace=self.namespace, api_key=api_key)


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
