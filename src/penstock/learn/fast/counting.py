"""The negative binomial distribution of counts, by mean and variance: Poisson's where the variance is no larger."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

POISSON = 1e4
"""A size of so many times the mean makes a variance that is larger than Poisson's by a ten-thousandth, which nobody can
tell, and keeps digits that the difference of two huge logarithms would lose."""
EXACT_MAX = 512
"""Up to a count this large probabilities are summed; beyond, sums of them are those of a gamma distribution."""
REACH = 8.0
"""Deviations above the mean beyond which there is next to nothing."""

_STIRLING = (1.0 / 12.0, -1.0 / 360.0, 1.0 / 1260.0, -1.0 / 1680.0)


def log_gamma(x: Array) -> Array:
    """ln of the gamma function for x > 0: Stirling's series eight steps further up, exact to 1e-12 or better."""
    product = x * (x + 1.0) * (x + 2.0) * (x + 3.0) * (x + 4.0) * (x + 5.0) * (x + 6.0) * (x + 7.0)
    up = x + 8.0
    inverse = 1.0 / up
    square = inverse * inverse
    series = ((_STIRLING[3] * square + _STIRLING[2]) * square + _STIRLING[1]) * square + _STIRLING[0]
    result: Array = (up - 0.5) * np.log(up) - up + 0.5 * np.log(2.0 * np.pi) + series * inverse - np.log(product)
    return result


def sizes(mean: Array, variance: Array) -> Array:
    """The parameter r of variance = mean + mean^2 / r."""
    result: Array = 1.0 / np.maximum((variance - mean) / (mean * mean), 1.0 / (POISSON * (mean + 1.0)))
    return result


def log_probabilities(counts: Array, mean: Array, size: Array) -> Array:
    """ln P(count), broadcast; counts are whole and not negative, means above 0."""
    ratio = mean / size
    log_odds = -np.log1p(ratio)
    difference = log_gamma(counts + size) - log_gamma(size)
    result: Array = difference - log_gamma(counts + 1.0) + size * log_odds + counts * (np.log(ratio) + log_odds)
    return np.minimum(result, 0.0)


def below(counts: Array, mean: Array, variance: Array) -> tuple[Array, Array]:
    """(n,) P(less than the count) and P(the count), one distribution a row."""
    size = sizes(mean, variance)
    here = np.exp(log_probabilities(counts, mean, size))
    before = np.empty(len(counts))
    exact = _is_exact(mean, variance) & (counts <= EXACT_MAX)
    rows = np.flatnonzero(exact)
    if len(rows):
        sums = _sums(mean[rows], size[rows], int(counts[rows].max()))
        places = counts[rows].astype(np.intp)
        before[rows] = np.where(places > 0, sums[np.arange(len(rows)), np.maximum(places - 1, 0)], 0.0)
    rows = np.flatnonzero(~exact)
    if len(rows):
        before[rows] = _gamma_below(counts[rows] - 0.5, mean[rows], variance[rows])
    return np.minimum(before, 1.0 - here), here


def quantiles(levels: Array, mean: Array, variance: Array) -> Array:
    """(n, levels) the least counts up to which each share of the distribution lies."""
    found = np.empty((len(mean), len(levels)))
    exact = _is_exact(mean, variance)
    rows = np.flatnonzero(exact)
    if len(rows):
        top = float((mean[rows] + REACH * np.sqrt(variance[rows])).max()) + REACH
        sums = _sums(mean[rows], sizes(mean[rows], variance[rows]), int(top))
        for place, level in enumerate(levels.tolist()):
            found[rows, place] = np.minimum((sums < level).sum(axis=1), int(top))
    rows = np.flatnonzero(~exact)
    if len(rows):
        deviates = np.array([NormalDist().inv_cdf(level) for level in levels.tolist()])
        found[rows] = _gamma_at(deviates, mean[rows, None], variance[rows, None])
    return found


def _is_exact(mean: Array, variance: Array) -> NDArray[np.bool_]:
    result: NDArray[np.bool_] = mean + REACH * np.sqrt(variance) + REACH <= EXACT_MAX
    return result


def _sums(mean: Array, size: Array, top: int) -> Array:
    """(n, top + 1) P(at most k)."""
    k = np.arange(top)
    steps = np.log((k + size[:, None]) / ((k + 1.0) * (1.0 + size[:, None] / mean[:, None])))
    logs = np.empty((len(mean), top + 1))
    logs[:, 0] = -size * np.log1p(mean / size)
    np.cumsum(steps, axis=1, out=logs[:, 1:])
    logs[:, 1:] += logs[:, :1]
    sums: Array = np.cumsum(np.exp(logs), axis=1)
    return sums


def _gamma_below(at: Array, mean: Array, variance: Array) -> Array:
    """P(a gamma variable of this mean and variance < at): Wilson and Hilferty's cube root (1931)."""
    shape = mean * mean / variance
    deviates = (np.cbrt(np.maximum(at, 0.0) / mean) - (1.0 - 1.0 / (9.0 * shape))) * 3.0 * np.sqrt(shape)
    return np.array([NormalDist().cdf(deviate) for deviate in deviates.tolist()])


def _gamma_at(deviates: Array, mean: Array, variance: Array) -> Array:
    shape = mean * mean / variance
    root = 1.0 - 1.0 / (9.0 * shape) + deviates / (3.0 * np.sqrt(shape))
    result: Array = np.ceil(np.maximum(mean * np.maximum(root, 0.0) ** 3 - 0.5, 0.0))
    return result
