"""YAML as nodes that know their place: the text of every value is kept until the type that is wanted is known.

So ``7``, ``yes`` and ``007`` can be names of classes. Aliases, tags and second documents are refused: a service file
needs none, and nested aliases can make a small file unfold into gigabytes.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import yaml

from penstock.specfile.writer import settings

DEPTH_MAX = 12
"""The deepest service file is four levels; beyond this it is a mistake or an attack on the parser's stack."""
_NULLS = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its place; line and column count from 1, and are 0 for values that come from Python."""

    form: Literal["plain", "text", "list", "mapping", "object"]
    """``plain`` is a scalar without quotes, whose text may turn out to be a number; ``text`` is always
    text; ``object`` is anything else that Python code may give."""
    line: int = 0
    column: int = 0
    text: str = ""
    items: tuple[Node, ...] = ()
    pairs: tuple[tuple[Node, Node], ...] = ()

    @property
    def is_nothing(self) -> bool:
        return self.form == "plain" and self.text in _NULLS

    @property
    def is_scalar(self) -> bool:
        return self.form in ("plain", "text")

    def described(self) -> str:
        if not self.is_scalar:
            return f"a {self.text or self.form}"
        if self.is_nothing:
            return "nothing"
        return repr(self.text if len(self.text) <= 40 else self.text[:40] + "…")


class Stop(Exception):
    """The text cannot be read any further: one fault, and nothing after it is known."""

    def __init__(self, line: int, column: int, message: str) -> None:
        self.fault = (line, column, message)


def parse(text: str) -> Node:
    """The nodes of a YAML document. Raises Stop."""
    try:
        events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        next(events), next(events, None)  # The stream's start, and the document's start or the stream's end.
        node = _composed(events, next(events, None), 0)
        next(events, None)
        if isinstance(after := next(events, None), yaml.DocumentStartEvent):
            raise Stop(*_place(after), "a second document begins here; a file describes one service")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = error.problem or error.context or "not YAML"
        if "cannot start any token" in message and mark is not None and _character(text, mark) == "\t":
            message = "a tab is used for indentation; YAML takes spaces only"
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        raise Stop(line, column, f"not YAML: {message}") from error
    except yaml.YAMLError as error:
        raise Stop(1, 1, f"not YAML: {' '.join(str(error).split())}") from error
    return node


def _place(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


def _character(text: str, mark: yaml.Mark) -> str:
    lines = text.split("\n")
    return lines[mark.line][mark.column : mark.column + 1] if mark.line < len(lines) else ""


def _composed(events: Iterator[yaml.Event], event: yaml.Event | None, depth: int) -> Node:
    if event is None or isinstance(event, yaml.StreamEndEvent):
        raise Stop(1, 1, "the file is empty")
    line, column = _place(event)
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        raise Stop(line, column, "aliases (& and *) are not accepted in a service file")
    if (tag := getattr(event, "tag", None)) not in (None, "!"):
        raise Stop(line, column, f"tags are not accepted in a service file: {tag}")
    if depth > DEPTH_MAX:
        raise Stop(line, column, f"more than {DEPTH_MAX} levels deep")
    if isinstance(event, yaml.ScalarEvent):
        return Node("plain" if event.implicit[0] else "text", line, column, text=event.value)
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(part := next(events), yaml.SequenceEndEvent):
            items.append(_composed(events, part, depth + 1))
        return Node("list", line, column, items=tuple(items))
    pairs = []
    while not isinstance(part := next(events), yaml.MappingEndEvent):
        key = _composed(events, part, depth + 1)
        pairs.append((key, _composed(events, next(events), depth + 1)))
    return Node("mapping", line, column, pairs=tuple(pairs))


def from_python(value: object, depth: int = 0) -> Node:
    if depth > DEPTH_MAX:
        raise Stop(0, 0, f"more than {DEPTH_MAX} levels deep")
    if isinstance(value, str):
        return Node("text", text=value)
    if value is None:
        return Node("plain", text="null")
    if isinstance(value, bool):
        return Node("plain", text=str(value).lower())
    if isinstance(value, numbers.Real):
        return Node("plain", text=repr(int(value) if isinstance(value, numbers.Integral) else float(value)))
    if isinstance(value, msgspec.Struct):
        value = settings(value)
    if isinstance(value, Mapping):
        return Node("mapping", pairs=tuple((from_python(k), from_python(v, depth + 1)) for k, v in value.items()))
    if isinstance(value, Sequence):
        return Node("list", items=tuple(from_python(item, depth + 1) for item in value))
    return Node("object", text=type(value).__name__)
