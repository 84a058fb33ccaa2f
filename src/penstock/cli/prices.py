"""`penstock prices`: what machines cost, where that was read, and when."""

from __future__ import annotations

import datetime
from pathlib import Path

import click
import msgspec

from penstock.cli.show import as_json as json_option
from penstock.cli.show import say, show, show_json


@click.command()
@click.option("--gpu", is_flag=True, help="Machines with accelerators alone, the cheapest accelerator first.")
@click.option("--cloud", help="Only of this cloud, such as aws or gcp.")
@click.option(
    "--prices",
    "own",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Your own price list, in the form of the one that comes with Penstock; what it names replaces what is listed.",
)
@json_option
def prices(gpu: bool, cloud: str | None, own: Path | None, as_json: bool) -> None:
    """What machines cost an hour.

    The list comes with Penstock and nothing is fetched. Prices move: each says when it was read, and old ones are
    warned of.
    """
    from penstock.control.prices.catalogue import load, warnings

    catalogue = load(own)
    chosen = [each for each in catalogue.instances if cloud is None or each.cloud == cloud]
    if cloud is not None and not chosen:
        clouds = sorted({each.cloud for each in catalogue.instances})
        raise click.BadParameter(f"there is no {cloud!r}; there are {', '.join(clouds)}", param_hint="--cloud")
    if gpu:
        chosen = sorted(
            (each for each in chosen if each.accelerator is not None),
            key=lambda each: (each.price / max(each.gpus, 1), each.type),
        )
    rows = []
    for each in chosen:
        row = msgspec.to_builtins(each)
        per_gpu = each.price / each.gpus if each.gpus else None
        rows.append({**row, "per_gpu": per_gpu, "date": str(catalogue.sources[each.source].date)})
    found = warnings(catalogue, datetime.date.today())
    if as_json:
        rates = [msgspec.to_builtins(each) for each in catalogue.rates if cloud in (None, each.cloud)]
        sources = msgspec.to_builtins(catalogue.sources)
        show_json(
            {
                "currency": catalogue.currency,
                "instances": rows,
                "rates": [] if gpu else rates,
                "sources": sources,
                "warnings": found,
            }
        )
        return
    money = f"{catalogue.currency}/H"
    columns = [
        ("cloud", "CLOUD"),
        ("region", "REGION"),
        ("type", "TYPE"),
        ("vcpu", "VCPU"),
        ("memory_mib", "MIB"),
        ("accelerator", "ACCELERATOR"),
        ("gpus", "GPUS"),
        ("price", money),
        ("spot", f"SPOT {money}"),
        ("per_gpu", f"{money} A GPU"),
        ("date", "READ ON"),
    ]
    show(rows, columns if gpu else [each for each in columns if each[0] not in ("accelerator", "gpus", "per_gpu")])
    for warning in found:
        say(f"Warning: {warning}")
