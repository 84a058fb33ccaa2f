"""The fast tier's model: encodes, predicts, scores and learns, step by step."""

from __future__ import annotations

from math import inf
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from penstock.errors import BadEvent, CheckpointDamaged
from penstock.events import Batch, Offset, Partition, Schema, Version
from penstock.learn.fast.anchor import Anchor
from penstock.learn.fast.boosting import boosting
from penstock.learn.fast.classify import Answer as ClassAnswer
from penstock.learn.fast.classify import ClassLearner
from penstock.learn.fast.counts import CountLearner, count_losses, places_of_counts
from penstock.learn.fast.encode import Encoder
from penstock.learn.fast.experts import Expert, Outside, answers, named_outside
from penstock.learn.fast.layout import Layout
from penstock.learn.fast.multilabel import Answer as SetAnswer
from penstock.learn.fast.multilabel import SetLearner, places_of_sets, set_losses, targets_of
from penstock.learn.fast.past import FIRST_ASKED, Past
from penstock.learn.fast.predictor import (
    class_losses,
    class_predictions,
    count_predictions,
    feature_map,
    number_losses,
    number_predictions,
    set_predictions,
)
from penstock.learn.fast.regress import Answer as NumberAnswer
from penstock.learn.fast.regress import NumberLearner
from penstock.learn.fast.said import mark_of
from penstock.learn.fast.stable import Stable, found
from penstock.learn.interface import Base, Bases, Block, BlockHead, Embedded, Learned, State
from penstock.spec import ClassName, ClassSet, Spec

Array = NDArray[np.float64]

FORMAT = 6
"""Of the saved state; another number is refused."""
SETTLING = 64.0
"""Events before which the statistics of the inputs still move so much that a step is encoded again, with its own events
taken in, before it is learned from; the predictions that are scored never see them."""


