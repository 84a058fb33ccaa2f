"""Predicting: what the model does before it learns, and what a server does with a block."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import BlockDamaged
from penstock.events import Batch, Schema
from penstock.learn.fast import said
from penstock.learn.fast.anchor import Anchor
from penstock.learn.fast.boosting import boosted
from penstock.learn.fast.classify import Answer as ClassAnswer
from penstock.learn.fast.classify import ClassMembers
from penstock.learn.fast.counts import Answer as CountAnswer
from penstock.learn.fast.counts import CountMembers, count_losses
from penstock.learn.fast.encode import Encoder
from penstock.learn.fast.experts import Answering, Outside, answers, named_outside
from penstock.learn.fast.layout import Layout
from penstock.learn.fast.maps import FeatureMap
from penstock.learn.fast.multilabel import Answer as SetAnswer
from penstock.learn.fast.multilabel import SetMembers, set_losses
from penstock.learn.fast.regress import Answer as NumberAnswer
from penstock.learn.fast.regress import NumberMembers
from penstock.learn.fast.stable import Stable, found
from penstock.learn.interface import Bases, Block, Predictions
from penstock.spec import ClassName, ClassSet, Spec

Array = NDArray[np.float64]

KEPT_BYTES = 1 << 24
"""Of memory that was freed, which the C library keeps rather than asking the system for it again at every step: new
pages cost a batch of a thousand rows a quarter of its time. It keeps twice what it has once seen freed in one piece."""
np.empty(KEPT_BYTES, np.uint8)


def feature_map(spec: Spec, encoder: Encoder, layout: Layout) -> FeatureMap:
    """The feature map that a service's settings describe."""
    return FeatureMap(seed=spec.learn.seed, inputs=encoder.fixed, count=layout.random_features, size=encoder.inputs)


def class_predictions(answer: ClassAnswer) -> Predictions:
    """The mixture's probabilities."""
    return Predictions(probabilities=answer.mixed)


def set_predictions(answer: SetAnswer) -> Predictions:
    """Each class's probability by itself."""
    return Predictions(probabilities=answer.answered)


def number_predictions(answer: NumberAnswer, members: NumberMembers, anchors: Array) -> Predictions:
    """The mixture's mean, spread, interval and quantiles in the label's unit; (n,) anchors are what it is
    measured from."""
    mean = answer.mean * members.unit + members.centre + anchors
    spread = answer.spread * members.unit
    half = members.reach * spread
    quantiles = members.quantiles.of(mean, spread)
    return Predictions(mean=mean, spread=spread, low=mean - half, high=mean + half, quantiles=quantiles)


def count_predictions(answer: CountAnswer, members: CountMembers) -> Predictions:
    """The mixture's mean, spread, interval and quantiles, the last two whole numbers."""
    low, high, quantiles = members.numbers(answer)
    return Predictions(mean=answer.mean, spread=np.sqrt(answer.variance), low=low, high=high, quantiles=quantiles)


def class_losses(probabilities: Array, classes: NDArray[np.intp]) -> Array:
    """(n,) half the Brier score, sum over classes (p - y)^2 / 2, which lies in [0, 1] and is proper: it is least for
    the true probabilities. An event of a class that the predictor does not know (index -1 or too large) has loss 1."""
    n, known = probabilities.shape
    if n == 1:
        # The usual step of an idle stream, for which arrays are slow.
        place, row = int(classes[0]), probabilities[0].tolist()
        loss = 0.5 * (sum(p * p for p in row) + 1.0 - 2.0 * row[place]) if 0 <= place < known else 1.0
        return np.array([min(max(loss, 0.0), 1.0)])
    losses = np.ones(n)
    rows = np.flatnonzero((classes >= 0) & (classes < known))
    if len(rows):
        p = probabilities if len(rows) == n else probabilities[rows]
        of_true = p[np.arange(len(rows)), classes[rows]]
        losses[rows] = 0.5 * ((p * p).sum(axis=1) + 1.0 - 2.0 * of_true)
    return np.minimum(np.maximum(losses, 0.0), 1.0)


def number_losses(mean: Array, labels: Array, scale: float) -> Array:
    """(n,) |error| / (|error| + scale): zero for a perfect answer, one half for an error of one scale, below 1
    always."""
    error = np.abs(np.minimum(np.maximum(labels, -1e300), 1e300) - mean)
    return error / (error + scale)


