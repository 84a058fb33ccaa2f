"""`penstock rollback`, `promote`, `hold` and `resume`: what is served, decided by hand."""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.connect import data_option
from penstock.cli.show import as_json as json_option
from penstock.cli.show import next_commands, say, show_json
from penstock.errors import NotObeyed, OrderRefused

if TYPE_CHECKING:
    from penstock.publish.asked.orders import Answer, Order

LOOK_EVERY_S = 0.005
WAIT_S = 30.0


def _said(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every order may say of itself."""
    command = data_option(json_option(command))
    command = click.option("--reason", default="", help="Why, in a sentence: it is kept with the versions.")(command)
    return click.option("--by", metavar="WHO", help="Who orders it [default: user@host].")(command)


@click.command()
@click.argument("service")
@click.argument("version", type=click.IntRange(min=1), required=False)
@_said
def rollback(service: str, version: int | None, by: str | None, reason: str, as_json: bool, data: Path) -> None:
    """Serve an earlier version again, at once.

    Without VERSION, the last known good. Learning goes on from there (or, with `gate.after_rollback: continue`, from
    where it is), and is published again when it is not worse. A new entry in history, under a number of its own.
    """
    from penstock.events import Version

    wanted = None if version is None else Version(version)
    said = _order("roll_back", service, data, by, reason, version=wanted)
    _tell(service, said, as_json, f"penstock hold {service}")


@click.command()
@click.argument("service")
@_said
def promote(service: str, by: str | None, reason: str, as_json: bool, data: Path) -> None:
    """Serve the new base, or settings, in shadow now.

    Without waiting for more evidence that it is better.
    """
    _tell(service, _order("promote", service, data, by, reason), as_json, f"penstock rollback {service}")


@click.command()
@click.argument("service")
@_said
def hold(service: str, by: str | None, reason: str, as_json: bool, data: Path) -> None:
    """Publish no update until it is resumed.

    Events are accepted and learned meanwhile, and a rollback is still made where what is served does harm.
    """
    _tell(service, _order("hold", service, data, by, reason), as_json, f"penstock resume {service}")


@click.command()
@click.argument("service")
@_said
def resume(service: str, by: str | None, reason: str, as_json: bool, data: Path) -> None:
    """Publish updates again.

    The end of `penstock hold`. Where there is evidence against what was learned meanwhile, the gate goes on holding it.
    """
    _tell(service, _order("resume", service, data, by, reason), as_json, f"penstock status {service}")


def _order(what: Any, service: str, data: Path, by: str | None, reason: str, **more: Any) -> Answer | None:
    """What the learner says of it, or None where nothing runs that could. Raises OrderRefused and NotObeyed."""
    from penstock.control.folder import read_state
    from penstock.control.record import recorded
    from penstock.publish.asked.orders import BY_MAX, REASON_MAX, Order, answered, ask, withdraw

    recorded(data, service)
    who, why = _in_one_line("--by", by or "", BY_MAX) or me(), _in_one_line("--reason", reason, REASON_MAX)
    order = Order(what=what, by=who, reason=why, **more)
    if read_state(data) is None:
        _foresee(service, data, order)
    file = ask(data / service / "orders", order)
    until = time.monotonic() + WAIT_S
    while (said := answered(file)) is None:
        if read_state(data) is None:
            return None
        if time.monotonic() > until:
            became = "taken back" if withdraw(file) else "taken up, and may still be obeyed"
            raise NotObeyed(service=service, wait_s=f"{WAIT_S:g}", became=became)
        time.sleep(LOOK_EVERY_S)
    if not said.done:
        raise OrderRefused(service=service, reason=said.told)
    return said


def _in_one_line(option: str, text: str, most: int) -> str:
    """What was said, with a space for each line break. Raises click.UsageError."""
    said = " ".join(text.split())
    if not said.isprintable():
        raise click.UsageError(f"{option} holds a character that cannot be printed: {said[:100]!r}")
    if len(said) > most:
        raise click.UsageError(f"{option} has at most {most:,} characters, not {len(said):,}")
    return said


def _foresee(service: str, data: Path, order: Order) -> None:
    """Nothing runs: what cannot be is said now, and not at the next start. Raises OrderRefused."""
    from penstock.publish.asked.hand import told_versions
    from penstock.service import versions_kept

    if order.version is None:
        return
    kept = versions_kept(service, data)
    if order.version not in kept:
        raise OrderRefused(
            service=service, reason=f"Version {order.version} is not kept; kept are {told_versions(kept)}"
        )


def _tell(service: str, said: Answer | None, as_json: bool, next_: str) -> None:
    if as_json:
        show_json({"done": False, "pending": True} if said is None else said)
        return
    if said is None:
        say("Nothing runs on this folder: it is taken up with the next `penstock up`, before anything is served.")
        say(f"Whether it could be done then: penstock history {service}")
        return
    say(said.told)
    say(f"Version {said.version:,} of {service} is served.")
    next_commands(f"penstock why {service} {said.version}", next_)


def me() -> str:
    """Whoever gives this command."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        # A container may run as a number without a name.
        user = f"uid{os.getuid()}"
    return "".join(c for c in f"{user}@{socket.gethostname()}" if c.isprintable())[:200]
