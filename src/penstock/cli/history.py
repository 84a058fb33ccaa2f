"""`penstock history`: what was done to a service besides publishing updates, and by whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from penstock.cli.connect import connect, only_service
from penstock.cli.show import as_csv, as_json, at, moment, next_commands, show, url_option

COLUMNS = (
    ("when", "WHEN"),
    ("fact", "WHAT"),
    ("by", "BY"),
    ("version", "VERSION"),
    ("told", "IN WORDS"),
)
REFUSALS = ("held", "given_up", "order_refused")
"""Facts that say what was not let through."""


@click.command()
@click.argument("service", required=False)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@click.option("--kind", "kinds", multiple=True, metavar="WHAT", help="Only these, such as held, given_up or ordered.")
@as_json
@as_csv
@url_option
def history(
    service: str | None, limit: int, kinds: Sequence[str], as_json: bool, as_csv: bool, url: str | None
) -> None:
    """What was refused, ordered and undone, the newest first.

    And what has drifted, was set aside, trained, tried or restarted. Without SERVICE, of the only one there is. Updates
    that were published are listed by `penstock versions`.
    """
    with connect(url) as client:
        name = service or only_service(client)
        facts = client.history(name, limit=limit, kinds=kinds)
    if as_json:
        show(facts, COLUMNS, json=True)
        return
    show([fact | {"when": moment(fact["at"]), "told": told(fact)} for fact in facts], COLUMNS, csv=as_csv)
    newest = next((fact["version"] for fact in facts if fact.get("version")), None)
    if newest is not None and not as_csv:
        next_commands(f"penstock why {name} {newest}{at(url)}")


def told(fact: dict[str, Any]) -> str:
    """What has happened, in a sentence."""
    match fact["fact"]:
        case "published":
            return f"Learned {_events(fact)} more than version {fact['parent']:,}."
        case "held":
            return str(fact["reason"])
        case "rolled_back":
            return f"Version {fact['withdrawn']:,} is withdrawn, and {fact['restored']:,} restored: {fact['reason']}"
        case "ordered":
            return str(fact["told"])
        case "order_refused":
            return f"{fact['by']} ordered {fact['what'].replace('_', ' ')!r} in vain: {fact['told']}."
        case "drifted":
            return f"The loss rose for good, from {fact['before']:.4g} to {fact['after']:.4g}, {_events(fact)} ago."
        case "corrected":
            return f"Labels of {_events(fact)} were made good; {fact['again']:,} were learned again for it."
        case "restarted":
            return f"The {fact['process']} came back and repeated {fact['replayed_events']:,} events."
        case "tail_cut":
            return f"{fact['bytes_cut']:,} bytes that nobody was told of were cut from partition {fact['partition']}."
        case "checkpoint_unreadable":
            return f"{fact['folder']} could not be read, and an older checkpoint was: {fact['reason']}"
        case "erased":
            return f"Erasure {fact['number']} withdrew versions {fact['first']:,} to {fact['last']:,}."
        case "race_ended":
            return str(fact["reason"])
        case "inputs_drifted":
            index = f"index {fact['index']:.3g}, on {_events(fact)}"
            return f"Inputs have left what base {fact['base'][:12]} was trained on: {fact['feature']!r} ({index})."
        case "predictions_drifted":
            index = f"index {fact['index']:.3g}, on {_events(fact)}"
            return f"What is answered is distributed otherwise than before: {fact['column']} ({index})."
    return _of_source(fact) or _of_base(fact)


def _of_source(fact: dict[str, Any]) -> str:
    """What became of a source's events."""
    source = f"source {fact['source']!r}" if fact.get("source") else "no source"
    match fact["fact"]:
        case "set_aside":
            return f"Set aside, {_events(fact)} of {source} by now: {fact['told']}"
        case "taken_out":
            return f"Taken out of the model, {_events(fact)} of {source}: {fact['reason']}"
        case "released":
            return f"Learned after all, {_events(fact)} of {source}."
        case "dropped":
            why = "there was no more room" if fact["expired"] else "somebody said so"
            return f"Never to be learned, {_events(fact)} that had been set aside: {why}."
    return ""


def _of_base(fact: dict[str, Any]) -> str:
    """What became of a candidate with a new base, or with other settings."""
    number = f"Number {fact['number']}, base {fact['base'][:12]}"
    if fact.get("changes"):
        learned = f"{fact['trained']:,} events were learned again, in {fact['seconds']:,.0f} s"
        return f"{number}, stands ready with {'; '.join(fact['changes'])}: {learned} ({fact['cause']})."
    match fact["fact"]:
        case "consolidated":
            took = f"on {fact['trained']:,} events, in {fact['seconds']:,.0f} s"
            return f"{number}, stands ready: trained {took} ({fact['cause']})."
        case "shadow_started":
            return f"{number}, learns in shadow beside version {fact['version']:,}."
        case "widened":
            return f"{number}, answers {fact['share']:.4g} of the traffic: {fact['reason']}"
    return f"{number}, after {_events(fact)} in shadow: {fact['reason']}"


def _events(fact: dict[str, Any]) -> str:
    count = fact["events"]
    return f"{count:,} event{'s' * (count != 1)}"