class BlockPredictor:
    """Answers from one frozen block: the same numbers that the model itself answered when it was frozen.

    Raises BlockDamaged, or BaseMissing where the base that it was made for is not to be found."""

    def __init__(
        self,
        block: Block,
        spec: Spec,
        bases: Bases | None = None,
        outside: Outside | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        """With ``compiled`` it answers classes by compiled loops, which may differ in the last digits, and does not say
        what members said: for who learns, and compares versions at every step."""
        self._answering: ModuleType | None = None
        if compiled:
            from penstock.learn.fast import answering

            self._answering = answering
        self._stable = Stable(found(bases, block.head.base))
        spec = self._stable.configured(spec)
        self._schema = Schema.of(spec).fingerprint
        self._encoder = Encoder(spec, compiled=compiled)
        self._anchor = Anchor(spec)
        self._experts: list[Answering] = [*boosted(spec, self._encoder, compiled=compiled)]
        if (named := named_outside(spec, outside)) is not None:
            self._experts.extend(named.answering((self._encoder, self._anchor)))
        others = self._stable.members + sum(expert.members for expert in self._experts)
        self._layout = layout = Layout.of(spec, others, self._encoder.fixed, self._stable.members)
        self._map = feature_map(spec, self._encoder, layout)
        self._classes: dict[ClassName, int] = {}
        self._members: ClassMembers | SetMembers | NumberMembers | CountMembers
        if spec.task == "counts":
            serve = spec.serve
            linear_from = self._stable.width + self._map.count
            self._members = CountMembers(layout, linear_from, 0, serve.interval, serve.quantiles)
        elif spec.task == "regression":
            self._members = NumberMembers(
                layout, self._stable.width + self._map.count, 0, spec.serve.interval, spec.serve.quantiles
            )
        else:
            members = SetMembers if spec.task == "multilabel" else ClassMembers
            self._members = members(layout, 0, 0)
        self.thaw(block)

    @property
    def base(self) -> str:
        """Id of the base that it answers with; empty without one."""
        return self._stable.id

    def thaw(self, block: Block) -> None:
        """Answer from another block with the same base, whose numbers replace all that it had. Where that raises
        BlockDamaged it must not be asked any more, since it may have a part of either."""
        if block.head.schema != self._schema:
            raise BlockDamaged(reason="it was made for other columns than the service has")
        self._classes = {name: index for index, name in enumerate(block.head.classes)}
        # What travelled as bytes must not be written to, and compiled loops take no such arrays.
        is_compiled = self._answering is not None
        arrays: dict[str, NDArray[Any]] = {n: a.copy() if is_compiled else a for n, a in block.arrays.items()}
        try:
            self._encoder.load(arrays)
            self._anchor.thaw(arrays["anchor"])
            self._members.thaw(arrays, copy=False)
            for expert in self._experts:
                expert.thaw(arrays)
        except KeyError as missing:
            raise BlockDamaged(reason=f"it lacks {missing}") from missing
        if self._members.weights.shape[2] != self._layout.heads:
            raise BlockDamaged(reason="it has other heads than the service")

    def predict(self, batch: Batch) -> Predictions:
        """One answer a row."""
        embedded = self._stable.embed(batch)
        features = self._map.features(self._encoder.encode(batch), embedded.features)
        members, mark = self._members, said.mark_of(self._stable.id, self._anchor.mark)
        if isinstance(members, ClassMembers):
            alone = self._stable.probabilities(embedded, self._classes, len(self._classes))
            others = answers(self._experts, batch, len(self._classes), alone)
            if self._answering is not None:
                compiled = members.answer_by(self._answering, features, others, mixed_alone=True)
                return Predictions(probabilities=compiled.mixed)
            answer = members.answer(features, others)
            return Predictions(probabilities=answer.mixed, said=said.of_classes(answer.members, mark))
        if isinstance(members, SetMembers):
            sets = members.answer(features, self._stable.probabilities(embedded, self._classes, len(self._classes)))
            return replace(set_predictions(sets), said=said.of_classes(sets.members, mark))
        if isinstance(members, CountMembers):
            counts = members.answer(features, self._stable.rates(embedded))
            return replace(count_predictions(counts, members), said=members.said(counts, mark))
        anchors = self._anchor.values(batch)
        alone = self._stable.means(embedded, anchors, members.centre, members.unit)
        experts = members.standard(answers(self._experts, batch, None, np.empty((len(batch), 0))))
        numbers = members.answer(features, np.concatenate((alone, experts), axis=1))
        return replace(number_predictions(numbers, members, anchors), said=members.said(numbers, anchors, mark))

    def losses(self, predictions: Predictions, batch: Batch, scale: float | None = None) -> Array:
        """(n,) bounded losses; ``scale`` is the learner's for a regression and for sets of classes, this block's own
        where it is None."""
        if isinstance(self._members, ClassMembers):
            assert predictions.probabilities is not None
            of = self._classes.get
            names: list[ClassName] = batch.labels  # type: ignore[assignment]
            classes = np.array([of(c, -1) for c in names], dtype=np.intp)
            if self._answering is None:
                return class_losses(predictions.probabilities, classes)
            losses = np.empty(len(classes))
            self._answering.brier(predictions.probabilities, classes, losses)
            return losses
        if isinstance(self._members, SetMembers):
            assert predictions.probabilities is not None
            of_sets: list[ClassSet] = batch.labels  # type: ignore[assignment]
            scale = scale or self._members.scale(len(self._classes))
            return set_losses(predictions.probabilities, of_sets, self._classes, scale)
        assert predictions.mean is not None
        if isinstance(self._members, CountMembers):
            assert predictions.spread is not None
            return count_losses(predictions.mean, predictions.spread**2, np.asarray(batch.labels))
        return number_losses(predictions.mean, np.asarray(batch.labels), scale or self._members.unit)


class NewestPredictor:
    """Makes predictors of one block after the other, for whoever asks the newest alone: a server, which makes one at
    the first request after each version.

    What is made of the service's settings is there already: the predictor before the last one takes in the new block's
    numbers. The last one stays as it is, and can be asked further where the new block turns out to be damaged."""

    def __init__(self, spec: Spec, bases: Bases | None = None, outside: Outside | None = None) -> None:
        self._spec, self._bases, self._outside = spec, bases, outside
        self._newest: BlockPredictor | None = None
        self._spare: BlockPredictor | None = None

    def __call__(self, block: Block) -> BlockPredictor:
        """Raises BlockDamaged, BaseMissing and LibraryMissing; what was made before the last call is not to be asked
        any more."""
        made, self._spare = self._spare, None
        if made is None or made.base != block.head.base:
            made = BlockPredictor(block, self._spec, self._bases, self._outside)
        else:
            made.thaw(block)
        self._spare, self._newest = self._newest, made
        return made
