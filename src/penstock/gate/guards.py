"""Guards: faults that losses do not show, of an update's weights, and of the answers of a new base beside those of what
is served. Each says in words what is wrong, and nothing where nothing is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.learn.inputs import Departed
from penstock.learn.measured import Guard, finite

Array = NDArray[np.float64]

JUMP_MAX = 30.0
"""A step that moves a weight by thirty times the largest one is an explosion, not learning."""


def weights_fault(finite: bool, jump: float) -> str | None:
    """What is wrong with the updated weights, in words."""
    if not finite or not math.isfinite(jump):
        return "weights of the update are not finite"
    if jump > JUMP_MAX:
        return f"a weight moved by {jump:.3g} times the largest one in a single step (at most {JUMP_MAX:g})"
    return None


def weights_guard(finite: bool, jump: float) -> Guard:
    """The same in numbers."""
    value = jump if finite and math.isfinite(jump) else None
    return Guard(name="weights", value=value, most=JUMP_MAX, beyond=value is None or value > JUMP_MAX)


def named(source: str | None) -> str:
    """A source in words."""
    return "events without a source" if source is None else f"source {source!r}"


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a version said of n events."""

    said: Sequence[str | None]
    """(n,) the most probable class of each; None while it knows of none."""
    chances: Array
    """(n,) its probability."""


def inputs_fault(departed: Departed | None, drift_max: float) -> str:
    """How far inputs have left what a base was trained on, in words; empty where they have not."""
    if departed is None or not departed.is_shown or departed.index <= drift_max:
        return ""
    return (
        f"inputs: {departed.feature!r} has left what it was trained on, with a population stability index of "
        f"{departed.index:.2f} on the last {departed.events} events (at most {drift_max:g})"
    )


def inputs_guard(departed: Departed | None, drift_max: float) -> Guard | None:
    """The same in numbers; None where nobody looked."""
    if departed is None:
        return None
    return Guard(
        name="inputs",
        value=departed.index,
        most=finite(drift_max),
        of=departed.feature,
        events=departed.events,
        beyond=bool(inputs_fault(departed, drift_max)),
    )


BINS = 10
"""Of equal width, as is usual for this figure (Guo et al. 2017)."""
CALIBRATION_EVENTS = 256
"""With fewer the figure is mostly noise: a right model has one of some 0.05 by then."""
COLLAPSED_LABELS = 64
"""Labels of a class without which nobody can say that it is missing from the answers."""
COLLAPSED_TO = 0.1
"""Of the answers that what is served gives to a class, what a new base gives at least."""
KNOWN_FROM = 0.25
"""Of the labels of a class, the answers that what is served gives at least, or it does not know the class itself."""
CLASSES_MAX = 1024
"""Classes whose answers are counted; of later ones nothing is said."""


def collapse_guard(classes: Iterable[tuple[str, Sequence[int]]], *, beyond: bool) -> Guard | None:
    """Of each class, labels, answers of what it is compared with and own answers: the one that is answered least among
    those that come often enough and are known to the other; None where there is no such class."""
    known = [
        (own / other, name, labels)
        for name, (labels, other, own, *_) in classes
        if labels >= COLLAPSED_LABELS and other >= KNOWN_FROM * labels
    ]
    if not known:
        return None
    kept, name, labels = min(known)
    return Guard(
        name="collapse", value=max(0.0, 1.0 - kept), most=1.0 - COLLAPSED_TO, of=name, events=labels, beyond=beyond
    )


class AnswersWatch:
    """The answers of a new base beside those of what is served, on the same events."""

    def __init__(self, calibration_max: float, *, collapse: bool) -> None:
        self._calibration_max = calibration_max
        self._collapse = collapse
        self.begin()

    def begin(self) -> None:
        """Nothing was answered yet."""
        self._bins: Array = np.zeros((2, BINS, 3))
        """Of each version and bin: events, sum of the chances, and how many were right."""
        self._classes: dict[str, list[int]] = {}
        """Of each class: labels, and answers of each version."""

    def take(self, labels: Sequence[str], served: Opinion, newcomer: Opinion) -> None:
        """(n,) labels, and what both said before they learned them."""
        for bins, opinion in zip(self._bins, (served, newcomer), strict=True):
            place = np.minimum((opinion.chances * BINS).astype(np.intp), BINS - 1)
            right = np.array([said == label for said, label in zip(opinion.said, labels, strict=True)], np.float64)
            np.add.at(bins, place, np.column_stack([np.ones(len(place)), opinion.chances, right]))
        for column, names in enumerate((labels, served.said, newcomer.said)):
            for name in names:
                if name is not None and (name in self._classes or len(self._classes) < CLASSES_MAX):
                    self._classes.setdefault(name, [0, 0, 0])[column] += 1

    def fault(self) -> str:
        """What is wrong with the new base's answers; empty where nothing is."""
        return self._calibration_fault() or self._collapse_fault()

    @property
    def guards(self) -> tuple[Guard, ...]:
        """The same in numbers: expected calibration errors, and the class that is answered least; nothing before
        anything was answered."""
        events = int(self._bins[1, :, 0].sum())
        if not events:
            return ()
        served, newcomer = self.errors
        calibration = Guard(
            name="calibration",
            value=newcomer,
            most=self._calibration_max,
            beside=served,
            events=events,
            beyond=bool(self._calibration_fault()),
        )
        collapse = collapse_guard(self._classes.items(), beyond=bool(self._collapse_fault()))
        return (calibration,) if collapse is None else (calibration, collapse)

    @property
    def errors(self) -> tuple[float, float]:
        """Expected calibration error of what is served, and of the newcomer: the mean over events of how far the
        chances of their bin are from the share that was right."""
        events = self._bins[:, :, 0]
        gaps = np.abs(self._bins[:, :, 1] - self._bins[:, :, 2]).sum(axis=1) / np.maximum(events.sum(axis=1), 1.0)
        return float(gaps[0]), float(gaps[1])

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack."""
        return {"bins": self._bins.tolist(), "classes": [[name, *counts] for name, counts in self._classes.items()]}

    def load(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._bins = np.array(state["bins"], np.float64)
        self._classes = {name: list(counts) for name, *counts in state["classes"]}

    def _calibration_fault(self) -> str:
        events = int(self._bins[1, :, 0].sum())
        served, newcomer = self.errors
        if events < CALIBRATION_EVENTS or newcomer - served <= self._calibration_max:
            return ""
        return (
            f"calibration: its chances are off by {newcomer:.3f} on the mean, and those of what is served by "
            f"{served:.3f}, on {events} events (at most {self._calibration_max:g} more)"
        )

    def _collapse_fault(self) -> str:
        if not self._collapse:
            return ""
        for name, (labels, served, newcomer) in self._classes.items():
            if labels < COLLAPSED_LABELS or served < KNOWN_FROM * labels or newcomer >= COLLAPSED_TO * served:
                continue
            return (
                f"collapse: class {name!r} came {labels} times, what is served answered with it {served} times, and "
                f"it {newcomer} times"
            )
        return ""
