"""`penstock versions` and `penstock why`: what was published, and on what evidence."""

from __future__ import annotations

from typing import Any

import click

from penstock.cli.connect import connect, only_service
from penstock.cli.history import REFUSALS, told
from penstock.cli.show import as_csv, as_json, at, moment, next_commands, say, show, show_record, url_option

REFUSALS_SHOWN = 3
COLUMNS = (
    ("version", "VERSION"),
    ("when", "PUBLISHED"),
    ("cause", "CAUSE"),
    ("parent", "PARENT"),
    ("events", "EVENTS"),
    ("held", "HELD"),
    ("loss.mean", "LOSS"),
    ("gain.mean", "GAIN"),
    ("verdict", "VERDICT"),
)
GUARDS = {
    "weights": "largest change of a weight",
    "sources": "loss of a source beyond all others'",
    "calibration": "calibration",
    "collapse": "answers with a class that are gone",
    "inputs": "inputs, stability index",
    "forgetting": "lost on held-out old events",
    "latency": "slow answers",
}
"""What the value of a guard is, in words."""
LINES = (
    ("version", "version"),
    ("when", "published"),
    ("cause", "cause"),
    ("parent", "parent"),
    ("restores", "restores version"),
    ("withdrawn_by", "withdrawn with version"),
    ("hand.by", "ordered by"),
    ("hand.reason", "because"),
    ("base_shown", "base"),
    ("parent_base_shown", "the parent's base"),
    ("consolidation_shown", "consolidation"),
    ("changes_shown", "changed settings"),
    ("consolidation.shadow_events", "events in shadow"),
    ("consolidation.evidence", "evidence of a gain, to 1"),
    ("share", "share of the traffic"),
    ("own_shown", "gain where it answered before"),
    ("apprentice.of", "compared with"),
    ("apprentice_shown", "gain over that, an event"),
    ("apprentice.evidence", "evidence for that, to 1"),
    ("covers", "learned from the log at"),
    ("events", "events learned since the parent"),
    ("held", "updates held back in between"),
    ("loss_shown", "loss on those events"),
    ("parent_loss_shown", "the parent's loss on them"),
    ("gain_shown", "gain, an event"),
    ("forgotten_shown", "lost on anchors"),
    *((f"guard_{name}", f"guard: {title}") for name, title in GUARDS.items()),
    ("verdict", "verdict"),
    ("cpu_s", "processor time, s"),
    ("cost_shown", "cost"),
    ("per_point_shown", "cost of each point gained"),
    ("weights", "weights, SHA-256"),
)


@click.command()
@click.argument("service", required=False)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@click.option("--before", type=click.IntRange(1), help="Only versions older than this one.")
@as_json
@as_csv
@url_option
def versions(service: str | None, limit: int, before: int | None, as_json: bool, as_csv: bool, url: str | None) -> None:
    """What was published, the newest first.

    Without SERVICE, of the only one there is.
    """
    with connect(url) as client:
        name = service or only_service(client)
        receipts = client.versions(name, limit=limit, before=before)
    if as_json:
        show(receipts, COLUMNS, json=True)
        return
    show([_readable(receipt) for receipt in receipts], COLUMNS, csv=as_csv)
    if receipts and not as_csv:
        next_commands(f"penstock why {name} {receipts[0]['version']}{at(url)}")


@click.command()
@click.argument("names", nargs=-1, metavar="[SERVICE] [VERSION]")
@as_json
@url_option
def why(names: tuple[str, ...], as_json: bool, url: str | None) -> None:
    """Why a version is served, with its numbers.

    SERVICE may be left out where there is only one. Without VERSION, the one that is served, and what the gate did not
    let through lately.
    """
    *service, number = names if names and names[-1].isdecimal() else (*names, "")
    if len(service) > 1:
        raise click.UsageError("Give a service and the number of one of its versions: penstock why fraud 812")
    refusals: list[dict[str, Any]] = []
    with connect(url) as client:
        name = service[0] if service else only_service(client)
        if not number:
            refusals = client.history(name, limit=REFUSALS_SHOWN, kinds=REFUSALS)
        receipt = client.version(name, int(number or client.status(name)["model"]["version"]))
    if as_json:
        show_record(receipt, LINES, json=True)
        return
    say(f"{sentence(name, receipt)}\n")
    if (by := receipt.get("withdrawn_by")) is not None:
        say(f"It was withdrawn with version {by:,}, which serves something older again.\n")
    if race := receipt.get("apprentice"):
        say(f"{race['reason']}\n")
    for fact in refusals:
        say(f"Not let through, {moment(fact['at'])}: {told(fact)}")
    if refusals:
        say("")
    show_record(_readable(receipt), LINES)
    if refusals:
        next_commands(f"penstock history {name}{at(url)}")


