"""`penstock predict` and `penstock feedback`: ask, and tell the answer later."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from penstock.cli.connect import connect
from penstock.cli.show import as_csv, as_json, at, next_commands, show, show_json, url_option
from penstock.spec import NUMBER_TASKS

CLASS_COLUMNS = (("label", "LABEL"), ("probability", "PROBABILITY"), ("version", "VERSION"), ("id", "ID"))
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
    for answer in answers:
        answer["probability"] = answer.get("probabilities", {}).get(answer.get("label"))
        answer |= {f"quantiles.{level}": value for level, value in answer.get("quantiles", {}).items()}
    show(answers, CLASS_COLUMNS if "label" in answers[0] else _number_columns(answers[0]), csv=as_csv)
    if single and not as_csv:
        next_commands(f"penstock feedback {service} {answers[0]['id']} LABEL{at(url)}")


@click.command()
@click.argument("service")
@click.argument("prediction_id", metavar="ID")
@click.argument("label")
@as_json
@url_option
def feedback(service: str, prediction_id: str, label: str, as_json: bool, url: str | None) -> None:
    """Tell the answer to an earlier prediction.

    ID is the prediction's id; LABEL a class, or a number for a regression or counts. The model learns from the pair.
    """
    with connect(url) as client:
        value: str | float = label
        if client.status(service)["task"] in NUMBER_TASKS:
            try:
                value = float(label)
            except ValueError:
                raise click.UsageError(f"{service} predicts a number, and {label!r} is none") from None
        acknowledged = client.feedback(service, {"id": prediction_id, "label": value})
    if as_json:
        show_json(acknowledged)
        return
    click.echo(f"Accepted: {prediction_id} was {label}")
    next_commands(f"penstock status {service}{at(url)}")


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
