"""`penstock erase`: a person's events, and all that was learned from them, are no more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from penstock.cli.connect import data_option
from penstock.cli.show import as_json as json_option
from penstock.cli.show import moment, next_commands, say, show_record

LINES = (
    ("number", "erasure"),
    ("events_shown", "events erased"),
    ("places", "at offsets"),
    ("withdrawn_shown", "versions withdrawn"),
    ("from_shown", "rebuilt from"),
    ("version", "served now"),
    ("state", "state, SHA-256"),
    ("consolidations_shown", "consolidations withdrawn"),
    ("at_shown", "begun"),
    ("seconds", "seconds"),
)
PLACES_SHOWN = 6


@click.command()
@click.argument("service")
@click.option("--subject", metavar="ID", help="Whose events: what they say in `subject`, and what answers them.")
@click.option("--id", "event_id", metavar="ID", help="The events of one id instead.")
@click.option("--dry-run", is_flag=True, help="Say what would be erased, and change nothing.")
@json_option
@data_option
def erase(service: str, subject: str | None, event_id: str | None, dry_run: bool, as_json: bool, data: Path) -> int:
    """Erase a subject's events, and all that was learned from them.

    The log is written without them, and everything that was made of them is built anew from what is left: the model is
    to the byte what it would be if they had never come. Versions that may have known of them are withdrawn, and so are
    bases. SERVICE must not be running. An interrupted erasure goes on when it is asked for again; without --subject
    and --id one that was only about to end is finished.
    """
    from penstock.control.erase import resume
    from penstock.control.house import PENSTOCK, learner_environment
    from penstock.control.record import recorded

    if subject is not None and event_id is not None:
        raise click.UsageError("Give --subject or --id, not both")
    if subject is None and event_id is None:
        if not data.is_dir() or not resume(data, service):
            raise click.UsageError("Say whose events, with --subject ID or --id ID")
        say(f"The interrupted erasure of {service} is finished.")
        return 0
    if data.is_dir():
        resume(data, service)
    whose = ["--subject", str(subject)] if subject is not None else ["--id", str(event_id)]
    arguments = ["--data", str(data.absolute()), service, *whose, *(["--dry-run"] if dry_run else [])]
    # Threads and hashes are fixed before NumPy is imported, as they are for a learner.
    environment = os.environ | learner_environment(recorded(data, service))
    with subprocess.Popen([*PENSTOCK, "_erase", *arguments], stdout=subprocess.PIPE, env=environment) as child:
        output, _ = child.communicate()
    if child.returncode:
        return child.returncode
    found: dict[str, Any] = msgspec.json.decode(output)
    shown = found if as_json else found | _readable(found)
    show_record(shown, LINES, json=as_json)
    if not as_json and not dry_run:
        next_commands("penstock up", *([f"penstock verify {service} {found['version']}"] if found["version"] else []))
    return 0


def _readable(found: dict[str, Any]) -> dict[str, Any]:
    places = [f"{start:,} to {stop - 1:,} of partition {partition}" for partition, start, stop in found["ranges"]]
    more = f" and {len(places) - PLACES_SHOWN:,} more ranges" if len(places) > PLACES_SHOWN else ""
    first_last = found.get("withdrawn")
    step = found["rebuilt_from"]
    return {
        "events_shown": ", ".join(f"{count:,} {kind}" for kind, count in sorted(found["events"].items())),
        "places": ", ".join(places[:PLACES_SHOWN]) + more,
        "withdrawn_shown": f"{first_last[0]:,} to {first_last[1]:,}" if first_last else None,
        "from_shown": f"the state of step {step:,} of {found['steps']:,}" if step else "the beginning of the log",
        "consolidations_shown": ", ".join(map(str, found.get("consolidations", ()))) or None,
        "at_shown": moment(found["at"]) if "at" in found else None,
    }


@click.command("_erase", hidden=True)
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.argument("service")
@click.option("--subject")
@click.option("--id", "event_id")
@click.option("--dry-run", is_flag=True)
def build(data: Path, service: str, subject: str | None, event_id: str | None, dry_run: bool) -> None:
    """The process that builds: the receipt as JSON on stdout, how far it is on stderr."""
    from penstock.control.erase import erase, look
    from penstock.publish.past.erasing import Whose

    whose = Whose(subject=subject, id=event_id)
    if dry_run:
        found, step, last = look(data, service, whose, say)
        told: object = {"events": found.counts, "ranges": found.ranges, "rebuilt_from": step, "steps": last}
    else:
        told = erase(data, service, whose, say)
    sys.stdout.buffer.write(msgspec.json.encode(told))
