"""What the system that was there before has answered, as events say it: in which forms, and what is wrong with one.

A class that nobody has ever heard of is no fault in the answer of a system that we do not know, but simply wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from penstock.errors import BadEvent
from penstock.replies import Incumbent
from penstock.serve.forms import Forms, class_name, class_set
from penstock.spec import NUMBER_TASKS

FIELD = "incumbent"
SLACK = 1e-3
"""By how much chances may add up to more than 1: they are often rounded."""


def wanted_incumbent(forms: Forms) -> str:
    """What the answer should be, in words."""
    spec = forms.spec
    if spec.task in NUMBER_TASKS:
        return "a finite number"
    if spec.task == "multilabel":
        return "a list of classes: strings, integers, true or false"
    return 'a class (a string, an integer, true or false) or the chances of classes, such as {"a": 0.8, "b": 0.2}'


def named(forms: Forms, value: Any) -> Incumbent | None:
    """The answer as it is kept, of one that has the right form."""
    if value is None or isinstance(value, float | dict):
        return value
    if isinstance(value, list):
        return class_set(value)
    if not forms.schema.label_is_class:
        return float(value)
    return class_name(value) if forms.classes is None or value not in forms.classes else forms.classes[value]


def chances_fault(forms: Forms, chances: Mapping[str, float]) -> str:
    """What is wrong with the chances of classes; empty where nothing is."""
    most, total = forms.spec.label.classes_max, sum(chances.values())
    if not chances:
        return "names no class; leave it out where there is no answer"
    if len(chances) > most:
        return f"names {len(chances)} classes, and label.classes_max is {most}"
    if total > 1.0 + SLACK:
        return f"adds up to {total:.6g}, and the chances of an event's classes add up to 1 at most"
    return ""


def refused(forms: Forms, values: Sequence[Any], single: bool) -> Iterator[BadEvent]:
    """What is wrong with answers that have the right form."""
    for row, value in enumerate(values):
        if isinstance(value, dict) and (fault := chances_fault(forms, value)):
            yield BadEvent(
                f"{'' if single else f'Event {row}: '}{FIELD!r} {fault}",
                pointer=f"/{FIELD}" if single else f"/{row}/{FIELD}",
                row=None if single else row,
            )
