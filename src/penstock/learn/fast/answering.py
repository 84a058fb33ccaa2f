"""What members say of classes, and what is made of it, for steps of a few events: the compiled loop.

`classify.ClassMembers.answer` says the same in NumPy, for servers, which load no compiler, and for long steps. With few
events as many calls of NumPy cost more than all that they compute. The two may differ in the last digits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast.compiling import compiled

# The compiler takes their values as they are: after a change of these, this file must change as well, or the code kept
# from before is used.
from penstock.learn.fast.lasting import EXACT_SHARE
from penstock.learn.fast.layout import BASES
from penstock.learn.fast.links import STEEP
from penstock.learn.fast.stack import AHEAD, FIRST_KNOT, FLOOR, KNOT_STEP, LAST_KNOT, TINY

Array = NDArray[np.float64]


@compiled("void(f8[:, :], f8[:, :], f8[::1])", part=True)
def _softmax(scores: Array, probabilities: Array, steepness: Array) -> None:
    """Writes (C, M) probabilities over the classes for (C, M) scores times (M,) steepness. May be the same array."""
    outputs, members = scores.shape
    for k in range(members):
        if outputs == 2:
            margin = (scores[1, k] - scores[0, k]) * steepness[k]
            second = 1.0 / (1.0 + np.exp(-min(max(margin, -STEEP), STEEP)))
            probabilities[1, k] = second
            probabilities[0, k] = 1.0 - second
            continue
        top = scores[0, k]
        for c in range(1, outputs):
            top = max(top, scores[c, k])
        total = 0.0
        for c in range(outputs):
            probabilities[c, k] = np.exp(max((scores[c, k] - top) * steepness[k], -2.0 * STEEP))
            total += probabilities[c, k]
        for c in range(outputs):
            probabilities[c, k] /= total


@compiled("void(f8[::1], f8[::1], f8[::1])", part=True)
def _calibrate(sharp: Array, shifts: Array, answered: Array) -> None:
    """Writes (C,) probabilities whose largest is moved as `stack.Stacks.calibrated` has it."""
    outputs = len(sharp)
    best, second = 0, 0.0
    for c in range(1, outputs):
        if sharp[c] > sharp[best]:
            second = max(second, sharp[best])
            best = c
        else:
            second = max(second, sharp[c])
    top = min(sharp[best], 1.0 - TINY)
    rest = 1.0 - top
    place = (np.log(top / rest) - FIRST_KNOT) / KNOT_STEP
    # What is no number stays none, and is found by who looks for it.
    below = int(min(max(place, 0.0), LAST_KNOT - 1.0)) if place == place else 0
    share = min(max(place - below, 0.0), 1.0)
    moved = top + (1.0 - share) * shifts[below] + share * shifts[below + 1]
    if outputs == 2:
        moved = max(moved, 0.5 + AHEAD)
    elif outputs > 2:
        moved = max(moved, second / (second + rest) + AHEAD)
    moved = min(moved, 1.0 - TINY)
    for c in range(outputs):
        answered[c] = sharp[c] * ((1.0 - moved) / rest)
    answered[best] = moved


@compiled("void(f8[:, ::1], f8[::1], f8[:, ::1], f8[::1], f8, f8[:, ::1], f8[::1])", part=True)
def _blend(
    said: Array, mixture: Array, powers: Array, above: Array, sharpness: float, stacked: Array, sharp: Array
) -> None:
    """Writes what the mixture and the stacks make of what members said (C, members), behind it, and their blend to the
    learned power, (C,) ``sharp``. ``stacked`` (C, stacks) is room."""
    outputs, stacks = stacked.shape
    below = len(mixture)
    total = 0.0
    for c in range(outputs):
        said[c, below] = 0.0
        for k in range(below):
            said[c, below] += said[c, k] * mixture[k]
        total += said[c, below]
    for c in range(outputs):
        said[c, below] /= total
        for s in range(stacks):
            stacked[c, s] = 0.0
        for k in range(below + 1):
            log = np.log(max(said[c, k], FLOOR))
            for s in range(stacks):
                stacked[c, s] += log * powers[s, k]
    _softmax(stacked, said[:, below + 1 :], np.ones(stacks))
    total = 0.0
    for c in range(outputs):
        answered = 0.0
        for s in range(1 + stacks):
            answered += said[c, below + s] * above[s]
        sharp[c] = max(answered, TINY) ** sharpness
        total += sharp[c]
    for c in range(outputs):
        sharp[c] /= total


@compiled("void(f8[:, ::1], f8[::1], i8[::1], f8[:, ::1], f8, f8[:, ::1], f8[::1])", part=True)
def _outlast(
    said: Array,
    sharp: Array,
    lasting: NDArray[np.intp],
    powers: Array,
    present: float,
    product: Array,
    mixed: Array,
) -> None:
    """Leaves the live answer, (C,) ``mixed``, the share ``present``, and gives the lasting one the rest. ``product``
    (C, 1) is room."""
    outputs = len(sharp)
    for c in range(outputs):
        product[c, 0] = powers[0, 0] * np.log(max(sharp[c], FLOOR))
        for k in range(len(lasting)):
            product[c, 0] += powers[0, 1 + k] * np.log(max(said[c, lasting[k]], FLOOR))
    _softmax(product, product, np.ones(1))
    for c in range(outputs):
        mixed[c] = present * mixed[c] + (1.0 - present) * product[c, 0]


@compiled(
    "void(f8[:, :, ::1], f8[::1], f8[::1], f8[:, ::1], f8[:, :, :], f8[::1], f8[:, ::1], f8[::1], f8, f8[::1], b1,"
    "f8[::1], i8[::1], f8[:, ::1], i8, f8[::1], f8[:, :, ::1], f8[:, ::1], f8[:, ::1], i8[::1])"
)
def answer(
    scores: Array,
    steepness: Array,
    lapses: Array,
    bases: Array,
    others: Array,
    mixture: Array,
    powers: Array,
    above: Array,
    sharpness: float,
    shifts: Array,
    has_past: bool,
    live: Array,
    lasting: NDArray[np.intp],
    lasting_powers: Array,
    exact: int,
    absent: Array,
    members: Array,
    sharp: Array,
    mixed: Array,
    looks: NDArray[np.intp],
) -> None:
    """Of (n, C, H) scores, (C, bases) bases and (n, C, others) probabilities: the (n, C, members) probabilities of all
    members, or room for those of one event where nobody asks for them, the (n, C) ``sharp`` and ``mixed`` ones, and the
    (n,) classes that the exact head sees, all of them written. The names are those of `classify.ClassMembers`; (n,)
    ``live`` is the weight of the live answer beside the lasting one, a product of the live one and of the members
    ``lasting`` (`lasting.Lasting`), which there is only where the model ``has_past`` events to learn it from."""
    n, outputs, heads = scores.shape
    below = len(mixture)
    stacked, product = np.empty((outputs, len(powers))), np.empty((outputs, 1))
    for i in range(n):
        said = members[i % len(members)]
        for c in range(outputs):
            for b in range(BASES):
                said[c, b] = bases[c, b]
            for k in range(BASES + heads, below):
                said[c, k] = others[i, c, k - BASES - heads]
        _softmax(scores[i], said[:, BASES : BASES + heads], steepness)
        for c in range(outputs):
            for k in range(heads):
                said[c, BASES + k] += lapses[k] * (1.0 / outputs - said[c, BASES + k])
        _blend(said, mixture, powers, above, sharpness, stacked, sharp[i])
        _calibrate(sharp[i], shifts, mixed[i])
        look = 0
        for c in range(1, outputs):
            if scores[i, c, exact] > scores[i, look, exact]:
                look = c
        looks[i] = look
        gone = absent[look]
        if has_past:
            present = live[i] * (1.0 - gone)
            gone *= EXACT_SHARE
            if present < 1.0:
                _outlast(said, sharp[i], lasting, lasting_powers, present, product, mixed[i])
        for c in range(outputs):
            mixed[i, c] += gone * (said[c, BASES + exact] - mixed[i, c])


@compiled("void(f8[:, ::1], i8[:, ::1], f8[:, :, ::1], i8, i8[::1])", part=True)
def _find(values: Array, columns: NDArray[np.int64], bounds: Array, tree: int, places: NDArray[np.int64]) -> None:
    """Writes the (n,) places of a tree's leaves for (columns, n) values: its first question is the lowest bit."""
    n = len(places)
    places[:] = 0
    for level in range(columns.shape[1]):
        bound, bit = bounds[0, tree, level], 1 << level
        if bound == np.inf:
            # Nothing is beyond it: the question only makes the tree as deep as others.
            continue
        of_level = values[columns[tree, level]]
        # What is no number is never beyond anything. Events stand side by side, so that several are asked at once.
        if len(bounds) > 1:
            end = bounds[1, tree, level]
            for i in range(n):
                places[i] |= bit if (of_level[i] > bound) & (of_level[i] <= end) else 0
        else:
            for i in range(n):
                places[i] |= bit if of_level[i] > bound else 0


