"""The commented starter file of `penstock init`: every setting with its default, unit and reason."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache

import msgspec

from penstock import spec as structs
from penstock.spec import Feature, Label, Spec
from penstock.specfile.quantities import setting_name
from penstock.specfile.writer import scalar, settings

WIDTH = 100
ALWAYS_SHOWN = {("Label", "name"), ("Label", "wait_s")}
"""Settings that nearly every owner thinks about: written out even where they are at their defaults."""

EXAMPLE = Spec(
    name="my-service",
    task="binary",
    features={
        "amount": Feature(type="number"),
        "country": Feature(type="category", buckets=64),
        "is_new_customer": Feature(type="boolean"),
    },
    label=Label(name="is_fraud"),
)


@cache
def explanations() -> dict[str, dict[str, str]]:
    """What the docstrings say: by struct, then by field, and "" for the struct itself."""
    said: dict[str, dict[str, str]] = {}
    for item in ast.parse(inspect.getsource(structs)).body:
        if isinstance(item, ast.ClassDef):
            fields = said.setdefault(item.name, {"": _words(ast.get_docstring(item) or "")})
            for field, after in zip(item.body, item.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    match after:
                        case ast.Expr(value=ast.Constant(value=str(text))):
                            fields[field.target.id] = _words(text)
    return said


def _words(docstring: str) -> str:
    return " ".join(docstring.replace("``", "").split())


def starter(spec: Spec, notes: Mapping[str, str] | None = None, file: str = "service.yaml") -> str:
    """A service file that reads as this Spec, with what may be changed as comments; notes stand beside features."""
    said = explanations()["Spec"]
    plain = settings(spec)
    lines = [
        *_comment(f"A Penstock service. Check it: penstock check {file}   Start it: penstock up {file}", ""),
        *_comment('A line that starts with "#" and a setting shows its default: take the "#" away to change it.', ""),
    ]
    for field in spec.__struct_fields__:
        value = getattr(spec, field)
        lines.append("")
        if field == "features":
            lines += [*_comment(said[field], ""), *_comment(explanations()["Feature"]["type"], ""), "features:"]
            lines += _features(spec, notes or {})
        elif isinstance(value, msgspec.Struct):
            lines += [*_comment(explanations()[type(value).__name__][""], ""), f"{field}:"]
            lines += _section(value)
        else:
            # What has no value is left out of the settings, and can be written down all the same.
            written = f"{field}: {scalar(plain[field])}" if field in plain else f"#{field}: null"
            lines += [*_comment(said[field], ""), written]
    return "".join(f"{line}\n" for line in lines)


def _features(spec: Spec, notes: Mapping[str, str]) -> Iterator[str]:
    written = settings(spec)["features"]
    assert isinstance(written, dict)
    for name, value in written.items():
        note = f"  # {notes[name]}" if name in notes else ""
        yield f"  {scalar(name)}: {scalar(value)}{note}"
    for name, note in notes.items():
        if name not in written:
            yield f"  # not taken: {name!r}: {note}"


def _section(struct: msgspec.Struct) -> Iterator[str]:
    kind = type(struct)
    defaults = kind()
    written = settings(struct)
    for field in struct.__struct_fields__:
        yield from _comment(explanations()[kind.__name__][field], "  ")
        is_default = getattr(struct, field) == getattr(defaults, field)
        mark = "#" if is_default and (kind.__name__, field) not in ALWAYS_SHOWN else ""
        # What has no value is left out of the settings, and can be written down all the same.
        value = scalar(written[setting_name(field)]) if setting_name(field) in written else "null"
        yield f"  {mark}{setting_name(field)}: {value}"


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
