"""`penstock plan`: where a service should run, and what that costs."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from penstock.cli.finite import Finite
from penstock.cli.show import as_json as json_option
from penstock.cli.show import say, show, show_json

if TYPE_CHECKING:
    from penstock.cli.planning.measured import Measured
    from penstock.spec import Spec

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
START_S = 1.0
"""Of a server that was not measured: Python, its libraries, and the weights."""
_POSITIVE = Finite(min=0, min_open=True)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--rps", type=_POSITIVE, help="Predictions a second on average; with --traffic, instead of the trace's.")
@click.option("--swing", type=Finite(0, 1), default=0.0, help="How far the day goes up and down, 0 to 1.")
@click.option("--traffic", "trace", type=_FILE, help="CSV file with a column of times: seconds, or ISO 8601.")
@click.option(
    "--p99-ms", type=_POSITIVE, default=200.0, show_default=True, help="In which 99 of 100 answers are wanted."
)
@click.option("--fresh-s", type=_POSITIVE, help="In which 99 of 100 events are wanted in the predictions.")
@click.option("--events", type=Finite(min=0), default=1.0, show_default=True, help="Learned for each prediction.")
@click.option("--frozen", is_flag=True, help="Nothing is learned any more.")
@click.option("--survive-machine", is_flag=True, help="Predictions must go on while any one machine is down.")
@click.option(
    "--gpu", type=click.Choice(["none", "learning", "serving"]), help="What needs one [default: as the file says]"
)
@click.option("--accelerator", metavar="KIND", help="Of this kind, such as L4.")
@click.option("--image-mib", type=_POSITIVE, default=500.0, show_default=True, help="Of the image, unpacked.")
@click.option("--request-ms", type=_POSITIVE, help="Processor time of a prediction [default: measured]")
@click.option("--learn-us", type=_POSITIVE, help="Processor time of an event [default: measured]")
@click.option("--memory-mib", type=_POSITIVE, help="Of a server, and of the learner [default: measured]")
@click.option("--cloud", help="Only this one [default: all of the price list]")
@click.option("--prices", "own", type=_FILE, help="Your own price list; see `penstock prices`.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the simulations.")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="A page with the plot: plan.html")
@json_option
def plan(file: Path, as_json: bool, out: Path | None, **given: Any) -> int:
    """Where a service should run, and what that costs.

    Simulates it on one machine, on Kubernetes with processors, with GPUs and with spot nodes, as functions, and as both
    on the traffic, drops what breaks a hard limit and says which, and where the choice becomes another one. What the
    service takes is measured here for half a minute, unless all three of --request-ms, --learn-us and --memory-mib say
    it. Exits with 1 where nothing holds what is wanted.
    """
    from penstock.cli.planning.asked import Asked, traffic_of, workload_of
    from penstock.cli.planning.page import written
    from penstock.cli.planning.report import columns, report, rows, words
    from penstock.control.plan.options import Assumptions, Market
    from penstock.control.prices.catalogue import load, warnings
    from penstock.specfile.reader import load as load_spec

    if given["rps"] is None and given["trace"] is None:
        raise click.UsageError("Say how much comes: --rps, or --traffic with a trace")
    if out is not None and out.suffix != ".html":
        page = out.with_suffix(".html")
        raise click.BadParameter(
            f"the plot is drawn into a page, and no picture is written: {page}", param_hint="--out"
        )
    spec = load_spec(file)
    catalogue = load(given["own"])
    market = Market(catalogue, Assumptions(), given["cloud"])
    if not market.clouds:
        there = ", ".join(sorted({each.cloud for each in catalogue.instances}))
        raise click.BadParameter(f"there is no {given['cloud']!r}; there are {there}", param_hint="--cloud")
    asked = Asked(
        rps=given["rps"],
        swing=given["swing"],
        trace=given["trace"],
        p99_s=given["p99_ms"] / 1e3,
        fresh_s=given["fresh_s"],
        gpu=given["gpu"],
        accelerator=given["accelerator"],
        survives_machine=given["survive_machine"],
        frozen=given["frozen"],
        events_per_request=given["events"],
        image_mib=given["image_mib"],
    )
    traffic, times = traffic_of(asked)
    measured = _measured(spec, given)
    found = report(
        workload_of(spec, measured, traffic, asked), market, measured, spec.name, times=times, seed=given["seed"]
    )
    told = warnings(market.used(), datetime.date.today())
    if out is not None:
        out.write_text(written(found, file), encoding="utf-8")
        say(f"Wrote {out}")
    if as_json:
        show_json({**found.plain(), "warnings": told})
    else:
        show(rows(found), columns(catalogue.currency))
        for sentence in words(found, file):
            click.echo(sentence)
        for warning in told:
            say(f"Warning: {warning}")
    return 0 if found.chosen is not None else 1


def _measured(spec: Spec, given: dict[str, Any]) -> Measured:
    from penstock.cli.planning.measured import Measured, measure

    request_ms, learn_us, memory_mib = (given[name] for name in ("request_ms", "learn_us", "memory_mib"))
    if None in (request_ms, learn_us, memory_mib):
        say("Measuring the service here: half a minute, more the first time")
        found = measure(spec)
    else:
        found = Measured(request_s=0.0, learn_s=0.0, server_mib=0.0, learner_mib=0.0, start_s=START_S, where="given")
    own: dict[str, float] = {}
    own |= {} if request_ms is None else {"request_s": request_ms / 1e3}
    own |= {} if learn_us is None else {"learn_s": learn_us / 1e6}
    own |= {} if memory_mib is None else {"server_mib": memory_mib, "learner_mib": memory_mib}
    return msgspec.structs.replace(found, **own)
