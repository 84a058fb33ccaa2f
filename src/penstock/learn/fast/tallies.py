"""What a step changes beside the heads' algebra: compiled loops, since with few events in a step as many calls of NumPy
cost more than all that they compute. Only what learns imports this, since it loads numba.

n events, C classes, M members, d columns, D features, H heads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast.compiling import compiled

Array = NDArray[np.float64]
Places = NDArray[np.intp]


@compiled("Tuple((f8, b1))(f8[:, ::1], f8, f8, f8, f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1])")
def absorb(
    values: Array,
    warm_up: float,
    outlier: float,
    known: float,
    count: Array,
    mean: Array,
    squares: Array,
    centre: Array,
    inverse: Array,
    deviation: Array,
) -> Any:
    """Take (n, d) values, NaN where one is missing, into (d,) moments (Chan, Golub and LeVeque 1979: two samples'
    moments, merged); how many values of the best known column there are now, and whether one was missing. ``centre``
    and ``inverse`` are those of before: once a column is ``known`` by ``warm_up`` values, what lies more than
    ``outlier`` deviations from its centre is moved there, in place. Writes the (d,) ``deviation`` of now."""
    n, d = values.shape
    is_missing = False
    if d and known >= warm_up:
        for f in range(d):
            if inverse[f] > 0.0:
                reach = outlier / inverse[f]
                low, high = centre[f] - reach, centre[f] + reach
                for i in range(n):
                    x = values[i, f]
                    if x < low:
                        values[i, f] = low
                    elif x > high:
                        values[i, f] = high
    given, middle, spread = np.zeros(d), np.zeros(d), np.zeros(d)
    for i in range(n):
        for f in range(d):
            x = values[i, f]
            given[f] += 1.0 if x == x else 0.0
            middle[f] += x if x == x else 0.0
    for f in range(d):
        is_missing |= given[f] < n
        middle[f] /= max(given[f], 1.0)
    for i in range(n):
        for f in range(d):
            x = values[i, f]
            away = x - middle[f] if x == x else 0.0
            spread[f] += away * away
    for f in range(d):
        if given[f] == 0.0:
            continue
        total = count[f] + given[f]
        delta = middle[f] - mean[f]
        squares[f] += spread[f] + delta * delta * (count[f] * given[f] / total)
        mean[f] += delta * (given[f] / total)
        count[f] = total
        known = max(known, total)
    for f in range(d):
        deviation[f] = np.sqrt(squares[f] / max(count[f], 1.0))
    return known, is_missing


@compiled("void(f8[:, ::1], f8, f8, f8[::1], f8[::1])")
def standardise(values: Array, most: float, clip: float, centre: Array, inverse: Array) -> None:
    """Makes (n, d) values, cut at ``most``, into (value - centre) * inverse within ``clip``, in place; 0 for NaN."""
    n, d = values.shape
    for i in range(n):
        for f in range(d):
            x = min(max(values[i, f], -most), most)
            x = min(max((x - centre[f]) * inverse[f], -clip), clip)
            values[i, f] = x if values[i, f] == values[i, f] and x == x else 0.0


@compiled("void(f8[::1], f8[::1], f8[::1])")
def invert(centre: Array, deviation: Array, inverse: Array) -> None:
    """Writes one over each (d,) deviation; zero for one at the level of rounding, which is that of a constant and
    carries nothing."""
    for f in range(len(centre)):
        usable = deviation[f] > 1e-12 * abs(centre[f]) + 1e-150
        inverse[f] = 1.0 / deviation[f] if usable else 0.0


@compiled("i8(f8[:, :, ::1], i8[::1], f8[::1], f8[::1], f8, f8, i8, i8[::1])")
def mix(
    then: Array,
    classes: Places,
    mixture: Array,
    above: Array,
    floor: float,
    share: float,
    block: int,
    whole: Places,
) -> Any:
    """`mixture.fixed_share` of the (M,) members below, and of the members above these, by what (n, C, both) they said
    of the (n,) classes that came; events whose class was unknown then say nothing. Both weights change in place.

    Probabilities are multiplied: ``block`` of them, none below ``floor``, must be more than the least number.
    Returns how many events knew of all C classes; their places are written into ``whole`` (n,).
    """
    n, outputs, members = then.shape
    below = len(mixture)
    product = np.ones(members)
    held, complete = 0, 0
    for i in range(n):
        y = classes[i]
        if y < outputs and then[i, y, 0] == then[i, y, 0]:
            is_whole = True
            for c in range(outputs):
                is_whole &= then[i, c, 0] == then[i, c, 0]
            if is_whole:
                whole[complete] = i
                complete += 1
            for k in range(members):
                product[k] *= max(then[i, y, k], floor)
            held += 1
        if held == block or (i == n - 1 and held):
            kept = (1.0 - share) ** held
            total, total_above = 0.0, 0.0
            for k in range(below):
                mixture[k] *= product[k]
                total += mixture[k]
            for k in range(below, members):
                above[k - below] *= product[k]
                total_above += above[k - below]
            for k in range(below):
                mixture[k] = mixture[k] * (kept / total) + (1.0 - kept) / below
            for k in range(below, members):
                above[k - below] = above[k - below] * (kept / total_above) + (1.0 - kept) / (members - below)
            product[:] = 1.0
            held = 0
    return complete


@compiled("void(i8[::1], i8[::1], f8[::1], f8, f8, f8, f8[:, ::1], f8[:, ::1], f8[::1], f8[::1])")
def count(
    classes: Places,
    looks: Places,
    decays: Array,
    alike_decay: float,
    recognised_decay: float,
    recognised_min: float,
    counts: Array,
    seen: Array,
    recognised: Array,
    alike: Array,
) -> None:
    """Take (n,) classes, and what those events looked like before, into (memories, C) counts, (2, C) gaps and ages, and
    the (C,) shares of `classify.ClassMembers`, all of them in place."""
    n, known = len(classes), len(recognised)
    # A class that was first seen after another was last seen may be a new name for it. As long as the exact head
    # tells some of its events for what they are, it is not: the rest are only like the other.
    alike_new = np.zeros(known)
    events, hits = np.zeros(known), np.zeros(known)
    fade = 1.0 - alike_decay
    for i in range(n - 1, -1, -1):
        y, look = classes[i], looks[i]
        events[y] += 1.0
        if look == y:
            hits[y] += 1.0
        elif not (seen[1, y] <= seen[0, look] and recognised[y] > recognised_min):
            alike_new[look] += fade
        fade *= alike_decay
    kept = alike_decay**n
    for c in range(known):
        alike[c] = alike[c] * kept + alike_new[c]
        if events[c] > 0.0:
            faded = recognised_decay ** events[c]
            recognised[c] = faded * recognised[c] + (1.0 - faded) * hits[c] / events[c]
    last = len(decays) - 1
    for c in range(known):
        seen[0, c] += n
        if counts[last, c] > 0.0:
            seen[1, c] += n
    for i in range(n - 1, -1, -1):
        # The first of a class's events comes last here.
        if counts[last, classes[i]] <= 0.0:
            seen[1, classes[i]] = n - i
    for i in range(n):
        seen[0, classes[i]] = n - 1 - i
    for memory in range(len(decays)):
        decay = decays[memory]
        kept = decay**n
        for c in range(known):
            counts[memory, c] *= kept
        fade = 1.0
        for i in range(n - 1, -1, -1):
            counts[memory, classes[i]] += fade
            fade *= decay


@compiled("void(f8[:, ::1], f8[:, ::1], f8[::1], f8, f8[:, ::1], f8[::1])")
def refresh(counts: Array, seen: Array, alike: Array, patience: float, bases: Array, absent: Array) -> None:
    """What follows from (memories, C) counts, (2, C) gaps and ages, and (C,) shares: writes the (C, 2) bases, and
    `mixture.gone` as (C,) absent."""
    classes, last = len(alike), len(counts) - 1
    recent, ever = 0.0, 0.0
    for c in range(classes):
        recent += counts[0, c] + 0.5
        ever += counts[last, c] + 0.5
    for c in range(classes):
        bases[c, 0] = (counts[0, c] + 0.5) / recent
        bases[c, 1] = (counts[last, c] + 0.5) / ever
        rate = counts[last, c] / max(seen[1, c], 1.0)
        unlike = min(max(2.0 * (1.0 - alike[c] / max(rate, 1e-12)), 0.0), 1.0)
        absent[c] = (1.0 - np.exp(-rate * seen[0, c] / patience)) * unlike


@compiled("void(f8[:, :, ::1], f8[:, :, ::1], i8[::1], i8, f8, f8, f8, f8[::1], f8[::1], f8[::1])")
def steepen(
    scores: Array,
    members: Array,
    classes: Places,
    first: int,
    decay: float,
    least: float,
    most: float,
    information: Array,
    steepness: Array,
    lapses: Array,
) -> None:
    """How a head's (n, C) scores s become probabilities, (1 - l) softmax(a s) + l / C: a Newton step for their
    steepness a, between two bounds, and a step of expectation and maximisation for the share l of labels that have
    nothing to do with them. For as many heads as there is (heads,) information of; of the (n, C, members) probabilities
    the first one's are number ``first``. All three (heads,) arrays change in place."""
    n, outputs = scores.shape[:2]
    kept = decay**n
    for k in range(len(information)):
        member, lapse = first + k, lapses[k]
        slope, curvature, lapsed = 0.0, 0.0, 0.0
        for i in range(n):
            mean, square = 0.0, 0.0
            for c in range(outputs):
                p = (members[i, c, member] - lapse / outputs) / (1.0 - lapse)
                product = p * scores[i, c, k]
                mean += product
                square += product * scores[i, c, k]
            share = (lapse / outputs) / max(members[i, classes[i], member], 1e-12)
            lapsed += share
            slope += (1.0 - share) * (scores[i, classes[i], k] - mean)
            curvature += (1.0 - share) * (square - mean * mean)
        information[k] = information[k] * kept + max(curvature, 0.0)
        change = slope / (information[k] + 1e-3)
        if np.isfinite(change) and np.isfinite(lapsed):
            steepness[k] = min(max(steepness[k] + change, least), most)
            lapses[k] = min(max(kept * lapse + (1.0 - kept) * lapsed / n, 1e-3), 0.5)


