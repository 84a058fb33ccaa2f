"""Models of River: one event at a time, each a mapping of features by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.learn.outside.interface import SAID
from penstock.spec import Task

Array = NDArray[np.float64]
HUGE = 1e100


class RiverMember:
    """A classifier or a regressor; classes are the numbers of their places."""

    libraries: tuple[str, ...] = ("river",)
    reads = "rows"

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self.name = name
        self._make = make

    def fresh(self) -> Any:
        return self._make()

    def learn(self, model: Any, inputs: list[dict[str, Any]], targets: Array) -> None:
        if _is_classifier(model):
            for features, place in zip(inputs, targets.astype(np.int64).tolist(), strict=True):
                model.learn_one(features, place)
            return
        for features, outcome in zip(inputs, np.clip(targets, -HUGE, HUGE).tolist(), strict=True):
            model.learn_one(features, outcome)

    def answer(self, model: Any, inputs: list[dict[str, Any]], classes: int | None, anchors: Array) -> Array | None:
        if classes is None:
            return np.array([float(model.predict_one(features)) for features in inputs])
        found = np.zeros((len(inputs), classes))
        for row, features in zip(found, inputs, strict=True):
            try:
                said = model.predict_proba_one(features)
            except NotImplementedError:
                said = {model.predict_one(features): SAID}
                row[:] = (1.0 - SAID) / classes
            # False and True of a model of two classes are 0 and 1.
            for place, probability in said.items():
                if place is not None and 0 <= place < classes:
                    row[int(place)] = probability
        return found


def _is_classifier(model: Any) -> bool:
    from river import base

    return isinstance(model, base.Classifier)


def unsuited(model: Any, task: Task) -> str | None:
    """Why a model is none for the task, as the end of a sentence about it; None where it is."""
    from river import base, compose

    last = model
    while isinstance(last, compose.Pipeline):
        last = list(last.steps.values())[-1]
    if task == "regression":
        return None if isinstance(last, base.Regressor) else "is no regressor"
    if not isinstance(last, base.Classifier):
        return "is no classifier"
    if task == "multiclass" and not last._multiclass:
        return "tells two classes apart only; river.multiclass.OneVsRestClassifier makes one for more of it"
    return None
