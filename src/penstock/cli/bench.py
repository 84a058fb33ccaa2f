"""`penstock bench`: figures of this machine, with the floors and the peers of the same run beside them."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

import click

from penstock.cli.show import as_json as json_option
from penstock.cli.show import say, show, show_json


@click.group()
def bench() -> None:
    """Measure what this machine reaches: real processes, their floors and their peers in the same run."""


@bench.command()
@json_option
@click.option("--quick", is_flag=True, help="Half a minute: fewer events, one repeat. For a look, not for a claim.")
@click.option(
    "--events", type=click.IntRange(min=1000), help="Events a repeat in JSON batches; Arrow gets four times as many."
)
@click.option("--repeats", type=click.IntRange(min=1), help="Repeats whose median is reported.")
@click.option(
    "--paced", "paced_s", type=click.FloatRange(min=0.2), metavar="SECONDS", help="Length of a paced stretch."
)
@click.option(
    "--peers/--no-peers", default=True, show_default=True, help="Whether other libraries learn the stream too."
)
@click.option(
    "--url", default="", help="Measure this service, such as http://127.0.0.1:7717/v1/stream, instead of a new one."
)
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    default=tempfile.gettempdir(),
    show_default=True,
    help="Where the data lie meanwhile: the disk that is measured.",
)
def stream(
    as_json: bool,
    quick: bool,
    events: int | None,
    repeats: int | None,
    paced_s: float | None,
    peers: bool,
    url: str,
    folder: Path,
) -> None:
    """Events accepted durably and learned, freshness, predictions meanwhile.

    Runs `penstock up` with a temporary data folder under load for two to three minutes, then its parts alone and
    other libraries on the same stream. Progress goes to stderr.
    """
    import msgspec

    from penstock.cli.benchmarks.report import tables, words
    from penstock.cli.benchmarks.stream import QUICK, Settings, measure

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the service that was started is stopped too
    given = {"events": events, "repeats": repeats, "paced_s": paced_s}
    settings = msgspec.structs.replace(
        QUICK if quick else Settings(),
        peers=peers,
        url=url,
        folder=folder,
        **{name: value for name, value in given.items() if value is not None},
    )
    command = " ".join(["penstock", *sys.argv[1:]])
    report = measure(settings, command, say)
    if as_json:
        show_json(report)
        return
    for sentence in words(report):
        click.echo(sentence)
    for title, rows in tables(report).items():
        click.echo(f"\n{title}")
        show(rows, [(name, name) for name in rows[0]])
