"""`penstock consolidate`: train the base now."""

from __future__ import annotations

import time
from pathlib import Path

import click

from penstock.cli.connect import DATA_DEFAULT
from penstock.cli.show import next_commands, say
from penstock.errors import LibraryMissing, UnknownService

LOOK_EVERY_S = 0.5
FAILED = 1


@click.command()
@click.argument("service")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="PENSTOCK_DATA",
    show_envvar=True,
    default=DATA_DEFAULT,
    show_default=True,
    help="Folder in which the service runs.",
)
@click.option("--wait", is_flag=True, help="Follow it until its candidate is promoted or given up, or it fails.")
def consolidate(service: str, data: Path, wait: bool) -> int:
    """Train the base of a service now.

    A new base is trained beside the stream, its candidate runs in the shadow of what is served, and the gate promotes
    it or gives it up: nothing that is served changes before. One that is under way ends first.
    """
    from penstock.control.house import missing_for_bases
    from penstock.control.record import recorded_path
    from penstock.publish.candidates.consolidating import ask
    from penstock.specfile.reader import load

    data = data.absolute()
    service_there(data, service)
    if load(recorded_path(data, service)).consolidate.when == "never":
        raise click.ClickException("consolidate.when is `never` in the service file; set it to `request` or `auto`")
    if missing := missing_for_bases():
        raise LibraryMissing(purpose="Training a base", library=" and ".join(missing), extra="learn")
    begun = newest_begun(data, service)
    ask(data / service / "consolidation", time.time())
    say(f"Asked {service} to train its base anew.")
    if wait:
        return follow(data, service, begun, at_work="Training")
    next_commands(f"penstock status {service}", f"penstock consolidate {service} --wait")
    return 0


def service_there(data: Path, service: str) -> None:
    """Raises UnknownService, and ClickException where nothing runs at all."""
    from penstock.control.folder import read_state

    state = read_state(data)
    if state is None:
        raise click.ClickException(f"nothing runs on {data}; start it with: penstock up service.yaml --data {data}")
    if service not in state.services:
        raise UnknownService(name=service, known=", ".join(state.services))


def newest_begun(data: Path, service: str) -> int:
    """The number of the newest consolidation or challenge that begun before now."""
    from penstock.publish.candidates.consolidating import read_consolidating
    from penstock.publish.weights.live import SharedLiveReader
    from penstock.publish.weights.live_files import live_path

    reader = SharedLiveReader(live_path(data, service))
    slow, consolidating = reader.progress().slow, read_consolidating(data / service / "consolidation")
    reader.close()
    at_work = consolidating.number if consolidating.phase == "training" else 0
    return max(slow.settled, slow.catching_up, at_work)


def follow(data: Path, service: str, before: int, *, at_work: str) -> int:
    """Say each change, until the first consolidation or challenge after number ``before`` has come to its end, before
    whose candidate is there it is said what is ``at_work``; the exit code."""
    from penstock.control.folder import read_state
    from penstock.publish.candidates.consolidating import read_consolidating
    from penstock.publish.weights.live import SharedLiveReader
    from penstock.publish.weights.live_files import live_path

    folder, said = data / service / "consolidation", ""
    asked_at = time.time()
    reader = SharedLiveReader(live_path(data, service))
    try:
        while True:
            slow, consolidating = reader.progress().slow, read_consolidating(folder)
            if consolidating.phase == "failed" and consolidating.since >= asked_at:
                say(f"It failed:\n{consolidating.failure}")
                return FAILED
            if slow.settled > before and not slow.shadow:
                say(slow.outcome)
                return 0
            if slow.shadow > before:
                now = f"In shadow since {slow.shadow_events // 1000 * 1000:,} events."
            elif slow.catching_up > before:
                now = "Its candidate catches up with the stream."
            elif consolidating.phase == "training" and consolidating.number > before:
                now = f"{at_work} (number {consolidating.number})."
            else:
                now = "Waiting for the one under way to end." if before else "Waiting for the consolidator."
            if now != said:
                say(now)
                said = now
            if read_state(data) is None:
                raise click.ClickException(f"what ran on {data} has stopped; it goes on with the next `penstock up`")
            time.sleep(LOOK_EVERY_S)
    finally:
        reader.close()
