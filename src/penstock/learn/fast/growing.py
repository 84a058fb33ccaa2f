"""Growing boosted trees on a window of events: the compiled loops. The learning side alone imports this.

Trees are symmetric: all nodes of a level ask the same question, so a tree is its questions and a table of leaves
(Prokhorenkova et al. 2018). Questions are chosen on histograms of gradients and curvatures (Ke et al. 2017) by the gain
of a Newton step with a ridge (Chen and Guestrin 2016), and every tree sees a sample of the rows (Friedman 2002).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast.kernels import compiled

Array = NDArray[np.float64]
Places = NDArray[np.int64]
Bins = NDArray[np.uint8]
Flags = NDArray[np.bool_]

CODES = 62
"""Codes of a category that have a question of their own; those beyond share the last bin."""
MISSING = 0
"""The bin of a missing value: never on the far side of a question."""


SAMPLE = 512
"""Values of a column at most, evenly spaced in time, whose quantiles become its cuts."""


@compiled("(f8[:,::1], b1[::1], i8)")
def cut(columns: Array, category: Flags, bins: int) -> tuple[Array, Places]:
    """Where (d, n) values are cut into at most so many bins beside the one of missing values.

    Numbers between quantiles, or between neighbours where there are few different ones; codes of a (d,) category
    between each two, up to CODES of them. Returns (d, CODES) cuts, ascending, and how many of them count.
    """
    d, n = columns.shape
    most = max(bins, CODES)
    cuts, count = np.full((d, most), np.inf), np.zeros(d, np.int64)
    stride = max(1, n // SAMPLE)
    for f in range(d):
        taken = columns[f, ::stride]
        values = np.sort(taken[np.isfinite(taken)])
        size = len(values)
        if size == 0:
            continue
        if category[f]:
            last = min(int(columns[f][np.isfinite(columns[f])].max()), CODES - 1)
            for code in range(last):
                cuts[f, code] = code + 0.5
            count[f] = last
            continue
        different = 1
        for i in range(1, size):
            different += values[i] > values[i - 1]
        at = 0
        if different <= bins:
            for i in range(1, size):
                if values[i] > values[i - 1]:
                    # Half of each: their sum may be beyond what a number can be.
                    cuts[f, at] = 0.5 * values[i] + 0.5 * values[i - 1]
                    at += 1
        else:
            for q in range(1, bins):
                value = values[q * size // bins]
                if value < values[size - 1] and (at == 0 or value > cuts[f, at - 1]):
                    cuts[f, at] = value
                    at += 1
        count[f] = at
    return cuts, count


@compiled("u1[:,::1](f8[:,::1], f8[:,::1], i8[::1])")
def place_in_bins(columns: Array, cuts: Array, count: Places) -> Bins:
    """(d, n) bins of (d, n) values: one more than the number of a column's (d, most) cuts below the value."""
    d, n = columns.shape
    bins = np.empty((d, n), np.uint8)
    for f in range(d):
        for i in range(n):
            x = columns[f, i]
            if x != x:
                bins[f, i] = MISSING
                continue
            low, high = 0, count[f]
            while low < high:
                middle = (low + high) >> 1
                if x > cuts[f, middle]:
                    low = middle + 1
                else:
                    high = middle
            bins[f, i] = low + 1
    return bins


@compiled("f8(i8, i8, i8)")
def _uniform(key: int, tree: int, place: int) -> float:
    """In [0, 1), a function of its arguments alone (Steele, Lea and Flood 2014: SplitMix64's finaliser)."""
    z = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(tree) * np.uint64(0xD1342543DE82EF95)
    z += np.uint64(place + 1) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) / 9007199254740992.0


@compiled("void(f8[:,::1], f8[::1], i8[::1], b1, f8[:,::1], f8[:,::1])")
def _gradients(scores: Array, targets: Array, rows: Places, numeric: bool, pull: Array, curvature: Array) -> None:
    """Of the log loss (targets are classes) or the squared one (targets are numbers) at the chosen rows."""
    outputs = scores.shape[1]
    for j in range(len(rows)):
        i = rows[j]
        if numeric:
            pull[j, 0] = targets[i] - scores[i, 0]
            curvature[j, 0] = 1.0
        elif outputs == 1:
            p = 1.0 / (1.0 + np.exp(-scores[i, 0]))
            pull[j, 0] = targets[i] - p
            curvature[j, 0] = max(p * (1.0 - p), 1e-6)
        else:
            top = scores[i, 0]
            for k in range(1, outputs):
                top = max(top, scores[i, k])
            total = 0.0
            for k in range(outputs):
                pull[j, k] = np.exp(scores[i, k] - top)
                total += pull[j, k]
            for k in range(outputs):
                p = pull[j, k] / total
                pull[j, k] = (1.0 if targets[i] == k else 0.0) - p
                curvature[j, k] = max(p * (1.0 - p), 1e-6)