@compiled("void(f8[:, ::1], i8[:, ::1], f8[:, :, ::1], f8[:, :, ::1], f8[:, ::1])")
def ask(values: Array, columns: NDArray[np.int64], bounds: Array, leaves: Array, scores: Array) -> None:
    """Writes the (n, outputs) sums of leaves of symmetric trees for (columns, n) values; the trees are those of
    `trees.Trees`."""
    n, outputs = scores.shape
    places = np.empty(n, np.int64)
    scores[:] = 0.0
    for t in range(len(columns)):
        _find(values, columns, bounds, t, places)
        for i in range(n):
            for k in range(outputs):
                scores[i, k] += leaves[t, places[i], k]


@compiled("void(f8[:, ::1], i8[::1], f8, f8[:, :])")
def chances(scores: Array, groups: NDArray[np.int64], spare: float, said: Array) -> None:
    """Writes (n, C) probabilities for the (n, outputs) scores of trees that tell these groups of classes apart, as
    `trees.Trees.probabilities` has it."""
    n, classes = said.shape
    size = len(groups)
    found = np.ones(size)
    modelled = size - 1 if groups[size - 1] < 0 else size
    others = classes - modelled
    kept = 1.0 - spare if others else 1.0
    for i in range(n):
        if size == 2:
            found[1] = 1.0 / (1.0 + np.exp(-min(max(scores[i, 0], -STEEP), STEEP)))
            found[0] = 1.0 - found[1]
        elif size > 2:
            top = scores[i, 0]
            for g in range(1, size):
                top = max(top, scores[i, g])
            total = 0.0
            for g in range(size):
                found[g] = np.exp(max(scores[i, g] - top, -2.0 * STEEP))
                total += found[g]
            for g in range(size):
                found[g] /= total
        if others:
            rest = kept * found[size - 1] if modelled < size else 0.0
            for c in range(classes):
                said[i, c] = (spare + rest) / others
        for g in range(modelled):
            said[i, groups[g]] = kept * found[g]


