"""What is wrong with a request, so that its sender can put it right: the field, the row or line, what was expected.

Runs only for requests that are refused, so it may read them again, event by event.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.errors import BadEvent, Malformed
from penstock.events import Kind
from penstock.serve.forms import TEXT_MAX, Forms
from penstock.serve.incumbents import wanted_incumbent

FAULTS_MAX = 10
"""Faults that one answer lists."""

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_ROW = re.compile(r"^(?:\.instances)?\[(?P<row>\d+)\](?P<rest>.*)$", re.DOTALL)
_BYTE = re.compile(r"\(byte (\d+)\)$")
_GOT = re.compile(r"^Expected `.*`, got `(?P<got>\w+)`$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_ABSENT = re.compile(r"^Object missing required field `(?P<name>.*)`$", re.DOTALL)

_IN_SET = re.compile(r"^label\[(?P<place>\d+)\]$")

_JSON_WORDS = {"str": "a string", "int": "an integer", "float": "a number with a fraction", "bool": "a boolean"}
_JSON_WORDS |= {"null": "null", "array": "a list", "object": "an object"}
_EVENT_FIELDS = {
    "label": "the answer",
    "incumbent": "the answer of another system, beside the label",
    "retract": "true or false",
    "id": "a string of 1 to 512 characters",
    "source": "a string of 1 to 512 characters",
    "subject": "a string of 1 to 512 characters",
    "time": "seconds since 1970 or an RFC 3339 time with its zone",
    "features": "an object with the features",
    "instances": "a list of instances",
}


@dataclass(frozen=True, slots=True)
class _Part:
    """One event's bytes within a request."""

    text: bytes
    row: int | None
    """Its place among the events; None for a body that is a single event."""
    line: int | None
    """Its line in NDJSON, counted from 1."""
    prefix: str
    """The JSON pointer to it."""


def escaped(name: str) -> str:
    """A name as a token of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def wanted(forms: Forms, name: str) -> str:
    """What a feature's value should be, in words."""
    feature = forms.spec.features[name]
    return {
        "number": "a finite number",
        "boolean": "true or false",
        "timestamp": "seconds since 1970 or an RFC 3339 time with its zone",
        "category": "a string, an integer, true or false",
        "text": "a string",
        "vector": f"a list of {feature.width} finite numbers",
    }[feature.type]


def wanted_label(forms: Forms) -> str:
    """What a label should be, in words."""
    if forms.spec.task == "counts":
        return "a count: a whole number, 0 or more"
    if not forms.schema.label_is_class:
        return "a finite number"
    if forms.schema.label_is_set:
        return "a list of classes: strings, integers, true or false"
    if forms.classes is None:
        return "a class: a string, an integer, true or false"
    return f"one of the classes {' and '.join(repr(c) for c in dict.fromkeys(forms.classes.values()))}"


def explain(forms: Forms, kind: Kind, body: bytes, lines: bool, error: Exception) -> BadEvent:
    """The error for a body that could not be decoded: its first fault, with up to nine others."""
    found: list[BadEvent] = []
    for part in _parts(body, lines):
        fault = _fault_of(forms, kind, part)
        if fault is not None:
            found.append(fault)
            if len(found) == FAULTS_MAX:
                break
    if not found:
        found = [_read(forms, error, _Part(body, None, None, ""))]
    return together(found)


def together(found: Sequence[BadEvent]) -> BadEvent:
    """The first fault, which carries the others."""
    first = found[0]
    first.others = tuple(found[1:])
    return first


def unknown_classes(forms: Forms, labels: Sequence[object], single: bool) -> BadEvent:
    """The error for binary labels that are neither of the two classes."""
    known = forms.classes or {}
    rows = [row for row, label in enumerate(labels) if label is not None and label not in known][:FAULTS_MAX]
    return together(
        [
            BadEvent(
                f"{'' if single else f'Event {row}: '}the label should be {wanted_label(forms)}, not {labels[row]!r}",
                pointer="/label" if single else f"/{row}/label",
                row=None if single else row,
            )
            for row in rows
        ]
    )


