"""Classes: what the members answer, and how they learn from a label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast.banks import IN_TURN_MAX, Banks
from penstock.learn.fast.lasting import EXACT_SHARE, Lasting, LastingLearner
from penstock.learn.fast.layout import BASES, Layout
from penstock.learn.fast.links import softmax
from penstock.learn.fast.mixture import BLOCK, FLOOR, PATIENCE, SHARE, gone
from penstock.learn.fast.recency import Recency, RecencyLearner
from penstock.learn.fast.said import Said, members_then
from penstock.learn.fast.stack import StackLearner, Stacks

Array = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]

LEARNING_RATE = 0.5
"""Of the first-order head, in AdaGrad's units."""
STEEPNESS_FIRST = 4.0
"""Ridge scores of a one-hot target lie between 0 and 1; times this they make probabilities of the right order."""
ALIKE_DECAY = 2.0 ** (-1.0 / 256.0)
"""Of the share of events that look like another class than theirs: long enough that a new class which the exact head
takes for an old one at first does not pass for a changed concept."""
RECOGNISED_MIN = 0.1
RECOGNISED_DECAY = 2.0 ** (-1.0 / 32.0)
"""Of the share of a class's events that the exact head takes for what they are. While it is above the minimum, the
class is one of its own, and not a new name for an old one."""
STEEPNESS_MEMORY = 2.0 ** (-1.0 / 256.0)
"""Of what makes a head's scores probabilities: their steepness and its lapses."""
STEEPNESS_EVIDENCE = 1.0
"""Curvature with which steepness begins."""
STEEPNESS_RANGE = (0.5, 60.0)
LAPSE_FIRST = 0.03
"""Share of labels that may have nothing to do with what a head sees, as long as nothing is known of it."""


@dataclass(slots=True)
class Answer:
    """What the members said of n events."""

    scores: Array
    """(n, classes, heads)."""
    members: Array
    """(n, classes, members) probabilities."""
    mixed: Array
    """(n, classes) probabilities."""
    sharp: Array
    """(n, classes) what they were before they were calibrated, and before the exact head had its say."""
    recency: Array
    """(n,) of the inputs."""
    looks: NDArray[np.intp]
    """(n,) the class that the exact head sees in each event."""