@compiled("void(f8[:, ::1], i8[:, ::1], f8[:, :, ::1], f8[:, :, ::1], f8[:, :, ::1])")
def ask_two(values: Array, columns: NDArray[np.int64], bounds: Array, leaves: Array, said: Array) -> None:
    """Writes the (n, 2, members) probabilities of two classes by as many trees of each member, put together by
    `trees.together`, for (columns, n) values."""
    n, _, members = said.shape
    each = len(columns) // members
    places, totals = np.empty(n, np.int64), np.empty(n)
    for member in range(members):
        totals[:] = 0.0
        for t in range(member * each, (member + 1) * each):
            _find(values, columns, bounds, t, places)
            of_tree = leaves[t, :, 0]
            for i in range(n):
                totals[i] += of_tree[places[i]]
        for i in range(n):
            second = 1.0 / (1.0 + np.exp(-min(max(totals[i], -STEEP), STEEP)))
            said[i, 1, member] = second
            said[i, 0, member] = 1.0 - second


@compiled("void(f8[:, ::1], i8[::1], f8[::1])")
def brier(said: Array, classes: NDArray[np.intp], losses: Array) -> None:
    """Writes the (n,) losses of (n, C) probabilities as `predictor.class_losses` has them."""
    n, known = said.shape
    for i in range(n):
        place = classes[i]
        if place < 0 or place >= known:
            losses[i] = 1.0
            continue
        squares = 0.0
        for c in range(known):
            squares += said[i, c] * said[i, c]
        losses[i] = min(max(0.5 * (squares + 1.0 - 2.0 * said[i, place]), 0.0), 1.0)
