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


class Lines:
    """For each class a line from log odds to log odds, learned by Newton's steps on log loss; none changes anything at
    first, and a prior says so for a while."""

    def __init__(self, classes: int) -> None:
        self.lines = np.tile([1.0, 0.0], (classes, 1))
        """(classes, 2) slopes and shifts."""

    def of(self, odds: Array) -> Array:
        """(n, classes) probabilities for (n, classes) log odds."""
        return sigmoid(odds * self.lines[:, 0] + self.lines[:, 1])


class LineLearner:
    """What learning lines needs beside."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.information = np.tile(np.eye(2) * LINE_PRIOR, (len(lines.lines), 1, 1))

    def grow(self, classes: int) -> None:
        """Take in new classes."""
        fresh, lines = Lines(classes - len(self.information)), self._lines
        lines.lines = np.concatenate((lines.lines, fresh.lines))
        self.information = np.concatenate((self.information, LineLearner(fresh).information))

    def learn(self, odds: Array, targets: Array) -> None:
        """From (n, k) log odds of the first k classes, NaN where nothing was said, and (n, k) what came."""
        n, known = odds.shape
        lines, information = self._lines.lines[:known], self.information[:known]
        said = np.isfinite(odds)
        odds = np.where(said, odds, 0.0)
        scores = odds * lines[:, 0] + lines[:, 1]
        chances = sigmoid(scores)
        residuals = targets - chances
        # Where a line is confidently wrong, the curvature is raised as the heads' is, or the step would overshoot.
        curvatures = np.maximum(chances * (1.0 - chances), np.abs(residuals) / (2.0 + 2.0 * np.abs(scores)))
        fade = (LINE_DECAY ** np.arange(n - 1, -1, -1.0))[:, None] * said
        kept = LINE_DECAY**n
        given = (1.0 - kept) * LINE_PRIOR
        curvatures *= fade
        residuals *= fade
        information *= kept
        information[:, 0, 0] += given + (curvatures * odds * odds).sum(axis=0)
        information[:, 0, 1] += (curvatures * odds).sum(axis=0)
        information[:, 1, 0] = information[:, 0, 1]
        information[:, 1, 1] += given + curvatures.sum(axis=0)
        slopes = (residuals * odds).sum(axis=0) - given * (lines[:, 0] - 1.0)
        shifts = residuals.sum(axis=0) - given * lines[:, 1]
        lines += np.linalg.solve(information, np.stack((slopes, shifts), axis=1)[:, :, None])[:, :, 0]


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
        self.exact_lines = Lines(classes)
        self.lines = Lines(classes)

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
        exact = self.exact_odds(scores) * self.exact_lines.lines[:known, 0] + self.exact_lines.lines[:known, 1]
        members[:, :, BASES + self.exact] = sigmoid(exact)
        if others is None:
            members[:, :, heads_end:] = 0.0
            return Answer(scores, members, np.zeros((n, known)), np.zeros((n, known)))
        members[:, :, heads_end:] = others
        mixed = self.mixed(members)
        return Answer(scores, members, mixed, self.lines.of(log_odds(mixed)))

    def mixed(self, members: Array) -> Array:
        """(n, classes) of (n, classes, members) probabilities; NaN where the members say nothing."""
        mixed: Array = np.einsum("ncm,cm->nc", members, self.mixture[: members.shape[1]])
        return np.clip(mixed, FLOOR, 1.0 - FLOOR)

    def frozen(self) -> dict[str, NDArray[Any]]:
        """Copies of everything."""
        return {
            "weights": self.weights.copy(),
            "counts": self.counts.copy(),
            "asked": self.asked.copy(),
            "seen": self.seen.copy(),
            "mixture": self.mixture.copy(),
            "exact_lines": self.exact_lines.lines.copy(),
            "lines": self.lines.lines.copy(),
        }

    def thaw(self, arrays: Arrays, *, copy: bool) -> None:
        """Become what was frozen; without copies for predicting alone."""
        self.weights = arrays["weights"].copy() if copy else arrays["weights"]
        self.counts = arrays["counts"].copy() if copy else arrays["counts"]
        self.asked = arrays["asked"].copy() if copy else arrays["asked"]
        self.seen = arrays["seen"].copy() if copy else arrays["seen"]
        self.mixture = arrays["mixture"].copy() if copy else arrays["mixture"]
        self.exact_lines.lines = arrays["exact_lines"].copy() if copy else arrays["exact_lines"]
        self.lines.lines = arrays["lines"].copy() if copy else arrays["lines"]


class SetLearner:
    """What learning needs beside the members."""

    def __init__(self, layout: Layout, linear_from: int, width: int, classes: int) -> None:
        # The compiler is loaded by whoever learns, and by nobody else.
        from penstock.learn.fast import tallies

        self._tallies = tallies
        self.members = SetMembers(layout, width, classes)
        self._layout = layout
        self._banks = Banks(layout, linear_from, width)
        self._exact_lines = LineLearner(self.members.exact_lines)
        self._lines = LineLearner(self.members.lines)
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
        fresh = np.full((classes - old_classes, self._layout.members), 1.0 / self._layout.members)
        members.mixture = np.concatenate((members.mixture, fresh))
        self._exact_lines.grow(classes)
        self._lines.grow(classes)

    def mix(self, answer: Answer, targets: Array, said: Said | None = None, mark: int = 0) -> None:
        """Move the mixtures and the lines by what the members said of (n, k) targets when they were asked, where that
        was kept, and by what they answer now elsewhere; of classes unknown then they said nothing."""
        members, known = self.members, targets.shape[1]
        then = members_then(said, answer.members, mark)
        mixed = answer.mixed if then is answer.members else members.mixed(then)
        self._lines.learn(log_odds(mixed), targets)
        likelihoods = np.where(targets[:, :, None] > 0.0, then, 1.0 - then)
        # A class of which nothing was said then leaves its weights as they are.
        likelihoods = np.log(np.maximum(np.where(np.isnan(likelihoods), 1.0, likelihoods), FLOOR))
        members.mixture[:known] = shares(members.mixture[:known], likelihoods)

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
        self._exact_lines.learn(members.exact_odds(answer.scores), targets)
        self._learn_first_order(features, answer, targets)
        self._banks.learn(features, targets, members.weights[:, :known], scores=answer.scores)
        self._count(targets)

    def _learn_first_order(self, features: Array, answer: Answer, targets: Array) -> None:
        column = self._layout.first_order
        assert column is not None
        gradient = np.zeros((self.width, self.classes))
        gradient[:, : targets.shape[1]] = features.T @ (answer.members[:, :, BASES + column] - targets) / len(features)
        self._tallies.descend(gradient, LEARNING_RATE, self._slopes, self.members.weights, column)

    def _count(self, targets: Array) -> None:
        n, known = targets.shape
        members = self.members
        fade = self._decays[:, None] ** np.arange(n - 1, -1, -1.0)
        kept = (self._decays**n)[:, None]
        members.counts[:, :known] = kept * members.counts[:, :known] + fade @ targets
        members.asked[:, :known] = kept * members.asked[:, :known] + fade.sum(axis=1)[:, None]
        members.seen += (n, targets.sum())

    def save(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Plain values, and copies of arrays."""
        arrays = self.members.frozen() | self._banks.save()
        arrays |= {
            "slopes": self._slopes.copy(),
            "exact_lines.information": self._exact_lines.information.copy(),
            "lines.information": self._lines.information.copy(),
        }
        return {}, arrays

    def load(self, values: Mapping[str, Any], arrays: Arrays) -> None:
        """Become what was saved."""
        self.members.thaw(arrays, copy=True)
        self._banks.load(arrays)
        self._slopes = arrays["slopes"].copy()
        self._exact_lines.information = arrays["exact_lines.information"].copy()
        self._lines.information = arrays["lines.information"].copy()


def shares(weights: Array, log_likelihoods: Array) -> Array:
    """(classes, members) weights after n events with these (n, classes, members) log likelihoods: `fixed_share` of each
    class."""
    members = weights.shape[1]
    for start in range(0, len(log_likelihoods), BLOCK):
        block = log_likelihoods[start : start + BLOCK]
        total = block.sum(axis=0)
        weights = weights * np.exp(total - total.max(axis=1, keepdims=True))
        kept = (1.0 - SHARE) ** len(block)
        weights *= kept / weights.sum(axis=1, keepdims=True)
        weights += (1.0 - kept) / members
    return weights


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
