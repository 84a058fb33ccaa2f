"""Growing boosted trees on a window of events: the compiled loops. The learning side alone imports this.

Trees are symmetric: all nodes of a level ask the same question, so a tree is its questions and a table of leaves
(Prokhorenkova et al. 2018). Questions are chosen on histograms of gradients and curvatures (Ke et al. 2017) by the gain
of a Newton step with a ridge (Chen and Guestrin 2016), and every tree sees a sample of the rows (Friedman 2002).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast.compiling import compiled

Array = NDArray[np.float64]
Places = NDArray[np.int64]
Bins = NDArray[np.uint8]
Flags = NDArray[np.bool_]

CODES = 62
"""Codes of a category that have a question of their own; those beyond share the last bin."""
HALVED = 64
"""Places that a bin is looked for among: a power of two above CODES."""
MISSING = 0
"""The bin of a missing value: never on the far side of a question."""


SAMPLE = 512
"""Values of a column at most, evenly spaced in time, whose quantiles become its cuts."""


def cut(columns: Array, category: Flags, bins: int) -> tuple[Array, Places]:
    """Where (d, n) values are cut into at most so many bins beside the one of missing values.

    Numbers between quantiles, or between neighbours where there are few different ones; codes of a (d,) category
    between each two, up to CODES of them. Returns (d, CODES) cuts, ascending, and how many of them count.
    """
    stride = max(1, columns.shape[1] // SAMPLE)
    cuts, count = _cut_numbers(np.sort(columns[:, ::stride], axis=1), bins)
    for f in np.flatnonzero(category):
        codes = columns[f][np.isfinite(columns[f])]
        last = min(int(codes.max()), CODES - 1) if len(codes) else 0
        cuts[f] = np.inf
        cuts[f, :last] = np.arange(last) + 0.5
        count[f] = last
    return cuts, count


@compiled("(f8[:,::1], i8)")
def _cut_numbers(ordered: Array, bins: int) -> tuple[Array, Places]:
    """Cuts of (d, n) values in ascending order, those that are no numbers last."""
    d, n = ordered.shape
    most = max(bins, CODES)
    cuts, count = np.full((d, most), np.inf), np.zeros(d, np.int64)
    for f in range(d):
        values = ordered[f]
        size, different = 0, 0
        while size < n and values[size] == values[size]:
            different += 1 if size == 0 or values[size] > values[size - 1] else 0
            size += 1
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
    # Halving without branches, half of which would be guessed wrong; beyond the last cut all are infinite.
    padded = np.full(HALVED, np.inf)
    for f in range(d):
        padded[:] = np.inf
        padded[: count[f]] = cuts[f, : count[f]]
        for i in range(n):
            x = columns[f, i]
            below = 0
            half = HALVED >> 1
            while half:
                below += half if x > padded[below + half - 1] else 0
                half >>= 1
            bins[f, i] = below + 1 if x == x else MISSING
    return bins


@compiled("f8(i8, i8, i8)", part=True)
def _uniform(key: int, tree: int, place: int) -> float:
    """In [0, 1), a function of its arguments alone (Steele, Lea and Flood 2014: SplitMix64's finaliser)."""
    z = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(tree) * np.uint64(0xD1342543DE82EF95)
    z += np.uint64(place + 1) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) / 9007199254740992.0


@compiled("void(f8[:,::1], f8[::1], i8[::1], b1, f8[:,::1], f8[:,::1])", part=True)
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


@compiled("void(u1[:,::1], i8[::1], i8[::1], f8[:,::1], f8[:,::1], i8[::1], b1, f8[:,:,:,:,::1])", part=True)
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
    """Sums of gradients and curvatures of each (leaf, output, bin, both, column) of (n, d) bins; of the far halves of
    leaves alone, by the leaf that they came from, with ``only_far``."""
    outputs = pull.shape[1]
    chosen = len(columns)
    for j in range(len(rows)):
        if only_far and not leaf[j] & 1:
            continue
        at = leaf[j] >> 1 if only_far else leaf[j]
        of_row = bins[rows[j]]
        for k in range(outputs):
            g, h = pull[j, k], curvature[j, k]
            for c in range(chosen):
                b = of_row[columns[c]]
                histogram[at, k, b, 0, c] += g
                histogram[at, k, b, 1, c] += h