class ClassMembers:
    """What predicting needs: weights of all heads, class counts, the mixture."""

    def __init__(self, layout: Layout, width: int, classes: int) -> None:
        assert layout.exact is not None
        self.layout = layout
        self.exact = layout.exact
        self.weights = np.zeros((width, classes, layout.heads))
        self.counts = np.zeros((len(layout.memories), classes))
        """(memories, classes) events of each class within each memory."""
        self.seen = np.zeros((2, classes))
        """(2, classes) events since each class was last seen, and since it was first seen."""
        self.recognised = np.ones(classes)
        """(classes,) share of each class's latest events that the exact head took for what they were; a new class has
        the benefit of the doubt."""
        self.alike = np.zeros(classes)
        """(classes,) share of recent events that looked like each class to the exact head and were of another."""
        self.mixture = np.full(layout.below, 1.0 / layout.below)
        self.stacks = Stacks(layout.below)
        self.recency = Recency(width)
        self.lasting = Lasting(layout)
        self.steepness = np.ones(layout.heads)
        self.steepness[self.exact] = STEEPNESS_FIRST
        self.lapses = np.full(layout.heads, LAPSE_FIRST)
        """(heads,) share of labels that have nothing to do with what a head sees."""
        self.lapses[layout.columns :] = 0.0
        self.refresh()

    def refresh(self) -> None:
        """After the counts changed: what follows from them."""
        self.bases = np.empty((self.counts.shape[1], BASES))
        for base, memory in enumerate((0, -1)):
            counts = self.counts[memory] + 0.5
            np.divide(counts, np.add.reduce(counts), out=self.bases[:, base])
        rates = self.counts[-1] / np.maximum(self.seen[1], 1.0)
        self.absent = gone(self.seen[0], rates, self.alike)

    def scores(self, features: Array) -> Array:
        """(n, classes, heads) of (n, width) features."""
        width, classes, heads = self.weights.shape
        scores: Array = (features @ self.weights.reshape(width, -1)).reshape(len(features), classes, heads)
        return scores

    def live(self, recency: Array) -> Array:
        """(n,) weights of the live answer beside the lasting one, for (n,) recencies."""
        weights: Array = (1.0 - self.recency.past(recency)) * self.lasting.weights[0]
        return weights

    def answer(self, features: Array, others: Array | None = None) -> Answer:
        """Of (n, width) features, and of (n, classes, others) probabilities of the members that are no heads; without
        these nothing is mixed, and only what the heads say has a meaning."""
        n, (_, classes, heads) = len(features), self.weights.shape
        scores = self.scores(features)
        recency = self.recency.of(features)
        looks: NDArray[np.intp] = scores[:, :, self.exact].argmax(axis=1) if classes else np.empty(0, np.intp)
        members = np.empty((n, classes, self.layout.members))
        members[:, :, :BASES] = self.bases
        said = softmax(scores * self.steepness)
        said *= 1.0 - self.lapses
        said += self.lapses / max(classes, 1)
        members[:, :, BASES : BASES + heads] = said
        if others is None or not classes:
            members[:, :, BASES + heads :] = 0.0
            return Answer(scores, members, np.zeros((n, classes)), np.zeros((n, classes)), recency, looks)
        below = self.layout.below
        members[:, :, BASES + heads : below] = others
        sharp = self.stacks.answer(members, self.mixture)
        mixed = self.stacks.calibrated(sharp)
        absent = self.absent[looks][:, None]
        if self.lasting.on:
            live = self.live(recency)[:, None] * (1.0 - absent)
            mixed *= live
            mixed += (1.0 - live) * self.lasting.of(sharp, members)[:, :, -1]
            absent *= EXACT_SHARE
        mixed += absent * (members[:, :, BASES + self.exact] - mixed)
        return Answer(scores, members, mixed, sharp, recency, looks)

    def answer_by(self, answering: ModuleType, features: Array, others: Array, *, mixed_alone: bool = False) -> Answer:
        """The same by compiled loops, ``answering`` being their module: in two thirds of the time, in a fifth where
        there are few events. May differ in the last digits. With ``mixed_alone`` it does not keep what members said."""
        n, classes = len(features), self.weights.shape[1]
        if not classes:
            return self.answer(features, others)
        scores, recency = self.scores(features), self.recency.of(features)
        live = self.live(recency) if self.lasting.on else np.ones(n)
        said = np.empty((1 if mixed_alone else n, classes, self.layout.members))
        sharp, mixed, looks = np.empty((n, classes)), np.empty((n, classes)), np.empty(n, np.intp)
        stacks, lasting = self.stacks, self.lasting
        answering.answer(
            scores, self.steepness, self.lapses, self.bases, others, self.mixture, stacks.powers, stacks.weights,
            stacks.sharpness, stacks.shifts, lasting.on, live, lasting.members, lasting.powers, self.exact, self.absent,
            said, sharp, mixed, looks,
        )  # fmt: skip
        return Answer(scores, said, mixed, sharp, recency, looks)

    def frozen(self) -> dict[str, NDArray[Any]]:
        """Copies of everything."""
        return {
            "weights": self.weights.copy(),
            "counts": self.counts.copy(),
            "seen": self.seen.copy(),
            "recognised": self.recognised.copy(),
            "alike": self.alike.copy(),
            "mixture": self.mixture.copy(),
            "steepness": self.steepness.copy(),
            "lapses": self.lapses.copy(),
        } | (self.stacks.frozen() | self.recency.frozen() | self.lasting.frozen())

    def thaw(self, arrays: Arrays, *, copy: bool) -> None:
        """Become what was frozen; without copies for predicting alone."""
        self.weights = arrays["weights"].copy() if copy else arrays["weights"]
        self.counts = arrays["counts"].copy() if copy else arrays["counts"]
        self.seen = arrays["seen"].copy() if copy else arrays["seen"]
        self.recognised = arrays["recognised"].copy() if copy else arrays["recognised"]
        self.alike = arrays["alike"].copy() if copy else arrays["alike"]
        self.mixture = arrays["mixture"].copy() if copy else arrays["mixture"]
        self.steepness = arrays["steepness"].copy() if copy else arrays["steepness"]
        self.lapses = arrays["lapses"].copy() if copy else arrays["lapses"]
        self.stacks.thaw(arrays)
        self.recency.thaw(arrays)
        self.lasting.thaw(arrays)
        self.refresh()


