"""`penstock lineage`: from a version to its events, and from an event to its versions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from penstock.cli.connect import data_option
from penstock.cli.show import as_json as json_option
from penstock.cli.show import moment, next_commands, say, show, show_json, show_record

TELL_EVERY_S = 2.0
SPANS_SHOWN = 6
VERSION_LINES = (
    ("version", "version"),
    ("receipt.cause", "cause"),
    ("receipt.parent", "parent"),
    ("receipt.restores", "restores version"),
    ("step", "published by step"),
    ("published", "published"),
    ("own", "learned since the parent"),
    ("learned", "learned in all"),
    ("withdrawn", "withdrawn by rollbacks"),
    ("set_aside", "set aside since the parent, by source"),
    ("receipt.verdict", "verdict"),
    ("base.id", "base"),
    ("base.promoted", "base, promoted as version"),
    ("base.consolidation", "base, of consolidation"),
    ("base.trained", "base, trained on events"),
    ("trained_until", "base, trained on events of"),
    ("base.parent", "base, trained on from"),
    ("base.configuration", "put in force by a challenge"),
    ("weights", "weights, SHA-256"),
    ("spec_hash", "service file, SHA-256"),
    ("code", "source of Penstock, SHA-256"),
    ("environment.penstock", "Penstock"),
    ("environment.python", "Python"),
    ("environment.libraries", "libraries"),
    ("environment.blas", "BLAS"),
    ("environment.processor", "processor"),
    ("environment.threads", "threads"),
)
EVENT_COLUMNS = (
    ("kind", "KIND"),
    ("partition", "PARTITION"),
    ("offset", "OFFSET"),
    ("appended", "APPENDED"),
    ("answered_by", "ANSWERED BY"),
    ("step", "STEP"),
    ("version", "FIRST IN VERSION"),
    ("receipt", "RECEIPT OF"),
    ("withdrawn_by", "WITHDRAWN BY"),
)


@click.command()
@click.argument("service")
@click.argument("version", type=click.IntRange(min=1), required=False)
@click.option("--event", metavar="ID", help="Where the events with this id stand, and what became of them.")
@click.option("--prediction", metavar="ID", help="Which version answered it, and where that comes from.")
@json_option
@data_option
def lineage(
    service: str, version: int | None, event: str | None, prediction: str | None, as_json: bool, data: Path
) -> None:
    """Where a version comes from, or where an event went.

    Give a VERSION, --event or --prediction. An id takes one pass over the log; SERVICE may be running or not.
    """
    from penstock.events import Version
    from penstock.service import archive_of

    if sum(given is not None for given in (version, event, prediction)) != 1:
        raise click.UsageError("Give one of: a version, --event ID, --prediction ID")
    with archive_of(service, data) as archive:
        if version is not None:
            found = archive.of_version(Version(version))
            _show_version(msgspec.to_builtins(found), as_json)
        elif event is not None:
            _show_event(msgspec.to_builtins(archive.of_event(event, _Progress())), as_json)
        else:
            asked, answered = archive.of_prediction(str(prediction), _Progress())
            if as_json:
                show_json({"prediction": asked, "version": answered})
                return
            _show_event(msgspec.to_builtins(asked), as_json=False)
            click.echo()
            _show_version(msgspec.to_builtins(answered), as_json=False)


class _Progress:
    """Says on stderr how far a search is, where it takes long."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told >= TELL_EVERY_S:
            self._told = now
            say(f"{done:,} of {total:,} events looked through")


def _show_version(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_record(found, VERSION_LINES, json=True)
        return
    receipt, base = found["receipt"], found["base"]
    if receipt["version"] != found["version"]:
        say(f"Old receipts are merged: this one covers {receipt['parent'] + 1:,} to {receipt['version']:,}.\n")
    until = [f"partition {partition} before {offset:,}" for partition, offset in (base or {}).get("trained_until", ())]
    more = {
        "published": moment(receipt["time"]),
        "own": _spans(receipt["ranges"]),
        "learned": _spans(found["learned"]),
        "withdrawn": _spans(found["withdrawn"]),
        "set_aside": receipt["set_aside"] or None,
        "trained_until": ", ".join(until) or None,
        "weights": receipt["weights"] or None,
        "spec_hash": found["spec_hash"] or None,
        "code": found["code"] or None,
    }
    show_record(found | more, VERSION_LINES)
    next_commands(f"penstock verify {found['service']} {found['version']}")


def _show_event(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(found)
        return
    show([place | {"appended": moment(place["time"])} for place in found["places"]], EVENT_COLUMNS)


def _spans(ranges: Sequence[Sequence[int]]) -> str | None:
    """Ranges as people read them."""
    told = [f"{start:,} to {stop - 1:,} of partition {partition}" for partition, start, stop in ranges]
    more = f" and {len(told) - SPANS_SHOWN} more" if len(told) > SPANS_SHOWN else ""
    return ", ".join(told[:SPANS_SHOWN]) + more if told else None