def _parts(body: bytes, lines: bool) -> Iterator[_Part]:
    if lines:
        row = 0
        for number, line in enumerate(body.split(b"\n"), 1):
            if line.strip():
                yield _Part(line, row, number, f"/{row}")
                row += 1
        return
    prefix = ""
    if body.lstrip()[:1] != b"[":
        try:
            listed = msgspec.json.decode(body, type=dict[str, msgspec.Raw]).get("instances")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            listed = None
        if listed is None:
            yield _Part(body, None, None, "")
            return
        body, prefix = bytes(listed), "/instances"
    try:
        raws = msgspec.json.decode(body, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # The list itself is broken, so its events cannot be told apart.
        yield _Part(body, None, None, prefix)
        return
    for row, raw in enumerate(raws):
        yield _Part(bytes(raw), row, None, f"{prefix}/{row}")


def _fault_of(forms: Forms, kind: Kind, part: _Part) -> BadEvent | None:
    form: Any = forms.by_kind[kind]
    if part.row is None:
        if part.text.lstrip()[:1] == b"[":
            form = list[form]
        elif kind is Kind.PREDICTION:
            form = forms.asked
    try:
        event = msgspec.json.decode(part.text, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _read(forms, error, part)
    if kind is Kind.FEEDBACK and (part.row is not None or form is forms.by_kind[kind]):
        said = _label_or_none(event)
        if said:
            return BadEvent(f"{_where(part)}{said}", pointer=f"{part.prefix}/label", row=part.row)
        if event.retract:
            return None
    known = forms.classes
    if known is not None and kind is not Kind.PREDICTION and part.row is not None and event.label not in known:
        said = f"{_where(part)}the label should be {wanted_label(forms)}, not {event.label!r}"
        return BadEvent(said, pointer=f"{part.prefix}/label", row=part.row)
    return None


def _label_or_none(event: Any) -> str:
    """What is wrong where feedback has neither a label nor the word that it takes one back, or both."""
    if event.label is None and not event.retract:
        return "'label' is missing; to take a label back, send 'retract': true"
    if event.label is not None and event.retract:
        return "'retract' takes a label back, and there is one here as well; leave one of the two out"
    return ""


def _where(part: _Part) -> str:
    if part.line is not None:
        return f"Line {part.line}: "
    return "" if part.row is None else f"Event {part.row}: "


def _read(forms: Forms, error: Exception, part: _Part) -> BadEvent:
    """msgspec's message, put into the words of the service."""
    where = _where(part)
    if isinstance(error, UnicodeDecodeError):
        return Malformed(f"{where}the text is not valid UTF-8: {error.reason}", pointer=part.prefix, row=part.row)
    if isinstance(error, RecursionError):
        return Malformed(f"{where}the JSON is nested too deeply", pointer=part.prefix, row=part.row)
    if not isinstance(error, msgspec.ValidationError):
        return _not_finite(part) or _malformed(error, part)
    match = _PLACE.match(str(error))
    what, path = (match["what"], match["path"] or "") if match else (str(error), "")
    row, prefix = part.row, part.prefix
    in_list = _ROW.match(path)
    if in_list:
        row = int(in_list["row"])
        prefix = f"{'/instances' if path.startswith('.instances') else prefix}/{row}"
        path, where = in_list["rest"], f"Event {row}: "
    said, pointer = _described(forms, what, path)
    return BadEvent(f"{where}{said}", pointer=prefix + pointer, row=row)


def _malformed(error: Exception, part: _Part) -> BadEvent:
    what = str(error).removeprefix("JSON is malformed: ").replace("Input data was truncated", "it ends too early")
    return Malformed(f"{_where(part)}this is not JSON: {what}", pointer=part.prefix, row=part.row)


def _described(forms: Forms, what: str, path: str) -> tuple[str, str]:
    """What to say of a fault at this path within an event, and the rest of its pointer."""
    absent, unknown = _ABSENT.match(what), _UNKNOWN.match(what)
    if absent:
        return f"{absent['name']!r} is missing", f"/{absent['name']}"
    if unknown:
        name = unknown["name"]
        if path == ".features":
            near = difflib.get_close_matches(name, forms.order, 1)
            return f"there is no feature {name!r}{_did_you_mean(near)}", f"/features/{escaped(name)}"
        near = difflib.get_close_matches(name, [f for f in _EVENT_FIELDS if f != name], 1)
        return f"there is no field {name!r} here{_did_you_mean(near)}", f"/{escaped(name)}"
    got = _GOT.match(what)
    is_now = f"but is {_JSON_WORDS.get(got['got'], got['got'])}" if got else f"but: {what}"
    if path.startswith(".features."):
        name, place = _feature_at(forms, path.removeprefix(".features."))
        if name is not None:
            return f"feature {name!r} should be {wanted(forms, name)}, {is_now}", f"/features/{escaped(name)}{place}"
    field = path.removeprefix(".")
    if forms.schema.label_is_set and (inside := _IN_SET.match(field)):
        said = f"a class within the label should be a string of 1 to {TEXT_MAX} characters, an integer, true or false"
        return f"{said}, {is_now}", f"/label/{inside['place']}"
    if field == "label":
        return f"the label should be {wanted_label(forms)}, {is_now}", "/label"
    if field.partition("[")[0] == "incumbent":
        return f"'incumbent' should be {wanted_incumbent(forms)}, {is_now}", "/incumbent"
    if field in _EVENT_FIELDS:
        return f"{field!r} should be {_EVENT_FIELDS[field]}, {is_now}", f"/{field}"
    return (f"an event should be a JSON object, {is_now}", "") if not path else (what, path.replace(".", "/"))


def _did_you_mean(near: Sequence[str]) -> str:
    return f" (did you mean {near[0]!r}?)" if near else ""


def _feature_at(forms: Forms, rest: str) -> tuple[str | None, str]:
    """The feature that this rest of a path names, whatever characters its name has, and the place within a vector."""
    if rest in forms.spec.features:
        return rest, ""
    name, _, place = rest.rpartition("[")
    return (name, f"/{place.removesuffix(']')}") if name in forms.spec.features else (None, "")


def _not_finite(part: _Part) -> BadEvent | None:
    """NaN and Infinity are what Python writes where JSON has nothing; the sender should hear which field holds them."""
    try:
        value = json.loads(part.text)
    except (ValueError, RecursionError):
        return None
    place = next(_places(value, part.prefix, part.row), None)
    if place is None:
        return None
    number, pointer, row = place
    name = "NaN" if math.isnan(number) else "infinity"
    where = f"Event {row}: " if part.line is None and row is not None else _where(part)
    tokens = pointer.removeprefix(part.prefix).split("/")
    field = next((t for t in reversed(tokens) if not t.isdecimal()), "value").replace("~1", "/").replace("~0", "~")
    said = f"{where}{field!r} is {name}, which no number here may be; leave a missing value out, or send null"
    return BadEvent(said, pointer=pointer, row=row)


def _places(value: object, pointer: str, row: int | None) -> Iterator[tuple[float, str, int | None]]:
    pending: list[tuple[object, str, int | None]] = [(value, pointer, row)]
    while pending:
        value, pointer, row = pending.pop()
        if isinstance(value, float) and not math.isfinite(value):
            yield value, pointer, row
        elif isinstance(value, dict):
            pending += [(v, f"{pointer}/{escaped(k)}", row) for k, v in reversed(value.items())]
        elif isinstance(value, list):
            outer = row is None
            pending += [(v, f"{pointer}/{i}", i if outer else row) for i, v in reversed(list(enumerate(value)))]