@compiled("void(u1[:,::1], i8[::1], i8[::1], f8[:,::1], f8[:,::1], i8[::1], b1, f8[:,:,:,:,::1])")
def _add_up(
    bins: Bins,
    rows: Places,
    leaf: Places,
    pull: Array,
    curvature: Array,
    columns: Places,
    only_far: bool,
    histogram: Array,
) -> None:
    """Sums of gradients and curvatures of each (leaf, column, bin, output); of the far halves of leaves alone, by the
    leaf that they came from, with ``only_far``."""
    outputs = pull.shape[1]
    # Chosen once and not a column at a time: half of such branches are guessed wrong.
    chosen, into = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    count = 0
    for j in range(len(rows)):
        chosen[count] = j
        into[count] = leaf[j] >> 1 if only_far else leaf[j]
        count += leaf[j] & 1 if only_far else 1
    for c in range(len(columns)):
        of_column = bins[columns[c]]
        for place in range(count):
            j, at = chosen[place], into[place]
            b = of_column[rows[j]]
            if outputs == 1:
                histogram[at, c, b, 0, 0] += pull[j, 0]
                histogram[at, c, b, 0, 1] += curvature[j, 0]
            else:
                for k in range(outputs):
                    histogram[at, c, b, k, 0] += pull[j, k]
                    histogram[at, c, b, k, 1] += curvature[j, k]


@compiled("void(f8[::1], f8[::1], f8, f8, f8, f8[::1])", "numpy")
def _add_gains(near_g: Array, near_h: Array, g: float, h: float, ridge: float, gains: Array) -> None:
    """What (bins,) questions gain by telling events of these gradients and curvatures apart from the rest."""
    whole = g * g / (h + ridge)
    for b in range(len(gains)):
        far_g, far_h = g - near_g[b], max(0.0, h - near_h[b])
        gains[b] += near_g[b] * near_g[b] / (near_h[b] + ridge) + far_g * far_g / (far_h + ridge) - whole


@compiled("(f8[:,:,:,:,::1], i8, i8[::1], i8[::1], b1[::1], f8, f8[::1])")
def _best_question(
    histogram: Array, leaves: int, columns: Places, sizes: Places, category: Flags, ridge: float, gains: Array
) -> tuple[int, int]:
    """The column and the bin with the largest gain over all leaves together; column -1 where there is nothing to ask.

    A number's question is whether its bin is beyond this one, a category's whether it is this one."""
    outputs = histogram.shape[3]
    sums = np.zeros((leaves, outputs, 2))
    for leaf in range(leaves):
        # Any column's bins add up to the same.
        for b in range(sizes[columns[0]]):
            for k in range(outputs):
                sums[leaf, k, 0] += histogram[leaf, 0, b, k, 0]
                sums[leaf, k, 1] += histogram[leaf, 0, b, k, 1]
    best, best_column, best_bin = 0.0, -1, 0
    near_g, near_h = np.empty(len(gains)), np.empty(len(gains))
    for c in range(len(columns)):
        f = columns[c]
        size = sizes[f]
        gains[:] = 0.0
        for leaf in range(leaves):
            for k in range(outputs):
                g, h = sums[leaf, k, 0], sums[leaf, k, 1]
                if h < 1e-9:
                    continue
                so_far_g, so_far_h = 0.0, 0.0
                for b in range(size):
                    here = histogram[leaf, c, b, k, 1]
                    if category[f]:
                        so_far_g, so_far_h = histogram[leaf, c, b, k, 0], here
                    elif here > 1e-9:
                        # Where nobody is, nothing is told apart that was not before.
                        so_far_g += histogram[leaf, c, b, k, 0]
                        so_far_h += here
                    near_g[b], near_h[b] = so_far_g, so_far_h
                _add_gains(near_g[:size], near_h[:size], g, h, ridge, gains[:size])
        for b in range(1 if category[f] else 0, size if category[f] else size - 1):
            if gains[b] > best + 1e-9:
                best, best_column, best_bin = gains[b], f, b
    return best_column, best_bin


