"""Members from outside as the service file names them: read as text, with nothing imported.

A member is the path of an ONNX file, or a class of River or scikit-learn as Python would write it:
``river.tree.HoeffdingTreeClassifier(grace_period=50)``. Arguments are plain values, or again such classes; ``a | b`` is
River's pipeline. Nothing else of Python is understood, and nothing of it is ever evaluated.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.specfile.nodes import Node, Stop, parse

LIBRARIES = ("river", "sklearn")
ONNX = ".onnx"
NOT_UNDERSTOOD = (
    "is neither a class of River or scikit-learn, such as river.tree.HoeffdingTreeClassifier(grace_period=50), "
    "nor the path of an .onnx file"
)


@dataclass(frozen=True, slots=True)
class Made:
    """An object to be made: a class, by its full name, called with these arguments."""

    name: str
    positional: tuple[Any, ...] = ()
    named: tuple[tuple[str, Any], ...] = ()

    @property
    def library(self) -> str:
        """Where the class comes from."""
        return self.name.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Joined:
    """Objects put together by ``|``, the first one first."""

    parts: tuple[Any, ...]

    @property
    def library(self) -> str:
        """Where the first part comes from."""
        library: str = self.parts[0].library
        return library


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A network in a file, relative to the service file."""

    path: str

    @property
    def library(self) -> str:
        """What reads it."""
        return "onnxruntime"


Member = Made | Joined | OnnxFile


class NotUnderstood(ValueError):
    """What is wrong with the text, as the end of a sentence about it."""


def member(text: str) -> Member:
    """What the text names. Raises NotUnderstood."""
    stripped = text.strip()
    if stripped.endswith(ONNX):
        return OnnxFile(stripped)
    try:
        tree = ast.parse(stripped, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise NotUnderstood(NOT_UNDERSTOOD) from error
    read = _value(tree)
    if not isinstance(read, Made | Joined):
        raise NotUnderstood(NOT_UNDERSTOOD)
    return read


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value) if value is None or isinstance(value, bool | int | float | str):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=elements):
            return [_value(element) for element in elements]
        case ast.Tuple(elts=elements):
            return tuple(_value(element) for element in elements)
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_key(key): _value(value) for key, value in zip(keys, values, strict=True) if key is not None}
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _joined(_value(left), _value(right))
        case ast.Call(func=function, args=positional, keywords=named):
            if any(keyword.arg is None for keyword in named):
                raise NotUnderstood("may not use ** in arguments")
            return Made(
                _name(function),
                tuple(_value(argument) for argument in positional),
                tuple((str(keyword.arg), _value(keyword.value)) for keyword in named),
            )
        case ast.Attribute() | ast.Name():
            return Made(_name(node))
    raise NotUnderstood(f"holds {ast.unparse(node)!r}, which is neither a plain value nor a class called")


def _key(node: ast.expr) -> Any:
    key = _value(node)
    if not isinstance(key, bool | int | float | str):
        raise NotUnderstood(f"has a mapping with {ast.unparse(node)!r} for a key")
    return key


def _joined(left: Any, right: Any) -> Joined:
    for part in (left, right):
        if not isinstance(part, Made | Joined) or part.library != "river":
            raise NotUnderstood("joins with | what are no classes of River")
    return Joined((*(left.parts if isinstance(left, Joined) else (left,)), right))


def _name(node: ast.expr) -> str:
    words: list[str] = []
    while isinstance(node, ast.Attribute):
        words.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in LIBRARIES or not words:
        raise NotUnderstood(NOT_UNDERSTOOD)
    if any(word.startswith("_") for word in words):
        raise NotUnderstood("names something private")
    return ".".join([node.id, *reversed(words)])


def member_faults(texts: tuple[Any, ...]) -> Iterator[tuple[int, str]]:
    """Place and message of what cannot be understood."""
    for place, text in enumerate(texts):
        if isinstance(text, str):
            try:
                member(text)
            except NotUnderstood as wrong:
                yield place, str(wrong)
            if text in texts[:place]:
                yield place, "is there twice"


def places(file: Path) -> list[tuple[int, int]]:
    """Line and column of each member in a service file that can be read; none where there are none."""
    try:
        node: Node | None = parse(file.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, Stop):
        return []
    for name in ("learn", "members"):
        node = next((value for key, value in node.pairs if key.text == name), None) if node is not None else None
    return [(item.line, item.column) for item in node.items] if node is not None else []
