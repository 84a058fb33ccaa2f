"""Models of scikit-learn that learn by ``partial_fit``: from the encoder's matrix, some events at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.learn.outside.interface import SAID
from penstock.spec import Task

Array = NDArray[np.float64]
AT_ONCE = 32
"""Events of one `partial_fit`: one alone has no variance, which some models divide by, and costs as much as 32."""
KEPT = 256
"""Latest events that a model begins anew from when a class arrives that it was not made for."""
OUTCOME_MAX = 1000.0
"""Outcomes are cut here, in standard units."""


class SklearnMember:
    """A classifier or a regressor. Its model is a mapping: ``model``, and what it learns from next."""

    libraries: tuple[str, ...] = ("sklearn",)
    reads = "matrix"

    def __init__(self, name: str, make: Callable[[], Any], *, numeric: bool) -> None:
        self.name = name
        self._make = make
        self._numeric = numeric

    def fresh(self) -> dict[str, Any]:
        kept = {"inputs": None, "targets": np.empty(0), "waiting": 0}
        return {"model": None, "classes": [], "centre": 0.0, "unit": 1.0} | kept

    def learn(self, model: dict[str, Any], inputs: Array, targets: Array) -> None:
        at = 0
        while at < len(targets):
            more = min(AT_ONCE - model["waiting"], len(targets) - at)
            self._keep(model, inputs[at : at + more], targets[at : at + more])
            at += more
            if model["waiting"] == AT_ONCE:
                (self._fit_numbers if self._numeric else self._fit_classes)(model)

    def _keep(self, model: dict[str, Any], inputs: Array, targets: Array) -> None:
        before = model["inputs"] if model["inputs"] is not None else inputs[:0]
        model["inputs"] = np.ascontiguousarray(np.concatenate((before, inputs))[-KEPT:])
        model["targets"] = np.ascontiguousarray(np.concatenate((model["targets"], targets))[-KEPT:])
        model["waiting"] += len(targets)

    def _fit_classes(self, model: dict[str, Any]) -> None:
        new = model["targets"][-AT_ONCE:].astype(np.int64)
        model["waiting"] = 0
        if not set(new.tolist()) <= set(model["classes"]):
            model["classes"] = sorted({*model["classes"], *new.tolist()})
            model["model"] = None
        if len(model["classes"]) < 2:
            return
        is_new = model["model"] is None
        kept = KEPT if is_new else AT_ONCE
        if is_new:
            model["model"] = self._make()
        classes = np.array(model["classes"])
        model["model"].partial_fit(model["inputs"][-kept:], model["targets"][-kept:].astype(np.int64), classes=classes)

    def _fit_numbers(self, model: dict[str, Any]) -> None:
        new = model["targets"][-AT_ONCE:]
        model["waiting"] = 0
        if model["model"] is None:
            # Most of these models presume outcomes of the order of one.
            low, centre, high = np.quantile(new, (0.25, 0.5, 0.75))
            model["centre"], model["unit"] = float(centre), float(high - low) or float(np.std(new)) or 1.0
            model["model"] = self._make()
        outcomes = np.clip((new - model["centre"]) / model["unit"], -OUTCOME_MAX, OUTCOME_MAX)
        model["model"].partial_fit(model["inputs"][-AT_ONCE:], outcomes)

    def answer(self, model: dict[str, Any], inputs: Array, classes: int | None, anchors: Array) -> Array | None:
        fitted = model["model"]
        if fitted is None:
            return None
        if classes is None:
            means = np.asarray(fitted.predict(inputs), np.float64).reshape(len(inputs))
            answered: Array = means * model["unit"] + model["centre"]
            return answered
        found = np.zeros((len(inputs), classes))
        if hasattr(fitted, "predict_proba"):
            found[:, model["classes"]] = fitted.predict_proba(inputs)
            return found
        found += (1.0 - SAID) / classes
        found[np.arange(len(inputs)), fitted.predict(inputs)] += SAID
        return found


def unsuited(model: Any, task: Task) -> str | None:
    """Why a model is none for the task, as the end of a sentence about it; None where it is."""
    from sklearn.base import is_classifier, is_regressor

    if task == "regression" and not is_regressor(model):
        return "is no regressor"
    if task != "regression" and not is_classifier(model):
        return "is no classifier"
    if not hasattr(model, "partial_fit"):
        return "cannot learn from a stream: it has no partial_fit"
    return None