def sentence(service: str, receipt: dict[str, Any]) -> str:
    """Why the version exists, in one sentence."""
    version, verdict = f"Version {receipt['version']:,} of {service}", receipt["verdict"].rstrip(".")
    match receipt["cause"]:
        case "start":
            return f"{version} is the beginning: {verdict}."
        case "erasure":
            return f"{verdict}."
        case "rollback":
            return f"{version} restores version {receipt['restores']:,}: {verdict}."
        case "correction":
            return f"{version} makes good what was learned with other labels: {verdict}."
        case "canary":
            beside = f"beside version {receipt['parent']:,}"
            return f"{version} answers {receipt['share']:.4g} of the traffic {beside}: {verdict}."
        case "promotion" if (receipt.get("consolidation") or {}).get("changes"):
            changes = ", ".join(receipt["consolidation"]["changes"])
            return f"{version} has {changes}, which version {receipt['parent']:,} had not: {verdict}."
        case "promotion":
            old = "no base" if not receipt["parent_base"] else f"base {receipt['parent_base'][:12]}"
            return (
                f"{version} reads base {receipt['base'][:12]} where version {receipt['parent']:,} had {old}: {verdict}."
            )
    return f"{version} learned {receipt['events']:,} events more than version {receipt['parent']:,}: {verdict}."


def _readable(receipt: dict[str, Any]) -> dict[str, Any]:
    """The receipt with what people read beside what it says."""
    spans = [f"{start:,} to {stop - 1:,} of partition {partition}" for partition, start, stop in receipt["ranges"]]
    hand = receipt.get("hand")
    return receipt | {
        "hand": hand and {**hand, "reason": hand["reason"] or None},
        "when": moment(receipt["time"]),
        "covers": ", ".join(spans[:4]) + (f" and {len(spans) - 4} more" if len(spans) > 4 else "") or None,
        "weights": receipt["weights"] or None,
        "base_shown": receipt.get("base") or None,
        "parent_base_shown": receipt.get("parent_base") or None,
        "share": receipt.get("share") or None,
        "apprentice_shown": _interval((receipt.get("apprentice") or {}).get("gain")),
        "own_shown": _interval((receipt.get("consolidation") or {}).get("own")),
        **_costs(receipt.get("cost"), receipt.get("gain")),
        "forgotten_shown": _forgotten(receipt.get("forgotten"), receipt.get("forgetting_max")),
        **{f"guard_{guard['name']}": _guard(guard) for guard in receipt.get("guards", ())},
        "changes_shown": "; ".join((receipt.get("consolidation") or {}).get("changes") or ()) or None,
        "consolidation_shown": _consolidation(receipt.get("consolidation")),
        **{f"{name}_shown": _interval(receipt.get(name)) for name in ("loss", "parent_loss", "gain")},
    }


def _consolidation(made: dict[str, Any] | None) -> str | None:
    if made is None:
        return None
    cost = f"{made['seconds']:,.0f} s, {made['cpu_s']:,.0f} s of processor time"
    return f"number {made['number']:,} ({made['cause']}), on {made['trained']:,} events, in {cost}"


def _forgotten(look: dict[str, Any] | None, most: float | None) -> str | None:
    """What a look at the anchors showed."""
    if look is None:
        return None
    of = f"{look['of_anchors']:,} of {look['of']}" if look["of"] else f"{look['anchors']:,} anchors"
    luck = "beyond luck" if look["is_shown"] else "within luck"
    limit = "" if most is None else f"at most {most:g}; "
    return f"{look['lost']:.4f} ({limit}on {of}, {luck}, of {look['groups']:,} classes, slices and regimes)"


def _guard(guard: dict[str, Any]) -> str:
    """Its numbers."""
    value, most, beside = guard["value"], guard.get("most"), guard.get("beside")
    more = "" if beside is None else f" more than the {beside:.4g} of what it is compared with"
    told = ["no limit" if most is None else f"at most {most:g}{more}"]
    if guard.get("of"):
        told.append(repr(guard["of"]))
    if guard.get("events"):
        told.append(f"on {guard['events']:,}")
    if guard.get("evidence") is not None:
        told.append(f"evidence {guard['evidence']:.3g} to 1 of {guard['wanted']:,.0f}")
    shown = "not finite" if value is None else f"{value:.4g}"
    return f"{shown} ({'; '.join(told)}){', a fault' if guard.get('beyond') else ''}"


def _costs(cost: dict[str, Any] | None, gain: dict[str, Any] | None) -> dict[str, str | None]:
    """What the version cost, and each point of the loss that it has gained."""
    if cost is None:
        return {}
    currency, each = cost["currency"], cost["per_point"]
    if cost["learning"] is None:
        shown = "not counted"
    else:
        shown = f"{cost['learning']:.4g} {currency}"
        if cost["training"] is not None:
            shown = f"{cost['total']:.4g} {currency}: its base {cost['training']:.4g}, learning {cost['learning']:.4g}"
    points = "no gain is shown" if gain is not None and gain["low"] <= 0.0 else None
    if each is not None:
        points = f"{each['mean']:.4g} {currency} ({each['low']:.4g} to {each['high']:.4g})"
    return {"cost_shown": shown, "per_point_shown": points}


def _interval(interval: dict[str, Any] | None) -> str | None:
    if interval is None:
        return None
    bounds = f"{interval['low']:.4f} to {interval['high']:.4f}, over {interval['events']:,} events"
    return f"{interval['mean']:.4f} ({bounds})"