@compiled("void(f8[:,:,::1], i8, f8[::1], f8, f8, f8, f8[:,::1], f8[:,::1])", "numpy", part=True)
def _add_gains(
    histogram: Array, size: int, kept: Array, g: float, h: float, ridge: float, near: Array, gains: Array
) -> None:
    """Add to (bins, columns) what each question gains by telling a leaf's events, of these gradients and curvatures in
    all, apart; the (bins, both, columns) histogram is theirs. Columns stand side by side, so that the processor takes
    several at once. ``kept`` is 1 for a number, whose near side is all bins so far, and 0 for a category, whose near
    side is one; (both, columns) ``near`` is overwritten."""
    chosen = len(kept)
    whole = g * g / (h + ridge)
    near_g, near_h = near[0], near[1]
    near_g[:] = 0.0
    near_h[:] = 0.0
    for b in range(size):
        here_g, here_h, gain = histogram[b, 0], histogram[b, 1], gains[b]
        for c in range(chosen):
            # Where nobody is, nothing is told apart that was not before.
            counts = 1.0 if here_h[c] > 1e-9 else 1.0 - kept[c]
            near_g[c] = near_g[c] * kept[c] + here_g[c] * counts
            near_h[c] = near_h[c] * kept[c] + here_h[c] * counts
            near_width = near_h[c] + ridge
            far_g, far_width = g - near_g[c], max(0.0, h - near_h[c]) + ridge
            # G^2 / H of both sides, by one division.
            both = near_g[c] * near_g[c] * far_width + far_g * far_g * near_width
            gain[c] += both / (near_width * far_width) - whole


@compiled("(f8[:,:,:,:,::1], i8, i8[::1], i8[::1], f8[::1], f8, f8[:,::1], f8[:,::1])", part=True)
def _best_question(
    histogram: Array,
    leaves: int,
    columns: Places,
    sizes: Places,
    kept: Array,
    ridge: float,
    near: Array,
    gains: Array,
) -> tuple[int, int]:
    """The place among the columns, and the bin, with the largest gain over all leaves together; place -1 where there is
    nothing to ask.

    A number's question is whether its bin is beyond this one, a category's whether it is this one."""
    outputs, most = histogram.shape[1], histogram.shape[2]
    gains[:] = 0.0
    for leaf in range(leaves):
        for k in range(outputs):
            g, h = 0.0, 0.0
            for b in range(most):
                # Any column's bins add up to the same.
                g += histogram[leaf, k, b, 0, 0]
                h += histogram[leaf, k, b, 1, 0]
            if h >= 1e-9:
                _add_gains(histogram[leaf, k], most, kept, g, h, ridge, near, gains)
    best, best_place, best_bin = 0.0, -1, 0
    for c in range(len(columns)):
        size = sizes[columns[c]]
        is_code = kept[c] == 0.0
        for b in range(1 if is_code else 0, size if is_code else size - 1):
            if gains[b, c] > best + 1e-9:
                best, best_place, best_bin = gains[b, c], c, b
    return best_place, best_bin


@compiled("void(f8[::1], f8[::1], f8[::1], f8[::1])", part=True)
def _halve(whole: Array, far: Array, near_half: Array, far_half: Array) -> None:
    """Writes both halves of a leaf's sums; ``near_half`` may be ``whole`` itself."""
    for q in range(len(whole)):
        near_half[q] = whole[q] - far[q]
    for q in range(len(far)):
        far_half[q] = far[q]


@compiled("void(u1[::1], i8, b1, u1[::1])", part=True)
def _descend(bins: Bins, at: int, is_code: bool, places: Bins) -> None:
    """Takes (n,) events one question further down a tree."""
    bound = np.uint8(at)
    if is_code:
        for i in range(len(places)):
            places[i] = (places[i] << 1) | np.uint8(bins[i] == bound)
    else:
        for i in range(len(places)):
            places[i] = (places[i] << 1) | np.uint8(bins[i] > bound)


@compiled("i8(i8, i8, f8, i8[::1])", part=True)
def _draw_rows(key: int, tree: int, share: float, rows: Places) -> int:
    """Writes the rows that a tree sees in front of (n,) ``rows``, ascending; how many they are."""
    count = 0
    for i in range(len(rows)):
        if share >= 1.0 or _uniform(key, tree, i) < share:
            rows[count] = i
            count += 1
    return count


@compiled("void(i8, i8, i8[::1], i8)", part=True)
def _draw_columns(key: int, tree: int, order: Places, chosen: int) -> None:
    """Shuffles so many columns to the front of all of them."""
    d = len(order)
    if chosen < d:
        for c in range(chosen):
            other = c + int(_uniform(key, tree, -2 - c) * (d - c))
            order[c], order[other] = order[other], order[c]