class FastModel:
    """A bank of heads over fixed features, mixed by how well each has predicted lately.

    With a base, heads read its features as well, and it is one more member of the mixture; and it may carry the
    settings that all of this is made by. A state that is loaded says which base it needs, and ``bases`` finds it."""

    def __init__(
        self, spec: Spec, bases: Bases | None = None, base: Base | None = None, outside: Outside | None = None
    ) -> None:
        """``outside`` makes the members that the service names. Raises ValueError without it where it names any."""
        self._given = spec
        self._outside = named_outside(spec, outside)
        self._schema = Schema.of(spec)
        self._bases = bases
        self._begin(base)

    def _begin(self, base: Base | None) -> None:
        """Know nothing yet but the base."""
        self._stable = Stable(base)
        self._spec = spec = self._stable.configured(self._given)
        self._encoder = Encoder(spec, compiled=True)
        self._anchor = Anchor(spec)
        self._experts = self._fresh_experts()
        others = self._stable.members + sum(expert.members for expert in self._experts)
        self._layout = Layout.of(spec, others, self._encoder.fixed, self._stable.members)
        self._map = feature_map(spec, self._encoder, self._layout)
        self._past: Past | None = None
        self._classes: list[ClassName] = []
        self._index: dict[ClassName, int] = {}
        width = self._linear_from + 1 + self._encoder.width
        self._learner: ClassLearner | SetLearner | NumberLearner | CountLearner
        if spec.task == "regression":
            self._learner = self._fresh_numbers(width)
        elif spec.task == "counts":
            serve = spec.serve
            self._learner = CountLearner(self._layout, self._linear_from, width, serve.interval, serve.quantiles)
        else:
            first = spec.label.classes
            if spec.task == "binary":
                first = first or (ClassName("0"), ClassName("1"))
            self._name(first)
            self._name(self._stable.classes)
            learner = SetLearner if spec.task == "multilabel" else ClassLearner
            self._learner = learner(self._layout, self._linear_from, width, len(self._classes))

    def _fresh_experts(self) -> list[Expert]:
        experts: list[Expert] = [*boosting(self._spec, self._encoder)]
        if self._outside is not None:
            experts.extend(self._outside.learning((self._encoder, self._anchor)))
        return experts

    @property
    def _linear_from(self) -> int:
        """The column of the one: features of the base and random ones stand before it, inputs behind it."""
        return self._stable.width + self._map.count

    def _fresh_numbers(self, width: int) -> NumberLearner:
        serve = self._spec.serve
        return NumberLearner(self._layout, self._linear_from, width, serve.interval, serve.quantiles)

    @property
    def classes(self) -> tuple[ClassName, ...]:
        """The classes known, in the order of their probabilities."""
        return tuple(self._classes)

    def _name(self, names: tuple[ClassName, ...] | list[ClassName]) -> None:
        if self._index.keys() >= set(names):
            return
        for name in names:
            if name not in self._index:
                self._index[name] = len(self._classes)
                self._classes.append(name)

    def takes(self, batch: Batch) -> NDArray[np.intp] | None:
        """Places of the events whose label it knows or has room for, in their order; None where it takes them all."""
        if not isinstance(batch.labels, list):
            return None if self._spec.task != "counts" or batch.labels is None else places_of_counts(batch.labels)
        room = self._room
        if self._schema.label_is_set:
            return places_of_sets(cast("list[ClassSet]", batch.labels), self._index, room)
        if len(set(batch.labels) - self._index.keys()) <= room:
            return None
        in_order = [name for name in dict.fromkeys(batch.labels) if name not in self._index]
        taken = self._index.keys() | in_order[:room]
        return np.array([place for place, name in enumerate(batch.labels) if name in taken], dtype=np.intp)

    @property
    def _room(self) -> int:
        """Classes that may still arrive."""
        return 0 if self._spec.task == "binary" else self._spec.label.classes_max - len(self._classes)

    def learn(self, batch: Batch) -> Learned:
        """Predict every event of the step, score the predictions, then learn from all of them at once."""
        # The compiler is loaded by whoever learns, and by nobody else.
        from penstock.learn.fast.tallies import moved

        before = self._learner.members.weights.copy()
        learn = {
            "regression": self._learn_numbers,
            "counts": self._learn_counts,
            "multilabel": self._learn_sets,
        }
        learned = learn.get(self._spec.task, self._learn_classes)(batch)
        largest, change = moved(before, self._learner.members.weights)
        finite = change < inf
        return Learned(
            predictions=learned.predictions,
            losses=learned.losses,
            finite=finite,
            jump=change / max(1.0, largest),
            scale=learned.scale,
        )

    def _features(self, batch: Batch, embedded: Embedded) -> Array:
        return self._map.features(self._encoder.encode(batch), embedded.features)

    def _answer_classes(self, batch: Batch, embedded: Embedded, features: Array) -> ClassAnswer:
        """What all members say of the classes known now, and their mixture."""
        assert isinstance(self._learner, ClassLearner)
        known = len(self._classes)
        alone = self._stable.probabilities(embedded, self._index, known)
        return self._learner.answer(features, answers(self._experts, batch, known, alone))

    def _answer_sets(self, embedded: Embedded, features: Array) -> SetAnswer:
        """The same of several classes together."""
        assert isinstance(self._learner, SetLearner)
        alone = self._stable.probabilities(embedded, self._index, len(self._classes))
        return self._learner.members.answer(features, alone)

    def _answer_numbers(self, batch: Batch, embedded: Embedded, features: Array, anchors: Array) -> NumberAnswer:
        """The same of numbers, in standard units of what is beyond the anchors."""
        assert isinstance(self._learner, NumberLearner)
        members = self._learner.members
        alone = self._stable.means(embedded, anchors, members.centre, members.unit)
        others = members.standard(answers(self._experts, batch, None, np.empty((len(batch), 0))))
        return members.answer(features, np.concatenate((alone, others), axis=1))

    def _absorb(self, batch: Batch, embedded: Embedded, features: Array) -> tuple[Array, bool]:
        """Take the step's inputs into the statistics; the features to learn from, and whether they are others now."""
        settling = self._encoder.seen < SETTLING
        if self._encoder.absorb(batch) or settling:
            return self._features(batch, embedded), True
        return features, False

    def _learn_classes(self, batch: Batch) -> Learned:
        learner = self._learner
        assert isinstance(learner, ClassLearner)
        names = self._checked(batch.labels)
        embedded = self._stable.embed(batch)
        features = self._features(batch, embedded)
        known = len(self._classes)
        answer = self._answer_classes(batch, embedded, features)
        self._name(names)
        index = self._index
        classes = np.fromiter(map(index.__getitem__, names), np.intp, len(names))
        losses = class_losses(answer.mixed, classes)
        learner.mix(answer, classes, batch.said, mark_of(self._stable.id))
        features_now, others = self._absorb(batch, embedded, features)
        if features_now.shape[1] > learner.width or len(self._classes) > known:
            learner.grow(features_now.shape[1], len(self._classes))
            others = True
        answer_now = learner.members.answer(features_now) if others else answer
        learner.learn(features_now, answer_now, classes)
        for expert in self._experts:
            expert.learn(batch, classes)
        if self._past is not None:
            self._remember(self._past.due(len(batch)))
        return Learned(predictions=class_predictions(answer), losses=losses, finite=True, jump=0.0)

    def _learn_sets(self, batch: Batch) -> Learned:
        learner = self._learner
        assert isinstance(learner, SetLearner)
        sets = self._checked_sets(batch.labels)
        embedded = self._stable.embed(batch)
        features = self._features(batch, embedded)
        known = len(self._classes)
        answer = self._answer_sets(embedded, features)
        index = dict(self._index)
        self._name([name for names in sets for name in names])
        scale = learner.members.scale(len(self._classes))
        losses = set_losses(answer.answered, sets, index, scale)
        targets = targets_of(sets, self._index, len(self._classes))
        learner.mix(answer, targets[:, :known], batch.said, mark_of(self._stable.id))
        features_now, others = self._absorb(batch, embedded, features)
        if features_now.shape[1] > learner.width or len(self._classes) > known:
            learner.grow(features_now.shape[1], len(self._classes))
            others = True
        learner.learn(features_now, targets, known, None if others else answer)
        return Learned(predictions=set_predictions(answer), losses=losses, finite=True, jump=0.0, scale=scale)

    def hear(self, past: Batch) -> None:
        """Keep old labelled events, an even sample of all that came and that no base is trained on, and learn from them
        what to answer where inputs look like these, now and as the stream goes on. Only where the
        answer is one class is there such a rule."""
        if isinstance(self._learner, ClassLearner):
            known = [place for place, name in enumerate(past.labels or ()) if name in self._index]
            self._past = Past.of(past.rows(np.array(known, np.intp)))
            for _ in range(FIRST_ASKED):
                self._remember(1)

    def _remember(self, times: int) -> None:
        """Ask about the next old events, as often as that is due."""
        learner, past = self._learner, self._past
        if past is None or not times:
            return
        assert isinstance(learner, ClassLearner)
        events, weight = past.take(times)
        if len(events):
            embedded = self._stable.embed(events)
            answer = self._answer_classes(events, embedded, self._features(events, embedded))
            names = cast("list[ClassName]", events.labels)
            classes = np.array([self._index[name] for name in names], np.intp)
            learner.remember(answer, classes, weight)

    def _checked(self, labels: object) -> list[ClassName]:
        """The class names, if the task can take them; nothing has changed where it cannot."""
        if not isinstance(labels, list):
            raise BadEvent("labels are numbers, but the task needs class names", pointer="/label")
        new = set(labels) - self._index.keys()
        if new and self._spec.task == "binary":
            raise BadEvent(
                f"label {min(new)!r} is neither {self._classes[0]!r} nor {self._classes[1]!r}", pointer="/label"
            )
        self._check_room(new)
        return labels

    def _checked_sets(self, labels: object) -> list[ClassSet]:
        """The sets of classes, if there is room for all of them; nothing has changed where there is not."""
        if not isinstance(labels, list) or (labels and isinstance(labels[0], str)):
            raise BadEvent("labels are no sets of classes, which the task needs", pointer="/label")
        new = {name for names in labels for name in names} - self._index.keys()
        self._check_room(new)
        return labels

    def _check_room(self, new: set[ClassName]) -> None:
        most, room = self._spec.label.classes_max, self._room
        if len(new) > room:
            raise BadEvent(
                f"label {sorted(new)[room]!r} would be class number {most + 1}, and label.classes_max is {most}",
                pointer="/label",
            )

    def _learn_numbers(self, batch: Batch) -> Learned:
        learner = self._learner
        assert isinstance(learner, NumberLearner)
        members = learner.members
        if not isinstance(batch.labels, np.ndarray):
            raise BadEvent("labels are class names, but the task needs numbers", pointer="/label")
        embedded = self._stable.embed(batch)
        features = self._features(batch, embedded)
        anchors = self._anchor.values(batch)
        answer = self._answer_numbers(batch, embedded, features, anchors)
        predictions = number_predictions(answer, members, anchors)
        scale = members.unit
        assert predictions.mean is not None
        losses = number_losses(predictions.mean, batch.labels, scale)
        if learner.started:
            then = members.asked(answer, anchors, batch.said, mark_of(self._stable.id, self._anchor.mark))
            learner.mix(then, members.standard(batch.labels - anchors))
        if self._anchor.absorb(batch, batch.labels):
            self._learner = learner = self._fresh_numbers(features.shape[1])
            self._experts = self._fresh_experts()
            members = learner.members
            anchors = self._anchor.values(batch)
        outcomes = batch.labels - anchors
        learner.absorb(outcomes)
        features_now, _ = self._absorb(batch, embedded, features)
        if features_now.shape[1] > learner.width:
            learner.grow(features_now.shape[1])
        learner.learn(features_now, members.answer(features_now), members.standard(outcomes))
        for expert in self._experts:
            expert.learn(batch, outcomes)
        return Learned(predictions=predictions, losses=losses, finite=True, jump=0.0, scale=scale)

    def _learn_counts(self, batch: Batch) -> Learned:
        learner = self._learner
        assert isinstance(learner, CountLearner)
        members = learner.members
        if not isinstance(batch.labels, np.ndarray):
            raise BadEvent("labels are class names, but the task needs counts", pointer="/label")
        embedded = self._stable.embed(batch)
        features = self._features(batch, embedded)
        answer = members.answer(features, self._stable.rates(embedded))
        predictions = count_predictions(answer, members)
        assert predictions.spread is not None
        losses = count_losses(answer.mean, predictions.spread**2, batch.labels)
        counts = learner.within_reach(answer, batch.labels)
        if members.outcomes:
            learner.mix(members.asked(answer, batch.said, mark_of(self._stable.id)), counts)
        learner.absorb(counts)
        features_now, _ = self._absorb(batch, embedded, features)
        if features_now.shape[1] > learner.width:
            learner.grow(features_now.shape[1])
        learner.learn(features_now, counts)
        return Learned(predictions=predictions, losses=losses, finite=True, jump=0.0)

    def freeze(self, version: Version, position: dict[Partition, Offset]) -> Block:
        """A block that later learning does not touch."""
        learn = self._spec.learn
        head = BlockHead(
            version=version,
            position=dict(position),
            task=self._spec.task,
            schema=self._schema.fingerprint,
            classes=tuple(self._classes),
            base=self._stable.id,
            settings={
                "random_features": self._map.count,
                "seed": learn.seed,
                # As text: a snapshot's manifest is JSON, which has no infinity.
                "half_lives": [str(half_life) for half_life in learn.half_lives],
            },
        )
        arrays = self._encoder.save() | self._learner.members.frozen() | self._anchor.frozen()
        for expert in self._experts:
            arrays |= expert.frozen()
        return Block(head=head, arrays=arrays)

    def save(self) -> State:
        """A copy of the whole state."""
        values, arrays = self._learner.save()
        values |= {"anchor": self._anchor.save()}
        values |= {"base": self._stable.id}
        if self._past is not None:
            of_past, its_events = self._past.save()
            values |= of_past
            arrays |= its_events
        for expert in self._experts:
            of_expert, its_arrays = expert.save()
            values |= of_expert
            arrays |= its_arrays
        values |= {"format": FORMAT, "schema": self._schema.fingerprint, "classes": [str(c) for c in self._classes]}
        return State(values=values, arrays=arrays | self._encoder.save())

    def load(self, state: State) -> None:
        """Become what was saved. Raises BaseMissing where the base that it needs is not to be found."""
        values: dict[str, Any] = state.values
        if values.get("format") != FORMAT or values.get("schema") != self._schema.fingerprint:
            raise CheckpointDamaged(folder="given", reason="the model's state is of another format or service")
        if values["base"] != self._stable.id:
            self._begin(found(self._bases, values["base"]))
        if state.arrays["weights"].shape[2] != self._layout.heads:
            raise CheckpointDamaged(folder="given", reason="the model's state has other heads than the service")
        self._classes, self._index = [], {}
        self._name([ClassName(name) for name in values["classes"]])
        self._encoder.load(state.arrays)
        self._anchor.load(values["anchor"])
        self._learner.load(values, state.arrays)
        self._past = Past.loaded(values, state.arrays)
        for expert in self._experts:
            expert.load(values, state.arrays)