@compiled("void(f8[:, ::1], f8, f8[:, ::1], f8[:, :, ::1], i8)")
def descend(gradient: Array, rate: float, slopes: Array, weights: Array, column: int) -> None:
    """AdaGrad's step (Duchi et al. 2011) of one column of (D, C, H) weights along a (D, C) gradient; (D, C) sums of
    squared gradients. Both change in place."""
    width, outputs = gradient.shape
    for f in range(width):
        for c in range(outputs):
            slopes[f, c] += gradient[f, c] * gradient[f, c]
            weights[f, c, column] -= rate * gradient[f, c] / np.sqrt(slopes[f, c])


@compiled("UniTuple(f8, 2)(f8[:, :, ::1], f8[:, :, ::1])")
def moved(before: Array, after: Array) -> Any:
    """The largest weight before, and the largest change of one; infinite where one is not finite now. What was added
    since, at the ends of the first two dimensions, was zero."""
    width, outputs, heads = after.shape
    largest, change = 0.0, 0.0
    for f in range(width):
        for c in range(outputs):
            if f < before.shape[0] and c < before.shape[1]:
                for k in range(heads):
                    old = before[f, c, k]
                    largest = max(largest, abs(old))
                    away = abs(after[f, c, k] - old)
                    if not away < np.inf:
                        return largest, np.inf
                    change = max(change, away)
            else:
                for k in range(heads):
                    away = abs(after[f, c, k])
                    if not away < np.inf:
                        return largest, np.inf
                    change = max(change, away)
    return largest, change


