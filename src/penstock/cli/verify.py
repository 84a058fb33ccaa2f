"""`penstock verify`: a version rebuilt from the log in a process of its own, and compared."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from penstock.cli.connect import data_option
from penstock.cli.show import as_json as json_option
from penstock.cli.show import say, show_record

EXIT_CODES = {"equal": 0, "different": 1, "corrupt": 1, "impossible": 3}
TELL_EVERY_S = 2.0
LINES = (
    ("outcome", "outcome"),
    ("version", "version"),
    ("from_shown", "rebuilt from"),
    ("steps", "steps repeated"),
    ("events", "events taken"),
    ("learned", "events learned from"),
    ("states", "whole states compared"),
    ("weights_shown", "weights, SHA-256"),
    ("diverged_step", "first step that differs"),
    ("place.file", "damaged file"),
    ("place.byte", "at byte"),
    ("place.partition", "partition"),
    ("place.offset", "offset"),
    ("environment_shown", "environment"),
    ("elsewhere_shown", "not here as it was there"),
    ("seconds", "seconds"),
    ("memory_bytes", "memory, bytes"),
)


@click.command()
@click.argument("service")
@click.argument("version", type=click.IntRange(min=1))
@click.option("--from-start", is_flag=True, help="Begin with the log's first event, and not with a checkpoint.")
@json_option
@data_option
def verify(service: str, version: int, from_start: bool, as_json: bool, data: Path) -> int:
    """Rebuild a version from the log, and compare.

    The recorded steps are taken once more by a process that knows nothing, from the nearest older checkpoint on, and
    everything that was recorded of them is compared to the byte. SERVICE may be running or not; nothing is written.
    Exit codes: 0 equal, 1 not equal or the log is damaged, 2 wrong usage, 3 it cannot be rebuilt here.
    """
    from penstock.control.house import PENSTOCK, learner_environment
    from penstock.control.record import recorded

    spec = recorded(data, service)
    arguments = ["--data", str(data.absolute()), service, str(version), *(["--from-start"] if from_start else [])]
    # Threads and hashes are fixed before NumPy is imported, as they are for a learner.
    environment = os.environ | learner_environment(spec)
    with subprocess.Popen([*PENSTOCK, "_verify", *arguments], stdout=subprocess.PIPE, env=environment) as child:
        output, _ = child.communicate()
    if child.returncode:
        return child.returncode
    found: dict[str, Any] = msgspec.json.decode(output)
    if as_json:
        show_record(found, LINES, json=True)
    else:
        say(f"{_sentence(found)}\n")
        show_record(_readable(found), LINES)
    return EXIT_CODES[found["outcome"]]


def _sentence(found: dict[str, Any]) -> str:
    named = f"Version {found['version']:,} of {found['service']}"
    match found["outcome"]:
        case "equal":
            return f"{named} is what its steps make of the log: {found['reason'][0].lower()}{found['reason'][1:]}"
        case "different":
            return f"{named} is not what its steps make of the log: {found['reason']}."
        case "corrupt":
            return f"{named} cannot be rebuilt, since something is damaged: {found['reason']}."
    return f"{named} cannot be rebuilt here: {found['reason']}"


def _readable(found: dict[str, Any]) -> dict[str, Any]:
    beside = f"as the {' and the '.join(found['compared'])}" if found["compared"] else "recorded nowhere"
    where = f"the checkpoint of step {found['from_step']:,}" if found["from_step"] else "the beginning of the log"
    return found | {
        "from_shown": where if found["steps"] else None,
        "weights_shown": f"{found['weights']} ({beside})" if found["weights"] else None,
        "environment_shown": found["environment"] or None,
        "elsewhere_shown": "; ".join(found["elsewhere"]) or None,
    }


@click.command("_verify", hidden=True)
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.argument("service")
@click.argument("version", type=int)
@click.option("--from-start", is_flag=True)
def rebuild(data: Path, service: str, version: int, from_start: bool) -> None:
    """The process that rebuilds: the result as JSON on stdout, how far it is on stderr."""
    from penstock.service import run_verification

    told = began = time.monotonic()

    def progress(step: int, last: int, events: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= TELL_EVERY_S:
            told = now
            say(f"step {step:,} of {last:,}: {events:,} events in {now - began:.0f} s")

    found = run_verification(service, data, version, from_start=from_start, progress=progress)
    sys.stdout.buffer.write(msgspec.json.encode(found))
