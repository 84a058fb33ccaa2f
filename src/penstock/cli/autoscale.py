"""`penstock autoscale`: our autoscaling policy as objects of Kubernetes or KEDA, with what they are worth beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.finite import Finite
from penstock.cli.show import as_json as json_option
from penstock.cli.show import next_commands, say, show, show_json

if TYPE_CHECKING:
    from penstock.deploy.autoscaling import Kafka

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_POSITIVE = Finite(min=0, min_open=True)
_KAFKA = "The learner's lag is that of a topic in Kafka instead of what servers tell."


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--rps", type=_POSITIVE, help="Predictions a second on average; with --traffic, instead of the trace's.")
@click.option("--swing", type=Finite(0, 1), default=0.0, help="How far the day goes up and down, 0 to 1.")
@click.option("--traffic", "trace", type=_FILE, help="CSV file with a column of times: seconds, or ISO 8601.")
@click.option("--wait-ms", type=_POSITIVE, default=1000.0, show_default=True, help="Who waits for longer is late.")
@click.option("--late", type=Finite(0, 1), default=0.01, show_default=True, help="Share that may be late.")
@click.option("--request-ms", type=_POSITIVE, help="How long a prediction takes [default: measured]")
@click.option(
    "--at-once", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Requests that a replica works on."
)
@click.option(
    "--start-s", type=_POSITIVE, help="From asking for a replica to its first answer [default: a node's and more]"
)
@click.option("--largest", type=click.IntRange(1, 5000), default=40, show_default=True, help="Replicas at most.")
@click.option(
    "--as", "form", type=click.Choice(["hpa", "keda"]), default="keda", show_default=True, help="What is written."
)
@click.option("--prometheus", metavar="URL", default="http://prometheus-operated.monitoring:9090", show_default=True)
@click.option("--kafka", metavar="BROKERS/TOPIC/GROUP", help=_KAFKA)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the requests that are drawn."
)
@click.option("-o", "--out", type=click.Path(file_okay=False, path_type=Path), help="A folder for the files.")
@json_option
def autoscale(file: Path, as_json: bool, out: Path | None, **given: Any) -> int:
    """Write what scales a service on Kubernetes, tried on traffic.

    Finds the floor and the target with which the autoscaler would have kept the promise on this traffic, or that a
    fixed count costs less; reads back what it writes, lets the same requests come to it, and shows what that comes to
    beside a fixed count and Penstock's own policy. Applies nothing. Where no count up to --largest keeps the promise
    nothing is written, and it exits with 1.
    """
    from penstock.cli.planning.scaled import Asked, columns, rows, scaled, words
    from penstock.specfile.reader import load as load_spec

    if given["rps"] is None and given["trace"] is None:
        raise click.UsageError("Say how much comes: --rps, or --traffic with a trace")
    kafka = _kafka(given.pop("kafka"))
    if kafka is not None and given["form"] == "hpa":
        raise click.UsageError("--kafka is for --as keda: the plain autoscaler cannot let the learner rest")
    found = scaled(load_spec(file), Asked(**given, kafka=kafka), say)
    if as_json:
        show_json(found)
    else:
        show(rows(found), columns())
        for sentence in words(found):
            click.echo(sentence)
    if not found.kept:
        return 1
    if out is None:
        say("Nothing was written: say where with -o")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    for name, text in found.files.items():
        (out / name).write_text(text, encoding="utf-8")
        say(f"Wrote {out / name}")
    next_commands(*(f"kubectl diff -f {out / name}" for name in found.files if not name.startswith("prometheus-")))
    return 0


def _kafka(text: str | None) -> Kafka | None:
    from penstock.deploy.autoscaling import Kafka

    if text is None:
        return None
    parts = text.split("/")
    if len(parts) != 3 or not all(parts):
        raise click.BadParameter(f"{text!r} should be brokers/topic/group", param_hint="--kafka")
    return Kafka(*parts)
