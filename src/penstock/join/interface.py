"""What comes out of the join: labelled events in the order in which they became learnable, and counts of the rest."""

from __future__ import annotations

import msgspec


class JoinCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the events taken so far."""

    examples: int = 0
    """Examples passed on, which duplicates were not."""
    matched: int = 0
    """Feedback joined to its prediction."""
    unknown: int = 0
    """Feedback that no prediction was found for within the time."""
    early: int = 0
    """Feedback now waiting for its prediction's record."""
    feedback_duplicate: int = 0
    """Feedback to a prediction that has its answer already; the first answer stands."""
    duplicates: int = 0
    """Examples whose id was seen before."""
    waiting: int = 0
    """Predictions now waiting for their feedback."""
    expired: int = 0
    """Predictions that stopped waiting without an answer."""


DELAY_EDGES_S = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0, 604800.0)
"""Upper ends of the delay histogram's buckets in seconds, from ten milliseconds to a week; one more lies beyond."""


class FeedbackDelays(msgspec.Struct, frozen=True, kw_only=True):
    """How long after its prediction feedback came, by the log's time."""

    counts: tuple[int, ...] = (0,) * (len(DELAY_EDGES_S) + 1)
    """Feedback in each bucket: up to and including its edge, and above the edge before."""
    total_s: float = 0.0
    """Sum of all delays."""
    longest_s: float = 0.0
