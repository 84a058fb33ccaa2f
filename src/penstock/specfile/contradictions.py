"""What is wrong with a service although each of its values alone is right."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, get_args

from penstock.spec import NUMBER_TASKS, Apprentice, Feature, FeatureType, Label, Spec, Task
from penstock.specfile.members import member_faults

EVENT_FIELDS = ("id", "time", "source")
"""What an event says beside its features and label, so no feature may have these names."""
INCUMBENT = "incumbent"
"""The field for the answer of the system that was there before."""
FOLDER_NAMES = ("run", "lock")
"""Names that the data folder uses itself."""
PORTFOLIO = "portfolio"
"""Stands for all services together where money is spoken of."""
WITHOUT_MEMBERS = {
    "counts": "predict classes or numbers, and there are none for counts",
    "multilabel": "predict one class or a number, and there are none for several classes together",
}
TARGETS = ("http://", "https://", "file:")
"""How an address begins that OpenLineage events can be sent to."""
UNREADABLE: Any = type("Unreadable", (), {})()
"""Stands for a value that had a fault, so that what can be checked beside it still is."""


def contradictions(spec: Spec) -> Iterator[tuple[str, str]]:
    """Path and message of what is wrong although each value alone is right; values may be UNREADABLE."""
    if spec.name in FOLDER_NAMES:
        yield "name", f"{spec.name!r} is the name of a folder of Penstock itself; choose another"
    if spec.name == PORTFOLIO:
        yield "name", f"{PORTFOLIO!r} stands for all services together; choose another"
    webhook = getattr(spec.budget, "alert_webhook", "")
    if isinstance(webhook, str) and webhook and not webhook.startswith(("http://", "https://")):
        yield "budget.alert_webhook", f"is an address, such as https://server/path, not {webhook!r}"
    if isinstance(spec.label, Label):
        yield from _label_contradictions(spec.task, spec.label)
    label_name = getattr(spec.label, "name", None)
    if isinstance(spec.features, dict):
        for name, feature in spec.features.items():
            if name in EVENT_FIELDS:
                yield f"features.{name}", "is a field of every event, not a feature; give the feature another name"
            elif name in (label_name, "label"):
                yield f"features.{name}", "is the label; a model that is given its answer as a feature learns nothing"
            if isinstance(feature, Feature):
                yield from ((f"features.{name}", message) for message in _feature_contradictions(feature))
    if spec.subject in EVENT_FIELDS or spec.subject in (label_name, "label"):
        yield "subject", f"{spec.subject!r} says something else of an event already"
    elif (
        isinstance(spec.features, dict)
        and getattr(spec.features.get(spec.subject or ""), "type", "category") != "category"
    ):
        yield "subject", f"{spec.subject!r} is a feature of another type than category"
    if isinstance(getattr(spec.gate, "apprentice", None), Apprentice) and (
        label_name == INCUMBENT or (isinstance(spec.features, dict) and INCUMBENT in spec.features)
    ):
        yield "gate.apprentice", f"needs the name {INCUMBENT!r} for what that system answers; rename the column"
    half_lives = getattr(spec.learn, "half_lives", ())
    if isinstance(half_lives, tuple) and len(set(half_lives)) < len(half_lives):
        yield "learn.half_lives", "holds one half-life twice"
    members = getattr(spec.learn, "members", ())
    if isinstance(members, tuple):
        yield from ((f"learn.members[{place}]", message) for place, message in member_faults(members))
        if members and spec.task in WITHOUT_MEMBERS:
            yield "learn.members", WITHOUT_MEMBERS[spec.task]
    target = getattr(spec.lineage, "openlineage", "")
    if isinstance(target, str) and target and not target.startswith(TARGETS):
        yield "lineage.openlineage", f"is a server or a file, such as http://server:5000 or file:/path, not {target!r}"
    stages = getattr(spec.gate, "canary", ())
    if isinstance(stages, tuple) and any(a >= b for a, b in pairwise(stages)):
        yield "gate.canary", "must ascend, such as [0.01, 0.1, 0.5, 1.0]"
    yield from _slice_contradictions(spec)
    quantiles = getattr(spec.serve, "quantiles", ())
    if isinstance(quantiles, tuple) and quantiles:
        if spec.task in get_args(Task) and spec.task not in NUMBER_TASKS:
            yield "serve.quantiles", "are of numbers, and this task's answer is a class"
        elif any(a >= b for a, b in pairwise(quantiles)):
            yield "serve.quantiles", "must ascend, such as [0.1, 0.5, 0.9]"


def _slice_contradictions(spec: Spec) -> Iterator[tuple[str, str]]:
    slices, anchors = getattr(spec.gate, "slices", ()), getattr(spec.gate, "anchors", None)
    if not isinstance(slices, tuple) or not isinstance(spec.features, dict):
        return
    if slices and anchors == 0:
        yield "gate.slices", "are looked at by anchors, and there are none; set gate.anchors, such as 256"
    if len(set(slices)) < len(slices):
        yield "gate.slices", "names one feature twice"
    for place, name in enumerate(slices):
        kind = getattr(spec.features.get(name), "type", None) if name in spec.features else ""
        if kind == "":
            known = ", ".join(str(feature) for feature in spec.features)
            yield f"gate.slices[{place}]", f"{name!r} is no feature; there are {known}"
        elif kind in get_args(FeatureType) and kind not in ("category", "boolean"):
            yield f"gate.slices[{place}]", f"{name!r} is a {kind}, and slices are values of a category or a boolean"


def _label_contradictions(task: Task, label: Label) -> Iterator[tuple[str, str]]:
    if label.name in EVENT_FIELDS:
        yield "label.name", f"{label.name!r} is a field of every event already"
    for setting, bound in (("min", label.min), ("max", label.max)):
        if bound is not None and task in get_args(Task) and task not in NUMBER_TASKS:
            yield f"label.{setting}", "is of numbers, and this task's answer is a class"
    if _is_empty(label.min, label.max):
        yield "label.max", "must not be below min"
    classes: Any = label.classes
    if not isinstance(classes, tuple):
        return
    if len(set(classes)) < len(classes):
        yield "label.classes", "holds one class twice"
    elif label.implicit is not None and task == "multilabel":
        yield "label.implicit", "names one class, and the answers of this task are sets of classes"
    elif label.implicit is not None and task in NUMBER_TASKS:
        yield "label.implicit", "names a class, and the answer of this task is a number"
    elif label.implicit is not None and task == "binary" and label.implicit not in (classes or ("0", "1")):
        yield "label.implicit", f"{label.implicit!r} is none of the two classes, {' and '.join(classes or ('0', '1'))}"
    elif task in NUMBER_TASKS and classes:
        yield "label.classes", "a regression has no classes" if task == "regression" else "counts have no classes"
    elif task == "binary" and len(classes) not in (0, 2):
        yield "label.classes", f"a binary task has exactly two classes, not {len(classes)}"
    elif isinstance(label.classes_max, int) and len(classes) > label.classes_max:
        yield "label.classes", f"names {len(classes)} classes where classes_max is {label.classes_max}"


def _feature_contradictions(feature: Feature) -> Iterator[str]:
    if feature.type not in get_args(FeatureType):
        return
    if feature.type == "vector" and feature.width is None:
        yield "a vector needs its width: vector[64]"
    if feature.type != "vector" and feature.width is not None:
        yield f"width belongs to vectors, not to {feature.type}"
    if feature.type not in ("category", "text") and feature.buckets is not None:
        yield f"buckets belong to category and text, not to {feature.type}"
    if feature.type not in ("number", "vector") and (feature.min is not None or feature.max is not None):
        yield f"min and max belong to number and vector, not to {feature.type}"
    if feature.type != "category" and feature.values:
        yield f"values belong to category, not to {feature.type}"
    if isinstance(feature.values, tuple) and len(set(feature.values)) < len(feature.values):
        yield "values holds one value twice"
    if _is_empty(feature.min, feature.max):
        yield "max must not be below min"
    if isinstance(feature.width, int) and not 1 <= feature.width <= 65_536:
        yield "the width of a vector must be at least 1 and at most 65536"


def _is_empty(low: Any, high: Any) -> bool:
    """Whether nothing lies between these bounds; they may be UNREADABLE."""
    return isinstance(low, float) and isinstance(high, float) and high < low