@compiled("void(f8[::1], f8[::1], f8[::1], f8[::1])")
def _halve(whole: Array, far: Array, near_half: Array, far_half: Array) -> None:
    """Writes both halves of a leaf's sums; ``near_half`` may be ``whole`` itself."""
    for q in range(len(whole)):
        near_half[q] = whole[q] - far[q]
    for q in range(len(far)):
        far_half[q] = far[q]


@compiled("void(u1[::1], i8, b1, i8[::1])")
def _descend(bins: Bins, at: int, is_code: bool, places: Places) -> None:
    """Takes (n,) events one question further down a tree."""
    if is_code:
        for i in range(len(places)):
            places[i] = 2 * places[i] + (bins[i] == at)
    else:
        for i in range(len(places)):
            places[i] = 2 * places[i] + (bins[i] > at)


@compiled("b1(u1[:,::1], i8, i8, b1[::1], i8)")
def _is_far(bins: Bins, column: int, at: int, category: Flags, i: int) -> bool:
    b = bins[column, i]
    is_far: bool = (b == at) if category[column] else (b > at)
    return is_far


@compiled("(u1[:,::1], f8[::1], f8[:,::1], i8[::1], b1[::1], b1, i8, i8, f8, f8, f8, i8, i8)")
def grow(
    bins: Bins,
    targets: Array,
    scores: Array,
    sizes: Places,
    category: Flags,
    numeric: bool,
    trees: int,
    depth: int,
    rate: float,
    ridge: float,
    share: float,
    columns_max: int,
    key: int,
) -> tuple[Places, Places, Array]:
    """Boost (n, outputs) scores, in place, by so many trees of (d, n) bins; their questions and their leaves.

    Returns (trees, depth) columns (-1 asks nothing), (trees, depth) bins and (trees, 2^depth, outputs) leaves.
    """
    d, n = bins.shape
    outputs = scores.shape[1]
    most = sizes.max()
    asked = np.full((trees, depth), -1, np.int64)
    beyond = np.zeros((trees, depth), np.int64)
    leaves = np.zeros((trees, 1 << depth, outputs))
    chosen = min(d, columns_max)
    half = 1 << max(depth - 1, 0)
    before = np.zeros((half, chosen, most, outputs, 2))
    now = np.zeros((half, chosen, most, outputs, 2))
    flat_before, flat_now = before.reshape(half, -1), now.reshape(half, -1)
    gains = np.empty(most)
    rows_of = np.empty(n, np.int64)
    pull_of, curvature_of = np.empty((n, outputs)), np.empty((n, outputs))
    order, places = np.arange(d), np.empty(n, np.int64)
    for t in range(trees):
        count = 0
        for i in range(n):
            if share >= 1.0 or _uniform(key, t, i) < share:
                rows_of[count] = i
                count += 1
        rows, pull, curvature = rows_of[:count], pull_of[:count], curvature_of[:count]
        _gradients(scores, targets, rows, numeric, pull, curvature)
        if chosen < d:
            for c in range(chosen):
                other = c + int(_uniform(key, t, -2 - c) * (d - c))
                order[c], order[other] = order[other], order[c]
        columns = order[:chosen]
        leaf = np.zeros(count, np.int64)
        for level in range(depth):
            if level == 0:
                before[0] = 0.0
                _add_up(bins, rows, leaf, pull, curvature, columns, False, before)
            else:
                # Of two halves one is added up, the other one is what is left.
                now[: 1 << (level - 1)] = 0.0
                _add_up(bins, rows, leaf, pull, curvature, columns, True, now)
                for at in range((1 << (level - 1)) - 1, -1, -1):
                    _halve(flat_before[at], flat_now[at], flat_before[2 * at], flat_before[2 * at + 1])
            column, at_bin = _best_question(before, 1 << level, columns, sizes, category, ridge, gains)
            asked[t, level], beyond[t, level] = column, at_bin
            for j in range(count):
                leaf[j] = 2 * leaf[j] + (1 if column >= 0 and _is_far(bins, column, at_bin, category, rows[j]) else 0)
        sums = np.zeros((1 << depth, outputs, 2))
        for j in range(count):
            for k in range(outputs):
                sums[leaf[j], k, 0] += pull[j, k]
                sums[leaf[j], k, 1] += curvature[j, k]
        leaves[t] = rate * sums[:, :, 0] / (sums[:, :, 1] + ridge)
        places[:] = 0
        for level in range(depth):
            column, at_bin = asked[t, level], beyond[t, level]
            if column < 0:
                places *= 2
            else:
                _descend(bins[column], at_bin, category[column], places)
        for i in range(n):
            for k in range(outputs):
                scores[i, k] += leaves[t, places[i], k]
    return asked, beyond, leaves
