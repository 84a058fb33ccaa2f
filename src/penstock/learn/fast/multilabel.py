"""Several classes together: each class's probability by every member, and how they learn from a set of classes.

A class is a question of its own, answered yes or no; what the classes share is the heads' information. A head keeps one
matrix for all of them, with the mean curvature over the classes, so that a hundred classes cost little more than one.
Everything else is a class's own: the weights of the mixture, how a least-squares score becomes a probability, and the
calibration in the end. A class is a question from the event on that first had it: what came before says nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast.banks import Banks
from penstock.learn.fast.layout import BASES, Layout
from penstock.learn.fast.links import log_odds, sigmoid
from penstock.learn.fast.mixture import BLOCK, FLOOR, SHARE
from penstock.learn.fast.said import Said, members_then
from penstock.spec import ClassName, ClassSet

Array = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]

LEARNING_RATE = 0.5
"""Of the first-order head, in AdaGrad's units."""
ARRAYS = ("weights", "counts", "asked", "seen", "mixture", "exact_lines", "lines")
"""All that members are made of."""
SCORE_LEAST = 0.01
"""A least-squares score of a target that is 0 or 1 is nearly its probability; it is taken for no less, and for no more
than one minus this."""
LINE_DECAY = 2.0 ** (-1.0 / 4096.0)
LINE_PRIOR = 8.0
"""Curvature that says that a line is to change nothing."""


@dataclass(slots=True)
class Answer:
    """What the members said of n events."""

    scores: Array
    """(n, classes, heads)."""
    members: Array
    """(n, classes, members) probabilities."""
    mixed: Array
    """(n, classes) of the mixture."""
    answered: Array
    """(n, classes) calibrated."""


def unbent(classes: int) -> Array:
    """(classes, 2) slopes and shifts of lines, from log odds to log odds, that change nothing."""
    return np.tile([1.0, 0.0], (classes, 1))


def _sure(classes: int) -> Array:
    """(classes, 2, 2) information that says so."""
    return np.tile(np.eye(2) * LINE_PRIOR, (classes, 1, 1))


class SetMembers:
    """What predicting needs: weights of all heads, how often each class came, the mixtures, the lines."""

    def __init__(self, layout: Layout, width: int, classes: int) -> None:
        assert layout.exact is not None
        self.layout = layout
        self.exact = layout.exact
        self.weights = np.zeros((width, classes, layout.heads))
        self.counts = np.zeros((BASES, classes))
        """(2, classes) events that had each class, as the shortest memory counts them and all."""
        self.asked = np.zeros((BASES, classes))
        """(2, classes) events since each class first came, counted in the same ways."""
        self.seen = np.zeros(2)
        """Events, and classes that they had in all."""
        self.mixture = np.full((classes, layout.members), 1.0 / layout.members)
        """(classes, members) weights."""
        self.exact_lines = unbent(classes)
        """(classes, 2) from the log odds of the exact head's scores to those of its probabilities."""
        self.lines = unbent(classes)
        """(classes, 2) from the log odds of the mixtures to those of the answers."""

    def scale(self, classes: int) -> float:
        """What sums of squared errors are divided by, for so many classes: all of them, or four for each that an event
        has on average and four more, where that is less."""
        usual = float(self.seen[1] / max(self.seen[0], 1.0))
        return max(1.0, min(float(classes), 4.0 * (1.0 + usual)))

    def exact_odds(self, scores: Array) -> Array:
        """(n, classes) log odds that the exact head's scores stand for."""
        return log_odds(np.clip(scores[:, :, self.exact], SCORE_LEAST, 1.0 - SCORE_LEAST))

    def answer(self, features: Array, others: Array | None = None, known: int | None = None) -> Answer:
        """Of (n, width) features, for the first ``known`` classes or all, and of (n, classes, others) probabilities of
        the members that are no heads; without these nothing is mixed, and only what the heads say has a meaning."""
        n = len(features)
        known = self.weights.shape[1] if known is None else known
        weights = self.weights[:, :known]
        scores = (features @ weights.reshape(len(weights), -1)).reshape(n, known, self.layout.heads)
        members = np.empty((n, known, self.layout.members))
        members[:, :, :BASES] = ((self.counts[:, :known] + 0.5) / (self.asked[:, :known] + 1.0)).T
        heads_end = BASES + self.layout.heads
        members[:, :, BASES:heads_end] = sigmoid(scores)
        slopes, shifts = self.exact_lines[:known].T
        members[:, :, BASES + self.exact] = sigmoid(self.exact_odds(scores) * slopes + shifts)
        if others is None:
            members[:, :, heads_end:] = 0.0
            return Answer(scores, members, np.zeros((n, known)), np.zeros((n, known)))
        members[:, :, heads_end:] = others
        mixed = self.mixed(members)
        slopes, shifts = self.lines[:known].T
        return Answer(scores, members, mixed, sigmoid(log_odds(mixed) * slopes + shifts))

    def mixed(self, members: Array) -> Array:
        """(n, classes) of (n, classes, members) probabilities; NaN where the members say nothing."""
        mixed: Array = np.einsum("ncm,cm->nc", members, self.mixture[: members.shape[1]])
        return np.clip(mixed, FLOOR, 1.0 - FLOOR)

    def frozen(self) -> dict[str, NDArray[Any]]:
        """Copies of everything."""
        return {name: getattr(self, name).copy() for name in ARRAYS}

    def thaw(self, arrays: Arrays, *, copy: bool) -> None:
        """Become what was frozen; without copies for predicting alone."""
        for name in ARRAYS:
            setattr(self, name, arrays[name].copy() if copy else arrays[name])


