"""`penstock up`: services, running."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from penstock.cli.connect import DATA_DEFAULT
from penstock.cli.show import next_commands, say


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="PENSTOCK_DATA",
    show_envvar=True,
    default=DATA_DEFAULT,
    show_default=True,
    help="Folder for everything that is kept.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 for all.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    envvar="PENSTOCK_PORT",
    show_envvar=True,
    default=7717,
    show_default=True,
    help="0 takes a free one.",
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Server processes.")
@click.option(
    "--budget",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A budget for all services together, and what this machine costs.",
)
def up(paths: tuple[Path, ...], data: Path, host: str, port: int, workers: int, budget: Path | None) -> None:
    """Run services until they are told to stop.

    PATHS are service files, or folders of which every .yaml and .yml file is one. Ctrl-C or SIGTERM drains: requests in
    flight are answered, everything acknowledged is kept, a second signal kills. Killing any process at any moment
    loses no acknowledged event either.
    """
    from penstock.control.house import run_house
    from penstock.specfile.reader import load_all

    specs = load_all(paths)
    if any(spec.learn.members for spec in specs.values()):
        from penstock.learn.outside.registry import check_members

        check_members(specs)
    # Counted in a folder of its own, and only by the processes that serve and learn.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

    def announce(address: str) -> None:
        names = ", ".join(spec.name for spec in specs.values())
        first = next(iter(specs.values())).name
        click.echo(f"Ready at {address}: {names}")
        say(f"Data in {data.absolute()}")
        at = "" if address == "http://127.0.0.1:7717" else f" --url {address}"
        next_commands(f"penstock ingest {first} events.csv{at}", f"penstock status{at}", f"curl {address}/v1/{first}")

    code = run_house(specs, data.absolute(), host=host, port=port, workers=workers, budget=budget, announce=announce)
    sys.exit(code)
