"""`penstock status`: how services are."""

from __future__ import annotations

import time
from typing import Any

import click

from penstock.cli.connect import connect
from penstock.cli.finite import Finite
from penstock.cli.show import as_csv, as_json, moment, say, show, show_record, url_option
from penstock.errors import Refused, Unreachable

UNHEALTHY = 3
WAIT_STEP_S = 0.1
COLUMNS = (
    ("service", "SERVICE"),
    ("health.status", "HEALTH"),
    ("model.version", "VERSION"),
    ("events.accepted", "ACCEPTED"),
    ("events.learned", "LEARNED"),
    ("events.lag", "WAITING"),
    ("money.day.spent", "TODAY"),
    ("model.accuracy", "ACCURACY"),
    ("model.micro_f1", "F1"),
    ("model.error", "ERROR"),
)
LINES = (
    ("health.status", "health"),
    ("model.version", "version"),
    ("model.published", "versions published"),
    ("model.held", "updates held back"),
    ("model.rollbacks", "rollbacks"),
    ("held_shown", "held back"),
    ("model.accuracy", "accuracy"),
    ("model.hamming_loss", "Hamming loss"),
    ("model.micro_f1", "micro F1"),
    ("model.error", "mean absolute error"),
    ("model.loss", "loss, 0 to 1"),
    ("forgotten_shown", "forgotten"),
    ("answers_shown", "answers"),
    ("base_shown", "base"),
    ("apprentice_shown", "beside another system"),
    ("events.accepted", "events accepted"),
    ("events.learned", "events learned"),
    ("events.lag", "events waiting"),
    ("feedback.accepted", "feedback accepted"),
    ("feedback.late", "feedback too late"),
    ("feedback.corrected", "feedback corrected"),
    ("feedback.retracted", "feedback taken back"),
    ("feedback.made_good", "events made good for it"),
    ("feedback.learned_again", "events learned again"),
    ("feedback.unknown", "feedback to no prediction"),
    ("feedback.delay_p50_s", "answers' delay, median, s"),
    ("feedback.delay_p99_s", "answers' delay, p99, s"),
    ("predictions.waiting", "predictions without answer"),
    ("money_shown", "money"),
    ("disk.log_bytes", "log, bytes"),
    ("disk.log_max_bytes", "at most, bytes"),
    ("disk.other_bytes", "all else kept, bytes"),
    ("disk.free_bytes", "disk free, bytes"),
    ("updated", "last step"),
)


