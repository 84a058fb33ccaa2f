"""A Spec as plain values and as text, such that reading it back gives an equal Spec."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping

import msgspec

from penstock.spec import Feature, Spec
from penstock.specfile.quantities import Unit, digits, is_quantity, setting_name, setting_unit, written

VECTOR = re.compile(r"vector\s*\[\s*([0-9]{1,9})\s*\]")
_PLAIN_SAFE = re.compile(r"[A-Za-z_][A-Za-z0-9_ -]*[A-Za-z0-9_]|[A-Za-z_]")
_PLAIN_UNSAFE = {"null", "true", "false", "yes", "no", "on", "off", "inf", "nan", "y", "n"}


def settings(struct: msgspec.Struct) -> dict[str, object]:
    """A struct as plain values, named and written as in the file; what is None is left out."""
    written: dict[str, object] = {}
    for field in struct.__struct_fields__:
        value = getattr(struct, field)
        if value is not None:
            written[setting_name(field)] = _plain(value, setting_unit(field))
    return written


def _plain(value: object, unit: Unit) -> object:
    if isinstance(value, Feature):
        return _plain_feature(value)
    if isinstance(value, msgspec.Struct):
        return settings(value)
    if isinstance(value, dict):
        return {name: _plain(item, "") for name, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item, "") for item in value]
    if isinstance(value, int | float) and (unit or math.isinf(value)):
        return written(value, unit)
    return value


def _plain_feature(feature: Feature) -> object:
    kind = f"vector[{feature.width}]" if feature.type == "vector" and feature.width is not None else feature.type
    extra: dict[str, object] = {"width": feature.width} if feature.type != "vector" else {}
    extra |= {"buckets": feature.buckets, "min": feature.min, "max": feature.max}
    rest: dict[str, object] = {k: v for k, v in extra.items() if v is not None}
    if feature.values:
        rest["values"] = list(feature.values)
    return {"type": kind} | rest if rest else kind


def dump(spec: Spec) -> str:
    """The service as the text of a service file with every setting; ``load`` of it gives an equal Spec."""
    return "".join(f"{line}\n" for line in _lines(settings(spec), 0))


def spec_hash(spec: Spec) -> str:
    """SHA-256 of the service's text: equal for files that say the same, whatever their comments and units."""
    return hashlib.sha256(dump(spec).encode()).hexdigest()


def _lines(values: Mapping[str, object], depth: int) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict) and depth == 0:
            yield f"{scalar(name)}:"
            yield from _lines(value, depth + 1)
        else:
            yield f"{'  ' * depth}{scalar(name)}: {scalar(value)}"


def scalar(value: object) -> str:
    """A plain value on one line of YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(k)}: {scalar(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(scalar(item) for item in value) + "]"
    if isinstance(value, float):
        return digits(value)
    if not isinstance(value, str):
        return str(value).lower()
    number = value == value.strip() and (is_quantity(value) or value == "inf" or VECTOR.fullmatch(value))
    if number or (_PLAIN_SAFE.fullmatch(value) and value.lower() not in _PLAIN_UNSAFE):
        return value
    return _quoted(value)


def _quoted(text: str) -> str:
    escaped = (json.dumps(c)[1:-1] if ord(c) < 0x10000 else f"\\U{ord(c):08x}" for c in text)
    return '"' + "".join(escaped) + '"'
