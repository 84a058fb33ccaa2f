"""`penstock challenge`: other settings of a service, tried beside what is served."""

from __future__ import annotations

import time
from pathlib import Path

import click

from penstock.cli.connect import data_option
from penstock.cli.consolidate import follow, newest_begun, service_there
from penstock.cli.show import next_commands, say


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@data_option
@click.option("--wait", is_flag=True, help="Follow it until its candidate is promoted or given up, or it fails.")
def challenge(file: Path, data: Path, wait: bool) -> int:
    """Try a changed service file beside what is served.

    FILE is the service file with other learn.half_lives, learn.random_features, learn.random_features_us or
    learn.tree_window. A model by these settings learns the log, runs in the shadow of what is served, then answers a
    share of the traffic, and the gate promotes it if it is better, or gives it up: nothing that is served changes
    before. What is promoted is in force from then on, whatever the file says at the next start.
    """
    from penstock.control.challenging import challenge_of
    from penstock.control.record import recorded
    from penstock.publish.candidates.consolidating import ask_challenge
    from penstock.specfile.reader import load

    data, spec = data.absolute(), load(file)
    service, folder = spec.name, data / spec.name
    service_there(data, service)
    asked, later = challenge_of(file, spec, recorded(data, service), folder, time.time())
    if later:
        say(f"Not tried, but in force from the next `penstock up {file}`: {', '.join(later)}.")
    begun = newest_begun(data, service)
    ask_challenge(folder / "consolidation", asked)
    say(f"Asked {service} to try {'; '.join(asked.changes)}.")
    if wait:
        return follow(data, service, begun, at_work="Learning the log")
    next_commands(f"penstock status {service}", f"penstock challenge {file} --wait")
    return 0