@click.command()
@click.argument("service", required=False)
@as_json
@as_csv
@click.option(
    "--wait",
    "wait_s",
    type=Finite(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Give services so long to be well and to have learned what they accepted.",
)
@url_option
def status(service: str | None, as_json: bool, as_csv: bool, wait_s: float, url: str | None) -> int:
    """How services are.

    A sentence first, then the numbers. Exits with 3 when a service is not well, so that scripts can ask.
    """
    frames = _frames(service, url, until=time.monotonic() + wait_s)
    if not as_json and not as_csv:
        for frame in frames:
            say(sentence(frame))
            for member, reason in frame["model"]["left_out"].items():
                say(f"{frame['service']} does without its member {member}, which {reason}.")
    if service and not as_csv:
        frame = frames[0]
        more = {
            "updated": moment(frame["model"].get("updated")),
            "base_shown": base_line(frame["base"], time.time()),
            "held_shown": hold_line(frame["model"]),
            "forgotten_shown": forgotten_line(frame["model"]),
            "answers_shown": answers_line(frame["model"].get("answers")),
            "apprentice_shown": apprentice_line(frame.get("apprentice")),
            "money_shown": money_line(frame["money"]),
        }
        shown = frame if as_json else {**frame, **more}
        show_record(shown, LINES, json=as_json)
    else:
        show(frames, COLUMNS, json=as_json, csv=as_csv)
    return 0 if all(frame["health"]["status"] == "ok" for frame in frames) else UNHEALTHY


def _frames(service: str | None, url: str | None, until: float) -> list[dict[str, Any]]:
    """The status of one service or of all, as soon as they have settled or when the time is over."""
    while True:
        try:
            with connect(url) as client:
                names = [service] if service else [str(listed["name"]) for listed in client.services()]
                frames = [client.status(name) for name in names]
            if time.monotonic() >= until or all(map(_has_settled, frames)):
                return frames
        except (Unreachable, Refused) as error:
            if time.monotonic() >= until or not error.retryable:
                raise
        time.sleep(WAIT_STEP_S)


def _has_settled(frame: dict[str, Any]) -> bool:
    return bool(frame["health"]["status"] == "ok" and frame["events"]["lag"] == 0)


def sentence(frame: dict[str, Any]) -> str:
    """How a service is, in one sentence."""
    health, events, model = frame["health"], frame["events"], frame["model"]
    learned = f"{events['learned']:,} of {events['accepted']:,} events are learned"
    if health["status"] == "ok":
        race = frame.get("apprentice")
        role = f" as an apprentice of {race['of']}" if race and race["is_apprentice"] else ""
        return f"{frame['service']} is well: version {model['version']:,} answers{role}, and {learned}."
    return f"{frame['service']} is {health['status']} ({health['worst']}); {learned}."


def hold_line(model: dict[str, Any]) -> str | None:
    """Who holds updates back, since when and why."""
    if not model.get("held_by"):
        return f"by the gate: {model['held_why']}" if model.get("held_why") else None
    why = f": {model['held_why']}" if model["held_why"] else ""
    return f"by {model['held_by']} since {moment(model['held_since'])}{why}"


def answers_line(answers: dict[str, Any] | None) -> str | None:
    """How far answers are from those before; None where nobody looks."""
    if answers is None:
        return None
    told = "are distributed otherwise than before" if answers["beyond"] else "are distributed as before"
    return f"{told} ({answers['column']}, index {answers['index']:.2f}, on {answers['events']:,})"


def forgotten_line(model: dict[str, Any]) -> str | None:
    """What the newest look at the anchors showed."""
    if model.get("forgotten") is None:
        return None
    of = f" of {model['forgotten_of']}" if model["forgotten_of"] else ""
    return f"{model['forgotten']:.4g}{of}, by {model['anchors']:,} anchors"


def apprentice_line(race: dict[str, Any] | None) -> str | None:
    """How a service compares with the system that was there before."""
    if race is None:
        return None
    gain, of = race["gain"], race["of"]
    if race["is_apprentice"]:
        role, asked = f"apprentice of {of}", "that it is better"
    else:
        role, asked = f"no apprentice of {of} any more since {moment(race['since'])}", f"that {of} is better again"
    if not race["events"]:
        return f"{role}; no event of this race was answered by both yet"
    bounds = f"gain {gain['mean']:+.4f} an event, {gain['low']:+.4f} to {gain['high']:+.4f}"
    few = f" and {race['events_wanted']:,} events" if race["events"] < race["events_wanted"] else ""
    wanted = f"evidence {race['evidence']:.3g} to 1 {asked}, of {race['evidence_wanted']:.3g}{few} asked for"
    return f"{role}; on {race['events']:,} events {bounds}; {wanted}"


def money_line(money: dict[str, Any]) -> str:
    """What was spent in one line."""
    if money["day"] is None:
        return "not counted yet"
    currency = money["currency"]
    parts = [_spent("today", money["day"]), _spent("this month", money["month"])]
    parts.append(f"{money['per_hour']:.3g} an hour at present ({currency})")
    if money["rung"] != "free":
        parts.append(f"{money['rung'].replace('_', ' ')}: {money['why']}")
    if money["meter_fault"]:
        parts.append(f"counted up to {moment(money['counted_until'])}: {money['meter_fault']}")
    return "; ".join(parts)


def _spent(when: str, limit: dict[str, Any]) -> str:
    of = "" if limit["limit"] is None else f" of {limit['limit']:.4g}"
    return f"{limit['spent']:.3g}{of} {when}"


def base_line(base: dict[str, Any], now: float) -> str:
    """The slow tier in one line."""
    parts = []
    if base["id"]:
        parts.append(f"{base['id'][:12]}, promoted as version {base['version']:,} {_age(base['promoted'], now)} ago")
    else:
        parts.append("none yet")
    if configuration := base.get("configuration"):
        parts.append("a challenge has put in force " + ", ".join(f"{n} {v}" for n, v in configuration.items()))
    if (inputs := base.get("inputs")) and inputs["beyond"]:
        parts.append(f"inputs have left what it was trained on ({inputs['feature']!r}, index {inputs['index']:.2f})")
    if shadow := base["shadow"]:
        told = f"evidence {shadow['evidence']:.3g} to 1 (gain {shadow['gain']:+.4f} an event)"
        what = f" ({'; '.join(shadow['changes'])})" if shadow.get("changes") else ""
        parts.append(f"number {shadow['number']}{what} in shadow for {shadow['events']:,} events, {told}")
        if canary := base.get("canary"):
            parts.append(canary_line(canary, now))
    elif base["catching_up"]:
        parts.append(f"number {base['catching_up']} catches up with the stream")
    elif training := base["training"]:
        doing = "other settings learn the log" if training["reason"] == "challenge" else "consolidating"
        parts.append(f"{doing} (number {training['number']}, {training['reason']}) for {_age(training['since'], now)}")
    elif base["failure"]:
        what = "challenge" if base.get("failed") == "challenge" else "training"
        parts.append(f"the last {what} failed: {base['failure'].splitlines()[-1]}")
    elif base["outcome"] and not base["id"]:
        parts.append(base["outcome"])
    return "; ".join(parts)


def canary_line(canary: dict[str, Any], now: float) -> str:
    """What a new base answers."""
    told = f"on {canary['events']:,} labelled events of its own evidence {canary['evidence']:.3g} to 1"
    return (
        f"it answers {canary['share']:.4g} of the traffic as version {canary['version']:,} for "
        f"{_age(canary['since'], now)}, {told} that it is not much worse (gain {canary['gain']:+.4f})"
    )


def _age(since: float | None, now: float) -> str:
    seconds = max(0.0, now - (since or now))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