@compiled("i8(f8[:, ::1], f8[::1], i8, f8, i8, i8, u8, b1, f8[::1], f8[:, ::1], f8[::1], i8[::1])")
def remember(
    rows: Array,
    recency: Array,
    start: int,
    decay: float,
    whole: int,
    sampled: int,
    mix: np.uint64,
    is_known: bool,
    recent: Array,
    waiting: Array,
    latest: Array,
    counts: Places,
) -> int:
    """Take (n, D) rows from ``start`` on, and what was said of their (n,) recency where anything is known of it, into
    what `recency.RecencyLearner` keeps, in place, until no more may wait; where to go on."""
    width = len(recent)
    bound = np.uint64(0xFFFFFFFFFFFFFFFF) // np.uint64(sampled)
    for i in range(start, len(rows)):
        number = counts[0]
        if counts[2] == len(waiting):
            return i
        counts[0] += 1
        if is_known:
            latest[counts[1] % len(latest)] = recency[i]
            counts[1] += 1
        for d in range(width):
            recent[d] = recent[d] * decay + rows[i, d]
        weight = 1.0
        if number >= whole:
            weight = np.sqrt(float(sampled)) if np.uint64(number) * mix < bound else 0.0
        if weight > 0.0:
            for d in range(width):
                waiting[counts[2], d] = weight * rows[i, d]
            counts[2] += 1
    return len(rows)
