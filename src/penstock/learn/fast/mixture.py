"""Weights of members that follow whichever predicts best now, and a memory of what each can still know."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SHARE = 1e-3
"""What an event gives back to all members alike, so that none is ever out of the running."""
FLOOR = 1e-6
"""Probabilities below count as this: a member that was certain and wrong once can come back."""
BLOCK = 32
"""Events mixed between two givings back in a long step."""
PATIENCE = 100.0
"""Expected events of a class whose absence makes it count as gone, to a factor e."""


def fixed_share(weights: Array, log_likelihoods: Array, share: float = SHARE) -> Array:
    """(M,) weights after n events with these (n, M) log likelihoods (Herbster and Warmuth 1998).

    v_k <- v_k p_k(y), normalised, then (1 - a) v_k + a / M. The cumulative log loss of the mixture is then at most that
    of the best member plus ln M + n ln(1 / (1 - a)), and every switch of the best sequence of members costs ln(M / a)
    more. In a step longer than BLOCK the share is given back once a block, with the block's 1 - (1 - a)^n; what a step
    of n events leaves differs from that of n single events only within blocks.
    """
    members = log_likelihoods.shape[1]
    for start in range(0, len(log_likelihoods), BLOCK):
        block = log_likelihoods[start : start + BLOCK]
        total = block[0] if len(block) == 1 else block.sum(axis=0)
        weights = weights * np.exp(total - total.max())
        kept = (1.0 - share) ** len(block)
        weights *= kept / weights.sum()
        weights += (1.0 - kept) / members
    return weights


def gone(gaps: Array, rates: Array, alike: Array) -> Array:
    """(C,) how far each class can be taken to have stopped arriving together with the inputs that look like it.

    A class that made up a share ``rate`` of the events and has been absent for ``gap`` of them is missing rate * gap
    expected events; were it still arriving, so long a gap would have probability exp(-rate * gap). That is tempered by
    PATIENCE, since real streams come in bursts. If inputs that look like the class go on arriving with other labels, in
    a share ``alike`` near its rate, then it is the concept that changed, and what was known protects nothing; up to
    half of its rate they are the mistakes that the exact head makes anyway.
    """
    absent = 1.0 - np.exp(-rates * gaps / PATIENCE)
    unlike = 2.0 * (1.0 - alike / np.maximum(rates, 1e-12))
    return absent * np.minimum(np.maximum(unlike, 0.0), 1.0)
