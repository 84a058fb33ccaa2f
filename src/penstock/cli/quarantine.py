"""`penstock quarantine`: what is set aside instead of learned, and what becomes of it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from penstock.cli.connect import data_option
from penstock.cli.show import as_json as json_option
from penstock.cli.show import moment, next_commands, say, show, show_record
from penstock.errors import NotSetAside

if TYPE_CHECKING:
    from penstock.learn.quarantine import Aside, Place

LOOK_EVERY_S = 0.1
COLUMNS = (
    ("id", "ID"),
    ("reason", "REASON"),
    ("source", "SOURCE"),
    ("label", "LABEL"),
    ("when", "SET ASIDE"),
    ("told", "WHY"),
)
LINES = (*((path, title.lower()) for path, title in COLUMNS), ("event", "event"), ("features", "features"))
NAMELESS = "-"
"""Stands for events without a source."""


@click.group()
def quarantine() -> None:
    """What is set aside instead of learned.

    An event's ID is its place in the log, PARTITION:OFFSET. SERVICE may be running or not.
    """


@quarantine.command("list")
@click.argument("service")
@click.option("--source", help=f"Only of this source; {NAMELESS!r} for events without one.")
@click.option("--reason", type=click.Choice(["impossible", "suspicious", "flood"]), help="Only for this reason.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="How many, the newest first.")
@json_option
@data_option
def list_(service: str, source: str | None, reason: str | None, limit: int, as_json: bool, data: Path) -> None:
    """Events that are set aside and can still be released."""
    rows = [row for row in _kept(service, data) if reason is None or row.reason == reason]
    rows = [row for row in rows if source is None or row.source == _source(source)]
    shown = [_shown(row) for row in reversed(rows[-limit:])]
    show(shown, COLUMNS, json=as_json)
    if as_json:
        return
    if len(rows) > limit:
        say(f"\n{len(rows) - limit:,} older ones are not shown; --limit shows more.")
    if rows:
        name = shown[0]["id"]
        next_commands(f"penstock quarantine show {service} {name}", f"penstock quarantine release {service} {name}")


@quarantine.command("show")
@click.argument("service")
@click.argument("id_", metavar="ID")
@json_option
@data_option
def show_(service: str, id_: str, as_json: bool, data: Path) -> None:
    """One event, with its features from the log."""
    from penstock.control.record import recorded
    from penstock.publish.asked.wishes import event_at

    (row,) = _chosen(service, data, [id_], None, all_=False)
    found = _shown(row) | event_at(recorded(data, service), data / service, row.place)
    show_record(found, LINES, json=as_json)
    if not as_json:
        next_commands(f"penstock quarantine release {service} {id_}", f"penstock quarantine drop {service} {id_}")


@quarantine.command()
@click.argument("service")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--source", help=f"All of this source; {NAMELESS!r} for events without one.")
@click.option("--all", "all_", is_flag=True, help="All that are set aside now.")
@data_option
def release(service: str, ids: tuple[str, ...], source: str | None, all_: bool, data: Path) -> None:
    """Let events be learned after all, each once.

    What they make of the model is judged like any update, but for their sources, whom you vouch for.
    """
    _wish(service, data, _chosen(service, data, ids, source, all_=all_), is_release=True)


@quarantine.command()
@click.argument("service")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--source", help=f"All of this source; {NAMELESS!r} for events without one.")
@click.option("--all", "all_", is_flag=True, help="All that are set aside now.")
@data_option
def drop(service: str, ids: tuple[str, ...], source: str | None, all_: bool, data: Path) -> None:
    """Never let events be learned. They stay in the log as long as it does."""
    _wish(service, data, _chosen(service, data, ids, source, all_=all_), is_release=False)


def _kept(service: str, data: Path) -> list[Aside]:
    from penstock.control.record import recorded
    from penstock.publish.asked.wishes import read_quarantine

    recorded(data, service)
    return read_quarantine(data / service).kept


def _chosen(service: str, data: Path, ids: Sequence[str], source: str | None, *, all_: bool) -> list[Aside]:
    """The events that are meant. Raises UsageError, NotSetAside."""
    if sum((bool(ids), source is not None, all_)) != 1:
        raise click.UsageError("Say which: IDs, --source S, or --all")
    rows = _kept(service, data)
    if not ids:
        return [row for row in rows if all_ or row.source == _source(str(source))]
    by_place = {row.place: row for row in rows}
    places = [_place(id_) for id_ in ids]
    for id_, place in zip(ids, places, strict=True):
        if place not in by_place:
            raise NotSetAside(service=service, id=id_)
    return [by_place[place] for place in dict.fromkeys(places)]


def _wish(service: str, data: Path, rows: Sequence[Aside], *, is_release: bool) -> None:
    from penstock.control.folder import read_state
    from penstock.publish.asked.wishes import Wish, ask

    if not rows:
        say("There is nothing to be done: no such event is set aside.")
        return
    file = ask(data / service / "quarantine", Wish(release=is_release, places=tuple(row.place for row in rows)))
    done = "learned" if is_release else "dropped for good"
    events = f"{len(rows):,} event{'s' if len(rows) > 1 else ''}"
    while file.exists():
        if read_state(data) is None:
            say(f"{events} will be {done} with the next `penstock up`, since nothing runs on {data}.")
            return
        time.sleep(LOOK_EVERY_S)
    say(f"{events} {'were' if len(rows) > 1 else 'was'} {done}.")
    next_commands(f"penstock versions {service}" if is_release else f"penstock quarantine list {service}")


def _place(id_: str) -> Place:
    from penstock.events import Offset, Partition

    if not re.fullmatch(r"[0-9]{1,9}:[0-9]{1,18}", id_):
        raise click.UsageError(f"An ID is PARTITION:OFFSET, such as 0:4711, not {id_!r}")
    partition, _, offset = id_.partition(":")
    return Partition(int(partition)), Offset(int(offset))


def _source(said: str) -> str | None:
    return None if said == NAMELESS else said


def _shown(row: Aside) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.structs.asdict(row)
    return {"id": f"{row.partition}:{row.offset}"} | shown | {"when": moment(row.time)}
