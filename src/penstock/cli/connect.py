"""Which server a command talks to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from penstock.client import Client

DATA_DEFAULT = "penstock-data"

data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="PENSTOCK_DATA",
    show_envvar=True,
    default=DATA_DEFAULT,
    show_default=True,
    help="Folder of the service's data.",
)
"""For commands that read what is kept, whether a server runs or not."""


def connect(url: str | None) -> Client:
    """A client of the address given, of $PENSTOCK_URL, of the house on the data folder, or of the default address."""
    from penstock.client import Client
    from penstock.control.folder import read_state

    if url is None and "PENSTOCK_URL" not in os.environ:
        state = read_state(Path(os.environ.get("PENSTOCK_DATA", DATA_DEFAULT)))
        url = None if state is None else state.address
    return Client(url)


def only_service(client: Client) -> str:
    """The name of the one service there. Raises UsageError where there are several."""
    names = [str(service["name"]) for service in client.services()]
    if len(names) != 1:
        raise click.UsageError(f"Say which service: {', '.join(names) or 'there is none here'}")
    return names[0]
