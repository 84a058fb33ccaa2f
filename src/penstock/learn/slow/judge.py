"""What held-out events of the past say of two models: who knows them better, and what was forgotten."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Version
from penstock.learn.fast.encode import HUGE
from penstock.learn.fast.experts import Outside
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.predictor import BlockPredictor
from penstock.learn.interface import Bases, HeldOut, Predictions
from penstock.learn.prequential import right
from penstock.spec import ClassName, Spec

ROWS = 512
EVIDENCE = 1.645
"""Deviations by which the events lost must outnumber those gained, of one class, to count as forgotten: of many classes
with few events each one always loses by chance."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What was found."""

    held_out: HeldOut
    before: dict[str, float]
    """Accuracy by class, or the mean loss of a regression."""
    after: dict[str, float]


def judge(
    spec: Spec, before: FastModel, after: FastModel, events: Batch, bases: Bases, outside: Outside | None = None
) -> Judged:
    """Compare two models on events that no base was trained on, (n,) with n at least 1."""
    is_classes = isinstance(events.labels, list)
    scale = 1.0 if is_classes else float(np.std(np.clip(np.asarray(events.labels), -HUGE, HUGE))) or 1.0
    old, new = (_scores(_answered(spec, model, events, bases, outside), scale) for model in (before, after))
    better, worse = new > old, new < old
    groups: dict[str, NDArray[np.bool_]] = {"": np.ones(len(events), bool)}
    if isinstance(events.labels, list):
        labels = np.array(events.labels)
        groups = {str(name): labels == name for name in dict.fromkeys(events.labels)}
    forgotten, of_class = 0.0, ""
    for name, inside in groups.items():
        lost, gained = int(worse[inside].sum()), int(better[inside].sum())
        loss = float(old[inside].mean() - new[inside].mean())
        if loss > forgotten and lost - gained > EVIDENCE * (lost + gained) ** 0.5:
            forgotten, of_class = loss, name
    sign = 1.0 if is_classes else -1.0
    held_out = HeldOut(
        events=len(events),
        gained=int(better.sum()),
        lost=int(worse.sum()),
        forgotten=forgotten,
        forgotten_class=of_class,
    )
    return Judged(
        held_out,
        before={name or "loss": sign * float(old[inside].mean()) for name, inside in groups.items()},
        after={name or "loss": sign * float(new[inside].mean()) for name, inside in groups.items()},
    )


@dataclass(frozen=True, slots=True)
class _Answered:
    """What a model said of the events, in parts."""

    parts: list[tuple[Predictions, Batch]]
    predictor: BlockPredictor
    classes: tuple[ClassName, ...]


def _answered(spec: Spec, model: FastModel, events: Batch, bases: Bases, outside: Outside | None) -> _Answered:
    block = model.freeze(Version(1), {})
    predictor = BlockPredictor(block, spec, bases, outside)
    parts = [events.rows(slice(at, at + ROWS)) for at in range(0, len(events), ROWS)]
    return _Answered([(predictor.predict(part), part) for part in parts], predictor, block.head.classes)


def _scores(answered: _Answered, scale: float) -> NDArray[np.float64]:
    """(n,) the higher the better: 1 where a class is right and 0 where it is wrong, minus the loss of a number."""
    scores = [
        right(said, part.labels, answered.classes)
        if isinstance(part.labels, list)
        else -answered.predictor.losses(said, part, scale)
        for said, part in answered.parts
    ]
    return np.concatenate(scores)
