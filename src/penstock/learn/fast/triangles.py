"""Lower triangles of many columns, by blocks: what is below the diagonal's blocks is left to matrix products, which use
the processor several times as well as loops over rows do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast import kernels

Array = NDArray[np.float64]

LARGE = 640
"""Columns from which blocks pay; below, a triangle lies in the processor's cache as a whole."""
BLOCK = 96


def invert(lower: Array, inverse: Array) -> None:
    """The inverse (n, n) of a lower triangular matrix (n, n)."""
    if len(lower) < LARGE:
        kernels.invert_triangle(lower, inverse)
    else:
        _invert(lower, inverse)


def _invert(lower: Array, inverse: Array) -> None:
    n = len(lower)
    if n <= BLOCK:
        inverse[:] = _inverted(lower)
        return
    half = n // 2
    first, last = slice(half), slice(half, n)
    _invert(lower[first, first], inverse[first, first])
    _invert(lower[last, last], inverse[last, last])
    inverse[first, last] = 0.0
    inverse[last, first] = inverse[last, last] @ (lower[last, first] @ inverse[first, first])
    np.negative(inverse[last, first], out=inverse[last, first])


def solve(lower: Array, right: Array) -> None:
    """Solves L L' x = b in place for each row b of ``right`` (C, n), with L (n, n) lower triangular."""
    n = len(lower)
    if n < LARGE:
        kernels.solve_triangle(lower, right)
        return
    blocks = [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
    inverses = [_inverted(lower[block, block]) for block in blocks]
    for block, inverse in zip(blocks, inverses, strict=True):
        before = slice(block.start)
        right[:, block] = (right[:, block] - right[:, before] @ lower[block, before].T) @ inverse.T
    for block, inverse in zip(reversed(blocks), reversed(inverses), strict=True):
        behind = slice(block.stop, n)
        right[:, block] = (right[:, block] - right[:, behind] @ lower[behind, block]) @ inverse


def _inverted(lower: Array) -> Array:
    inverse = np.empty(lower.shape)
    kernels.invert_triangle(np.ascontiguousarray(lower), inverse)
    return inverse
