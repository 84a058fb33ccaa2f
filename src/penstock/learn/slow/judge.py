"""What held-out events of the past say of two models: who knows them better, and what was forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import cast

import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Schema, Version
from penstock.learn.fast.encode import HUGE
from penstock.learn.fast.experts import Outside
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.predictor import BlockPredictor
from penstock.learn.interface import Bases, HeldOut, Predictions
from penstock.learn.prequential import right
from penstock.spec import ClassName, ClassSet, Spec

ROWS = 512
CHANCE = 0.05
"""Of luck alone making any class, or all together, look forgotten: of many classes with few events each, one always
loses something, so each has its share of this chance (Bonferroni)."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What was found."""

    held_out: HeldOut
    before: dict[str, float]
    """Accuracy by class, the share of a class's events in whose answer it is where they have several, or the mean loss
    of a regression."""
    after: dict[str, float]


def judge(
    spec: Spec, before: FastModel, after: FastModel, events: Batch, bases: Bases, outside: Outside | None = None
) -> Judged:
    """Compare two models on events that no base was trained on, (n,) with n at least 1."""
    is_number = not isinstance(events.labels, list)
    old_answers, new_answers = (_answered(spec, model, events, bases, outside) for model in (before, after))
    # No sum of squared errors is larger than the number of classes.
    scale = float(max(len(old_answers.classes), len(new_answers.classes), 1))
    if is_number:
        scale = float(np.std(np.clip(np.asarray(events.labels), -HUGE, HUGE))) or 1.0
    old, new = _scores(old_answers, scale), _scores(new_answers, scale)
    groups = {"loss": (old, new)}
    everything: list[tuple[str, tuple[NDArray[np.float64], NDArray[np.float64]]]] = []
    if Schema.of(spec).label_is_set:
        old_found, new_found = _found(old_answers, spec), _found(new_answers, spec)
        groups = {str(name): (old_found[name], new_found[name]) for name in old_found}
    elif isinstance(events.labels, list):
        labels = np.array(events.labels)
        groups = {str(name): (old[labels == name], new[labels == name]) for name in dict.fromkeys(events.labels)}
        everything = [("", (old, new))]
    tried = [*groups.items(), *everything]
    deviations = NormalDist().inv_cdf(1.0 - CHANCE / len(tried))
    forgotten, of_class = 0.0, ""
    for name, (was, now) in tried:
        lost, gained = int((now < was).sum()), int((now > was).sum())
        loss = float(was.mean() - now.mean())
        if loss > forgotten and lost - gained > deviations * (lost + gained) ** 0.5:
            forgotten, of_class = loss, "" if is_number else name
    sign = -1.0 if is_number else 1.0
    held_out = HeldOut(
        events=len(events),
        gained=int((new > old).sum()),
        lost=int((new < old).sum()),
        forgotten=forgotten,
        forgotten_class=of_class,
    )
    return Judged(
        held_out,
        before={name: sign * float(was.mean()) for name, (was, _) in groups.items()},
        after={name: sign * float(now.mean()) for name, (_, now) in groups.items()},
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
    """(n,) the higher the better: 1 where a class is right and 0 where it is wrong, minus the loss of a number or of a
    set of classes."""
    scores = [
        right(said, part.labels, answered.classes)
        if isinstance(part.labels, list) and isinstance(part.labels[0], str)
        else -answered.predictor.losses(said, part, scale)
        for said, part in answered.parts
    ]
    return np.concatenate(scores)


def _found(answered: _Answered, spec: Spec) -> dict[ClassName, NDArray[np.float64]]:
    """Of each class that came, 1 for each event that had it and in whose answer it was, and 0 where it was missing."""
    found: dict[ClassName, list[float]] = {}
    index = {name: place for place, name in enumerate(answered.classes)}
    for said, part in answered.parts:
        assert said.probabilities is not None
        for names, chances in zip(cast("list[ClassSet]", part.labels), said.probabilities.tolist(), strict=True):
            for name in names:
                is_found = name in index and chances[index[name]] > spec.serve.threshold
                found.setdefault(name, []).append(float(is_found))
    return {name: np.array(values) for name, values in found.items()}
