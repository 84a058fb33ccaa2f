"""The forms in which events arrive as JSON: one struct type a service and kind, made from its Spec.

The fields of a features struct stand in storage order (numbers, vectors, strings), so that one event's tuple of values
is cut into columns by position.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Protocol, cast

import msgspec

from penstock.events import Kind, Schema
from penstock.spec import COUNT_MAX, ClassName, ClassSet, Feature, Spec

TEXT_MAX = 512
"""Characters of an id, a source or a class name: the ids of up to 200,000 events a partition are kept in memory."""

SINGLE_MAX = 3.4028234663852886e38
"""The largest number of 32 bits, in which vectors are kept; one beyond it would silently become infinite."""

Single = Annotated[float, msgspec.Meta(ge=-SINGLE_MAX, le=SINGLE_MAX)]
Count = Annotated[float, msgspec.Meta(ge=0, le=COUNT_MAX, multiple_of=1)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_MAX)]
ClassValue = Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_MAX)] | int | bool
Chances = dict[Name, Annotated[float, msgspec.Meta(ge=0, le=1)]]


class Event(Protocol):
    """One event as it was sent; feedback has no features, and what is asked for a prediction has no label. Feedback
    alone may take a label back (``retract``), and has none then."""

    features: msgspec.Struct
    label: Any
    incumbent: Any
    id: str | None
    time: float | datetime | None
    source: str | None
    subject: str | None
    retract: bool


class Forms:
    """The struct types of one service, and the classes that its labels may name."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.schema = Schema.of(spec)
        self.order = (*self.schema.numbers, *(name for name, _ in self.schema.vectors), *self.schema.strings)
        """The features in the order of the struct's fields."""
        features = _features_form(spec, self.order)
        label = _label_type(spec)
        incumbent = ("incumbent", _incumbent_type(spec), None)
        common: list[Any] = [("time", float | Moment | None, None), ("source", Name | None, None)]
        common.append(("subject", Name | None, None))
        own_id = ("id", Name | None, None)
        self.by_kind: dict[Kind, type[msgspec.Struct]] = {
            Kind.EXAMPLE: _form(
                "Example", [("features", features), ("label", label), incumbent, ("id", Name | None, None), *common]
            ),
            Kind.PREDICTION: _form("Instance", [("features", features), incumbent, ("id", Name | None, None), *common]),
            Kind.FEEDBACK: _form(
                "Feedback", [("id", Name), ("label", label | None, None), incumbent, ("retract", bool, False), *common]
            ),
        }
        instance = self.by_kind[Kind.PREDICTION]
        self.asked = _form(
            "Asked",
            [
                ("features", features | msgspec.UnsetType, msgspec.UNSET),
                ("instances", list[instance] | msgspec.UnsetType, msgspec.UNSET),  # type: ignore[valid-type]
                own_id,
                incumbent,
                *common,
            ],
        )
        """The body of a prediction: one instance, or an object that lists many."""
        self.classes = _binary_classes(spec) if spec.task == "binary" else None
        self.subject_feature = None if spec.subject not in spec.features else self.schema.strings.index(spec.subject)
        """Where the feature stands among the texts that says whose event it is, if one does."""


def class_set(values: Iterable[str | int | bool]) -> ClassSet:
    """Classes that one event has together, as the model knows them."""
    return tuple(sorted({class_name(value) for value in values}))


def class_name(value: str | int | bool) -> ClassName:
    """A class as the model knows it: integers and booleans are written the way JSON writes them."""
    if type(value) is str:
        return ClassName(value)
    if isinstance(value, bool):
        return ClassName("true" if value else "false")
    return ClassName(str(value))


def _label_type(spec: Spec) -> Any:
    match spec.task:
        case "binary" | "multiclass":
            return ClassValue
        case "multilabel":
            return list[ClassValue]
        case "counts":
            return Count
        case "regression":
            return float


def _incumbent_type(spec: Spec) -> Any:
    """The answer of another system may be none, a class that is unknown, and a count that is no whole number."""
    match spec.task:
        case "binary" | "multiclass":
            return ClassValue | Chances | None
        case "multilabel":
            return list[ClassValue] | None
        case "counts" | "regression":
            return float | None


def _form(name: str, fields: list[Any]) -> type[msgspec.Struct]:
    # Events are trees that are read once and dropped: without the garbage collector's bookkeeping they cost half.
    return msgspec.defstruct(name, fields, forbid_unknown_fields=True, gc=False, kw_only=True)


def _features_form(spec: Spec, order: tuple[str, ...]) -> type[msgspec.Struct]:
    # A feature may have any name; its field is called by its place and renamed. A missing number is NaN from the start,
    # which packs into the matrix with no further look.
    missing = {"number": float("nan"), "boolean": float("nan"), "timestamp": float("nan")}
    fields = [
        (f"f{i}", _value_type(spec.features[name]) | None, missing.get(spec.features[name].type))
        for i, name in enumerate(order)
    ]
    renamed = {f"f{i}": name for i, name in enumerate(order)}
    return msgspec.defstruct("Features", fields, rename=renamed, forbid_unknown_fields=True, gc=False)


def _value_type(feature: Feature) -> Any:
    match feature.type:
        case "number":
            return float
        case "boolean":
            return bool
        case "timestamp":
            return float | Moment
        case "category":
            return str | int | bool
        case "text":
            return str
        case "vector":
            width = cast(int, feature.width)
            return Annotated[list[Single], msgspec.Meta(min_length=width, max_length=width)]


def _binary_classes(spec: Spec) -> dict[str | int | bool, ClassName]:
    """What a binary label may be. ``True`` and ``1`` are one key in Python, so 0 and 1 stand for false and true too."""
    classes = spec.label.classes or (ClassName("0"), ClassName("1"))
    accepted: dict[str | int | bool, ClassName] = {}
    for name in classes:
        accepted[name] = name
        if name in ("false", "true"):
            accepted[name == "true"] = name
        elif name.lstrip("-").isdecimal() and str(int(name)) == name:
            accepted[int(name)] = name
    return accepted
