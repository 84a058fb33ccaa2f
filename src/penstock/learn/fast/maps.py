"""Feature maps: the inputs themselves, and fixed random non-linear features of them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

SCALES = (0.6, 1.2, 2.4, 4.8)
"""Frequencies of the waves, as multiples of a standard normal over inputs^SIZE_POWER. One bandwidth suits one stream; a
few of them cover most, and the heads weight what helps."""
SIZE_POWER = 0.75
"""One half would keep the spread of phases the same however many inputs there are, but with many of them real streams
vary along few directions, and want smoother features."""
WAVES_SHARE = 0.75
"""The share of random features that are waves; the others are ramps, which extend beyond what was seen."""


@lru_cache(maxsize=32)
def _directions(seed: int, inputs: int, count: int, size: float) -> tuple[Array32, Array32]:
    """(inputs, count) directions and (count,) offsets: a function of its arguments alone, on any machine.

    Philox is counter-based, and its raw output is the same in every version of NumPy, which its normal deviates need
    not be; hence Box and Muller's own.
    """

    def uniforms(stream: int, n: int) -> Array:
        raw = np.random.Philox(key=np.array([seed % (1 << 64), stream], dtype=np.uint64)).random_raw(n)
        return ((raw >> np.uint64(11)).astype(np.float64) + 0.5) / float(1 << 53)

    n = inputs * count
    normals = np.sqrt(-2.0 * np.log(uniforms(1, n))) * np.cos(2 * np.pi * uniforms(2, n))
    waves = round(count * WAVES_SHARE)
    scales = np.ones(count)
    scales[:waves] = np.resize(np.array(SCALES), waves)
    directions = np.ascontiguousarray((normals.reshape(count, inputs) * (scales / size**SIZE_POWER)[:, None]).T)
    offsets = uniforms(3, count)
    offsets[:waves] *= 2 * np.pi
    offsets[waves:] = 2.0 * offsets[waves:] - 1.0
    pair = directions.astype(np.float32), offsets.astype(np.float32)
    for array in pair:
        array.flags.writeable = False
    return pair


class FeatureMap:
    """Rows of a base's features, random ones, a one, and the inputs: the linear features are the last columns of the
    rich ones.

    Random features are waves cos(w'x + b) (Rahimi and Recht 2007) and ramps max(0, w'x + b), of the first ``inputs``
    columns alone, so indicators of missing values that are added later leave them as they are. They are computed in
    32 bits, twice as fast and far more exact than what is learned from them.
    """

    def __init__(self, *, seed: int, inputs: int, count: int, size: float) -> None:
        self.count = count
        """Random features: columns before the one."""
        self._inputs = inputs
        self._waves = round(count * WAVES_SHARE)
        if count:
            self._directions, self._offsets = _directions(seed, inputs, count, float(size))

    def features(self, encoded: Array, stable: Array | None = None) -> Array:
        """(n, stable + count + 1 + width) features of the (n, width) encoded inputs, behind the (n, stable) ones of a
        base where there is one."""
        n, width = encoded.shape
        before = 0 if stable is None else stable.shape[1]
        count, waves = self.count, self._waves
        features = np.empty((n, before + count + 1 + width))
        if stable is not None and before:
            features[:, :before] = stable
        features[:, before + count] = 1.0
        features[:, before + count + 1 :] = encoded
        if count:
            inputs = encoded if width == self._inputs else encoded[:, : self._inputs]
            sums = inputs.astype(np.float32) @ self._directions
            sums += self._offsets
            np.cos(sums[:, :waves], out=sums[:, :waves])
            np.maximum(sums[:, waves:], 0.0, out=sums[:, waves:])
            features[:, before : before + count] = sums
        return features