@compiled("void(u1[::1], i8, b1, i8[::1], i8[::1])", part=True)
def _tell_apart(bins: Bins, at: int, is_code: bool, rows: Places, leaf: Places) -> None:
    """Moves the chosen rows of (n,) bins one level down, to the far side where the answer is yes."""
    for j in range(len(rows)):
        b = bins[rows[j]]
        leaf[j] = 2 * leaf[j] + (1 if (b == at if is_code else b > at) else 0)


@compiled("void(i8[::1], f8[:,::1], f8[:,::1], f8, f8, f8[:,::1])", part=True)
def _settle(leaf: Places, pull: Array, curvature: Array, rate: float, ridge: float, leaves: Array) -> None:
    """Writes what each of (leaves, outputs) says: a Newton step on the rows that ended there."""
    outputs = pull.shape[1]
    sums = np.zeros((len(leaves), outputs, 2))
    for j in range(len(leaf)):
        for k in range(outputs):
            sums[leaf[j], k, 0] += pull[j, k]
            sums[leaf[j], k, 1] += curvature[j, k]
    leaves[:] = rate * sums[:, :, 0] / (sums[:, :, 1] + ridge)


@compiled("void(u1[:,::1], b1[::1], i8[::1], i8[::1], f8[:,::1], u1[::1], f8[:,::1])", part=True)
def _add_answers(
    bins: Bins, category: Flags, asked: Places, beyond: Places, leaves: Array, places: Bins, scores: Array
) -> None:
    """Adds what one tree says of every event to (n, outputs) scores; (n,) ``places`` is overwritten."""
    n, outputs = scores.shape
    places[:] = 0
    for level in range(len(asked)):
        if asked[level] < 0:
            places[:] = places << 1
        else:
            _descend(bins[asked[level]], beyond[level], category[asked[level]], places)
    for i in range(n):
        for k in range(outputs):
            scores[i, k] += leaves[places[i], k]


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

    Returns (trees, depth) columns (-1 asks nothing), (trees, depth) bins and (trees, 2^depth, outputs) leaves. Trees
    are not deeper than 8.
    """
    d, n = bins.shape
    outputs = scores.shape[1]
    # Not `sizes.max()`: who loads the code of that loads SciPy's linear algebra as well, 0.2 s of each start.
    most = 0
    for size in sizes:
        most = max(most, size)
    asked = np.full((trees, depth), -1, np.int64)
    beyond = np.zeros((trees, depth), np.int64)
    leaves = np.zeros((trees, 1 << depth, outputs))
    chosen = min(d, columns_max)
    half = 1 << max(depth - 1, 0)
    before = np.zeros((half, outputs, most, 2, chosen))
    now = np.zeros((half, outputs, most, 2, chosen))
    flat_before, flat_now = before.reshape(half, -1), now.reshape(half, -1)
    near, gains, kept = np.empty((2, chosen)), np.empty((most, chosen)), np.empty(chosen)
    by_row = np.empty((n, d), np.uint8)
    for f in range(d):
        for i in range(n):
            by_row[i, f] = bins[f, i]
    rows_of, leaf_of = np.empty(n, np.int64), np.empty(n, np.int64)
    pull_of, curvature_of = np.empty((n, outputs)), np.empty((n, outputs))
    order, places = np.arange(d), np.empty(n, np.uint8)
    for t in range(trees):
        count = _draw_rows(key, t, share, rows_of)
        rows, pull, curvature, leaf = rows_of[:count], pull_of[:count], curvature_of[:count], leaf_of[:count]
        _gradients(scores, targets, rows, numeric, pull, curvature)
        _draw_columns(key, t, order, chosen)
        columns = order[:chosen]
        for c in range(chosen):
            kept[c] = 0.0 if category[columns[c]] else 1.0
        leaf[:] = 0
        for level in range(depth):
            if level == 0:
                before[0] = 0.0
                _add_up(by_row, rows, leaf, pull, curvature, columns, False, before)
            else:
                # Of two halves one is added up, the other one is what is left.
                now[: 1 << (level - 1)] = 0.0
                _add_up(by_row, rows, leaf, pull, curvature, columns, True, now)
                for at in range((1 << (level - 1)) - 1, -1, -1):
                    _halve(flat_before[at], flat_now[at], flat_before[2 * at], flat_before[2 * at + 1])
            place, at_bin = _best_question(before, 1 << level, columns, sizes, kept, ridge, near, gains)
            beyond[t, level] = at_bin
            if place < 0:
                leaf *= 2
            else:
                asked[t, level] = columns[place]
                _tell_apart(bins[columns[place]], at_bin, category[columns[place]], rows, leaf)
        _settle(leaf, pull, curvature, rate, ridge, leaves[t])
        _add_answers(bins, category, asked[t], beyond[t], leaves[t], places, scores)
    return asked, beyond, leaves
