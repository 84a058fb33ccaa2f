"""`penstock bench stream`, `recover` and `swap`: the whole flow in real processes, under load, kills and swaps."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.cli.bench.asking import changed, command_line, measured_disk, tell
from penstock.cli.show import as_json as json_option
from penstock.cli.show import say


@click.command()
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
@measured_disk
def stream(
    as_json: bool,
    quick: bool,
    events: int | None,
    repeats: int | None,
    paced_s: float | None,
    peers: bool,
    url: str,
    folder: Path | None,
) -> None:
    """Events accepted durably and learned, freshness, predictions meanwhile.

    Runs `penstock up` with a temporary data folder under load for two to three minutes, then its parts alone and
    other libraries on the same stream. Progress goes to stderr.
    """
    from penstock.cli.benchmarks.report import tables, words
    from penstock.cli.benchmarks.stream import QUICK, Settings, measure

    settings = changed(
        QUICK if quick else Settings(),
        peers=peers,
        url=url,
        folder=folder,
        events=events,
        repeats=repeats,
        paced_s=paced_s,
    )
    tell(measure(settings, command_line(), say), as_json, words, tables)


@click.command()
@json_option
@click.option("--quick", is_flag=True, help="A minute and a half: twelve kills. For a look, not for a claim.")
@click.option("--kills", type=click.IntRange(min=1), help="How many [default: 100]")
@click.option("--seed", type=click.IntRange(min=0), help="Of what is killed when [default: 0]")
@click.option("--ids/--no-ids", default=True, show_default=True, help="Whether it is measured what ids cost.")
@measured_disk
def recover(as_json: bool, quick: bool, kills: int | None, seed: int | None, ids: bool, folder: Path | None) -> int:
    """What is lost when processes are killed, and how soon they learn again.

    Runs `penstock up` with a million events in its log under clients that repeat what was not answered, kills the
    learner, the server and the supervisor at seeded random moments, and compares what was acknowledged and the state
    that is left with every recorded step taken again in one go. Measures memory and restarts by the log's length, and
    what ids cost. Takes some seven minutes; progress goes to stderr. Exit code 1 where anything was lost, learned
    twice, torn or computed otherwise.
    """
    from penstock.cli.benchmarks.recover import QUICK, Settings, measure, tables, words

    settings = changed(
        QUICK if quick else Settings(), kills=kills, seed=seed, folder=folder, ids_events=None if ids else 0
    )
    report = measure(settings, command_line(), say)
    tell(report, as_json, words, tables)
    return 0 if report.is_sound else 1


@click.command()
@json_option
@click.option("--quick", is_flag=True, help="Half a minute: three rollbacks. For a look, not for a claim.")
@click.option("--versions", type=click.IntRange(min=1), help="Published at least [default: 1000]")
@click.option("--rollbacks", type=click.IntRange(min=1), help="How many [default: 50]")
@click.option("--connections", type=click.IntRange(min=1), help="That ask for predictions [default: 32]")
@click.option("--predictions", type=click.FloatRange(min=1), metavar="N", help="Asked for a second [default: 400]")
@measured_disk
def swap(
    as_json: bool,
    quick: bool,
    versions: int | None,
    rollbacks: int | None,
    connections: int | None,
    predictions: float | None,
    folder: Path | None,
) -> int:
    """What swaps of versions and rollbacks cost those who ask for predictions.

    Runs `penstock up` under load from a process of its own, publishes a version for each event, orders the last known
    good one back again and again, and looks at every answer. Takes some two to three minutes; progress goes to stderr.
    Exit code 1 where an answer was failed, torn, or of a version whose withdrawal was confirmed.
    """
    from penstock.cli.benchmarks.swap import QUICK, Settings, measure
    from penstock.cli.benchmarks.swap_report import tables, words

    settings = changed(
        QUICK if quick else Settings(),
        versions=versions,
        rollbacks=rollbacks,
        connections=connections,
        predictions_per_s=predictions,
        folder=folder,
    )
    report = measure(settings, command_line(), say)
    tell(report, as_json, words, tables)
    return 0 if report.is_sound else 1