class SetLearner:
    """What learning needs beside the members."""

    def __init__(self, layout: Layout, linear_from: int, width: int, classes: int) -> None:
        # The compiler is loaded by whoever learns, and by nobody else.
        from penstock.learn.fast import questions, tallies

        self._questions, self._tallies = questions, tallies
        self.members = SetMembers(layout, width, classes)
        self._layout = layout
        self._banks = Banks(layout, linear_from, width)
        self._exact_information, self._information = _sure(classes), _sure(classes)
        self._slopes = np.full((width, classes), 1e-8)
        """(width, classes) sums of squared gradients of the first-order head (Duchi et al. 2011)."""
        self._decays = layout.decays[[0, -1]]

    @property
    def width(self) -> int:
        """Features."""
        return int(self.members.weights.shape[0])

    @property
    def classes(self) -> int:
        """Classes known."""
        return int(self.members.weights.shape[1])

    def grow(self, width: int, classes: int) -> None:
        """Take in new features and classes, all with weight zero."""
        members = self.members
        self._banks.grow(width, members.weights)
        old_width, old_classes, heads = members.weights.shape
        weights = np.zeros((width, classes, heads))
        weights[:old_width, :old_classes] = members.weights
        members.weights = weights
        slopes = np.full((width, classes), 1e-8)
        slopes[:old_width, :old_classes] = self._slopes
        self._slopes = slopes
        more = np.zeros((BASES, classes - old_classes))
        members.counts = np.concatenate((members.counts, more), axis=1)
        members.asked = np.concatenate((members.asked, more), axis=1)
        fresh = classes - old_classes
        even = np.full((fresh, self._layout.members), 1.0 / self._layout.members)
        members.mixture = np.concatenate((members.mixture, even))
        members.exact_lines = np.concatenate((members.exact_lines, unbent(fresh)))
        members.lines = np.concatenate((members.lines, unbent(fresh)))
        self._exact_information = np.concatenate((self._exact_information, _sure(fresh)))
        self._information = np.concatenate((self._information, _sure(fresh)))

    def mix(self, answer: Answer, targets: Array, said: Said | None = None, mark: int = 0) -> None:
        """Move the mixtures and the lines by what the members said of (n, k) targets when they were asked, where that
        was kept, and by what they answer now elsewhere; of classes unknown then they said nothing."""
        members = self.members
        then = members_then(said, answer.members, mark)
        mixed = answer.mixed if then is answer.members else members.mixed(then)
        self._bend(log_odds(mixed), targets, members.lines, self._information)
        self._questions.share(then, targets, FLOOR, SHARE, BLOCK, members.mixture)

    def _bend(self, odds: Array, targets: Array, lines: Array, information: Array) -> None:
        self._questions.bend(odds, targets, LINE_DECAY, LINE_PRIOR, lines, information)

    def learn(self, features: Array, targets: Array, known: int, answer: Answer | None = None) -> None:
        """From (n, width) features and (n, classes) targets, of which the first ``known`` classes were known before; an
        answer is the members' to these features as they are now. A class is learned from the event on that first has
        it."""
        firsts = targets[:, known:].argmax(axis=0)
        starts = np.unique(np.concatenate(([0], firsts)))
        for start, stop in zip(starts, [*starts[1:], len(features)], strict=True):
            of = known + int((firsts <= start).sum())
            part = slice(start, stop)
            whole = answer is not None and len(starts) == 1 and of == known
            self._learn(features[part], np.ascontiguousarray(targets[part, :of]), answer if whole else None)

    def _learn(self, features: Array, targets: Array, answer: Answer | None) -> None:
        """The classes that the targets name, all of them known."""
        members, known = self.members, targets.shape[1]
        answer = members.answer(features, known=known) if answer is None else answer
        self._bend(members.exact_odds(answer.scores), targets, members.exact_lines, self._exact_information)
        self._learn_first_order(features, answer, targets)
        self._banks.learn(features, targets, members.weights[:, :known], scores=answer.scores)
        self._questions.count(targets, self._decays, members.counts, members.asked)
        members.seen += (len(targets), targets.sum())

    def _learn_first_order(self, features: Array, answer: Answer, targets: Array) -> None:
        column = self._layout.first_order
        assert column is not None
        gradient = np.zeros((self.width, self.classes))
        gradient[:, : targets.shape[1]] = features.T @ (answer.members[:, :, BASES + column] - targets) / len(features)
        self._tallies.descend(gradient, LEARNING_RATE, self._slopes, self.members.weights, column)

    def save(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Plain values, and copies of arrays."""
        arrays = self.members.frozen() | self._banks.save()
        arrays |= {
            "slopes": self._slopes.copy(),
            "exact_lines.information": self._exact_information.copy(),
            "lines.information": self._information.copy(),
        }
        return {}, arrays

    def load(self, values: Mapping[str, Any], arrays: Arrays) -> None:
        """Become what was saved."""
        self.members.thaw(arrays, copy=True)
        self._banks.load(arrays)
        self._slopes = arrays["slopes"].copy()
        self._exact_information = arrays["exact_lines.information"].copy()
        self._information = arrays["lines.information"].copy()


def targets_of(sets: Sequence[ClassSet], index: Mapping[ClassName, int], classes: int) -> Array:
    """(n, classes) 1 where an event has a class, else 0; classes that the index does not know are passed over."""
    targets = np.zeros((len(sets), classes))
    for row, names in enumerate(sets):
        for name in names:
            if (place := index.get(name, -1)) >= 0:
                targets[row, place] = 1.0
    return targets


def set_losses(probabilities: Array, sets: Sequence[ClassSet], index: Mapping[ClassName, int], scale: float) -> Array:
    """(n,) the sum over classes of (p - y)^2, divided by the scale and cut at 1: least, up to the cut, for the true
    probabilities. A class that the predictor does not know, it says with certainty is not there."""
    targets = targets_of(sets, index, probabilities.shape[1])
    missed = np.array([sum(name not in index for name in names) for names in sets], np.float64)
    losses: Array = ((probabilities - targets) ** 2).sum(axis=1) + missed
    return np.minimum(losses / scale, 1.0)


def places_of_sets(sets: Sequence[ClassSet], known: Iterable[ClassName], room: int) -> NDArray[np.intp] | None:
    """Places of the events all of whose classes are known or find room, in their order; None where all do."""
    taken = set(known)
    places = []
    for place, names in enumerate(sets):
        new = [name for name in names if name not in taken]
        if len(new) <= room:
            taken.update(new)
            room -= len(new)
            places.append(place)
    return None if len(places) == len(sets) else np.array(places, np.intp)