class ClassLearner:
    """What learning needs beside the members."""

    def __init__(self, layout: Layout, linear_from: int, width: int, classes: int) -> None:
        # The compiler is loaded by whoever learns, and by nobody else.
        from penstock.learn.fast import answering, tallies

        self._answering = answering
        self._tallies = tallies
        self.members = ClassMembers(layout, width, classes)
        self._layout = layout
        self._stacks = StackLearner(self.members.stacks)
        self._recency = RecencyLearner(self.members.recency)
        self._lasting = LastingLearner(self.members.lasting)
        self._banks = Banks(layout, linear_from, width)
        self._slopes = np.full((width, classes), 1e-8)
        """(width, classes) sums of squared gradients of the first-order head (Duchi et al. 2011)."""
        self._steepness_information = np.full(layout.columns, STEEPNESS_EVIDENCE)
        """Of all heads but the first-order one."""
        self._decays = layout.decays

    @property
    def width(self) -> int:
        """Features."""
        return int(self.members.weights.shape[0])

    @property
    def classes(self) -> int:
        """Classes known."""
        return int(self.members.weights.shape[1])

    def grow(self, width: int, classes: int) -> None:
        """Take in new features and classes, all with weight zero: in least squares on one-hot targets that is exactly
        what a class without events so far has."""
        members = self.members
        self._banks.grow(width, members.weights)
        self._recency.grow(width)
        old_width, old_classes, heads = members.weights.shape
        weights = np.zeros((width, classes, heads))
        weights[:old_width, :old_classes] = members.weights
        members.weights = weights
        slopes = np.full((width, classes), 1e-8)
        slopes[:old_width, :old_classes] = self._slopes
        self._slopes = slopes
        counts = np.zeros((len(members.counts), classes))
        counts[:, :old_classes] = members.counts
        members.counts = counts
        seen = np.zeros((2, classes))
        seen[:, :old_classes] = members.seen
        members.seen = seen
        members.recognised = np.concatenate((members.recognised, np.ones(classes - old_classes)))
        members.alike = np.concatenate((members.alike, np.zeros(classes - old_classes)))
        members.refresh()

    def answer(self, features: Array, others: Array) -> Answer:
        """As the members do, in less time where there are few events."""
        if len(features) > IN_TURN_MAX:
            return self.members.answer(features, others)
        return self.members.answer_by(self._answering, features, others)

    def learn(self, features: Array, answer: Answer, classes: NDArray[np.intp]) -> None:
        """From (n, width) features and (n,) classes; the answer is the members' to these features as they are now."""
        members = self.members
        n = len(features)
        every = np.arange(n)
        targets = np.zeros((n, self.classes))
        targets[every, classes] = 1.0
        self._learn_steepness(answer, classes)
        self._learn_first_order(features, answer, targets)
        self._banks.learn(features, targets, members.weights, scores=answer.scores)
        self._recency.learn(features, answer.recency)
        self._tallies.count(
            classes, answer.looks, self._decays, ALIKE_DECAY, RECOGNISED_DECAY, RECOGNISED_MIN, members.counts,
            members.seen, members.recognised, members.alike,
        )  # fmt: skip
        if n > IN_TURN_MAX:
            members.refresh()
        else:
            self._tallies.refresh(members.counts, members.seen, members.alike, PATIENCE, members.bases, members.absent)

    def remember(self, answer: Answer, classes: NDArray[np.intp], weight: int = 1) -> None:
        """From old events: what the members say of them now, and the (n,) classes that they were of. From the first of
        them on there is a lasting answer."""
        self.members.lasting.on = True
        self._lasting.remember(answer.sharp, answer.members, classes, weight)

    def mix(self, answer: Answer, classes: NDArray[np.intp], said: Said | None = None, mark: int = 0) -> None:
        """Move the mixture by what the members said of (n,) classes when they were asked, where that was kept, and by
        what they answer now elsewhere; classes unknown then say nothing."""
        members, below = self.members, self._layout.below
        then, sharp = members_then(said, answer.members, mark), answer.sharp
        if then is not answer.members:
            sharp = members.stacks.sharpened(then[:, :, below:] @ members.stacks.weights)
        whole = np.empty(len(classes), np.intp)
        count = self._tallies.mix(then, classes, members.mixture, members.stacks.weights, FLOOR, SHARE, BLOCK, whole)
        if count < len(classes):
            then, sharp, classes = then[whole[:count]], sharp[whole[:count]], classes[whole[:count]]
        if count:
            if members.lasting.on:
                self._lasting.learn(sharp, then, classes)
            self._stacks.learn(then, sharp, classes)

    def _learn_first_order(self, features: Array, answer: Answer, targets: Array) -> None:
        column = self._layout.first_order
        assert column is not None
        wrong = answer.members[:, :, BASES + column] - targets
        gradient = np.multiply.outer(features[0], wrong[0]) if len(features) == 1 else features.T @ wrong
        if len(features) > 1:
            gradient /= len(features)
        self._tallies.descend(gradient, LEARNING_RATE, self._slopes, self.members.weights, column)

    def _learn_steepness(self, answer: Answer, classes: NDArray[np.intp]) -> None:
        self._tallies.steepen(
            answer.scores, answer.members, classes, BASES, STEEPNESS_MEMORY, *STEEPNESS_RANGE,
            self._steepness_information, self.members.steepness, self.members.lapses,
        )  # fmt: skip

    def save(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Plain values, and copies of arrays."""
        arrays = self.members.frozen() | self._stacks.save() | self._banks.save() | self._recency.save()
        arrays |= self._lasting.save() | {"slopes": self._slopes.copy()}
        return {}, arrays | {"steepness_information": self._steepness_information.copy()}

    def load(self, values: Mapping[str, Any], arrays: Arrays) -> None:
        """Become what was saved."""
        self.members.thaw(arrays, copy=True)
        self._stacks.load(arrays)
        self._recency.load(arrays)
        self._lasting.load(arrays)
        self._banks.load(arrays)
        self._slopes = arrays["slopes"].copy()
        self._steepness_information = arrays["steepness_information"].copy()
