"""`penstock predict` and `penstock feedback`: ask, and tell the answer later."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from penstock.cli.connect import connect
from penstock.cli.show import SEPARATOR, as_csv, as_json, at, next_commands, say, show, show_json, url_option
from penstock.spec import NUMBER_TASKS

Label = str | float | list[str]

CLASS_COLUMNS = (("label", "LABEL"), ("probability", "PROBABILITY"), ("version", "VERSION"), ("id", "ID"))
SET_COLUMNS = (("label", "LABEL"), ("likely", "MOST LIKELY"), ("version", "VERSION"), ("id", "ID"))
LIKELY_MAX = 5
"""Classes of a set's answer whose probabilities are shown; --json has all."""
NUMBER_COLUMNS = (("mean", "MEAN"), ("low", "LOW"), ("high", "HIGH"), ("version", "VERSION"), ("id", "ID"))


@click.command()
@click.argument("service")
@click.argument("features", default="-", metavar="[JSON|FILE|-]")
@as_json
@as_csv
@url_option
def predict(service: str, features: str, as_json: bool, as_csv: bool, url: str | None) -> None:
    """Ask for predictions.

    Features are a JSON object such as '{"amount": 12.5}', an array of such objects, or one object a line; given as
    they are, in a file, or on stdin (-).
    """
    asked, single = _instances(_content(features))
    with connect(url) as client:
        answers = client.post(f"/v1/{service}/predict", {"instances": asked})["predictions"]
    if as_json:
        show_json(answers[0] if single else answers)
        return
    if is_set := isinstance(answers[0].get("label"), list):
        answers = [_set_row(answer) for answer in answers]
    for answer in answers:
        answer["probability"] = answer.get("probabilities", {}).get(answer.get("label"))
        answer |= {f"quantiles.{level}": value for level, value in answer.get("quantiles", {}).items()}
    columns = SET_COLUMNS if is_set else CLASS_COLUMNS if "label" in answers[0] else _number_columns(answers[0])
    show(answers, columns, csv=as_csv)
    if (of := answers[0].get("apprentice_of")) and not as_csv:
        say(f"{service} is an apprentice of {of}: until it is better, the answer of {of} is the one to be used.")
    if single and not as_csv:
        next_commands(f"penstock feedback {service} {answers[0]['id']} LABEL{'...' if is_set else ''}{at(url)}")


@click.command()
@click.argument("service")
@click.argument("prediction_id", metavar="ID")
@click.argument("labels", metavar="LABEL", nargs=-1)
@click.option("--none", is_flag=True, help="Of a multilabel service: the event has no class.")
@click.option("--retract", is_flag=True, help="Take the label back that ID has; without LABEL.")
@as_json
@url_option
def feedback(
    service: str,
    prediction_id: str,
    labels: tuple[str, ...],
    none: bool,
    retract: bool,
    as_json: bool,
    url: str | None,
) -> None:
    """Tell the answer to an earlier prediction.

    ID is the prediction's id, or that of an example; LABEL a class, a number for a regression or counts, or several
    classes, one after the other, of a multilabel service. The model learns from the pair. Another answer under the same
    ID takes the place of the first.
    """
    if retract and (labels or none):
        raise click.UsageError("Give a LABEL, or --retract to take back the one that was given")
    with connect(url) as client:
        event: dict[str, object] = {"id": prediction_id, "retract": True}
        if not retract:
            label = _label_of(service, client.status(service)["task"], labels, none)
            event = {"id": prediction_id, "label": label}
        acknowledged = client.feedback(service, event)
    if as_json:
        show_json(acknowledged)
        return
    said = "has no label" if retract else f"was {' and '.join(labels) or 'of no class'}"
    click.echo(f"Accepted: {prediction_id} {said}")
    for aside in acknowledged.why:
        say(f"It will not be learned: {aside.reason}")
    next_commands(f"penstock status {service}{at(url)}")


def _set_row(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer with its set of classes in one cell, and beside it what is most likely."""
    chances: dict[str, float] = answer["probabilities"]
    likely = sorted(chances, key=chances.__getitem__, reverse=True)[:LIKELY_MAX]
    shown = ", ".join(f"{name} {chances[name]:.3f}" for name in likely)
    return answer | {"label": SEPARATOR.join(answer["label"]), "likely": shown}


def _label_of(service: str, task: str, labels: tuple[str, ...], none: bool) -> Label:
    """What the words on the command line say. Raises UsageError."""
    if task == "multilabel":
        if none == bool(labels):
            raise click.UsageError("Name the classes, one after the other, or say --none where there are none")
        return list(labels)
    if none:
        raise click.UsageError(f"--none says that an event has no class, and {service} has one answer for each")
    if len(labels) != 1:
        raise click.UsageError(f"{service} has one answer for each event, not {len(labels)}; --retract takes one back")
    if task not in NUMBER_TASKS:
        return labels[0]
    try:
        return float(labels[0])
    except ValueError:
        raise click.UsageError(f"{service} predicts a number, and {labels[0]!r} is none") from None


def _number_columns(answer: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Those of every number, with the quantiles that the service answers between the interval and the version."""
    quantiles = tuple((f"quantiles.{level}", level) for level in answer.get("quantiles", {}))
    return (*NUMBER_COLUMNS[:3], *quantiles, *NUMBER_COLUMNS[3:])


def _content(given: str) -> str:
    if given == "-":
        if sys.stdin.isatty():
            raise click.UsageError("Give the features as JSON, a file, or through a pipe")
        return sys.stdin.buffer.read().decode("utf-8")
    return given if given.lstrip()[:1] in ("{", "[") else Path(given).read_text(encoding="utf-8")


def _instances(content: str) -> tuple[list[dict[str, Any]], bool]:
    """The instances, and whether it was a single object."""
    try:
        found = msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        try:
            found = [msgspec.json.decode(line) for line in content.splitlines() if line.strip()]
        except msgspec.DecodeError:
            raise click.UsageError(f"These features are not JSON: {error}") from None
    if isinstance(found, dict) and isinstance(found.get("instances"), list):
        found = found["instances"]
    rows = found if isinstance(found, list) else [found]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise click.UsageError('Features are JSON objects, such as {"amount": 12.5}')
    return [row if isinstance(row.get("features"), dict) else {"features": row} for row in rows], rows is not found
