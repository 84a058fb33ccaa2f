"""What comes out of the join beside labelled events: what was said of them later, and counts of the rest."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import NamedTuple

import msgspec

from penstock.events import Offset, Partition

Told = float | str | tuple[str, ...]
"""A label as feedback tells it: a number, a class, or a set of classes."""


class Amendment(NamedTuple):
    """Another label for an event that came out of the join before, or none: it should not have been learned."""

    partition: Partition
    offset: Offset
    """With the partition the event's origin: the event that had given it its label."""
    label: Told | None


class JoinCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the events taken so far.

    Every event of feedback is one of: matched, late, corrected, retracted, a duplicate, unknown, or still early. Every
    prediction is one of: matched, labelled by default, expired, or still waiting, but for those whose answer was taken
    back before it came."""

    examples: int = 0
    """Examples passed on, which duplicates were not."""
    matched: int = 0
    """Feedback joined to its prediction within the window."""
    early_matched: int = 0
    """Those of the matched that came before their prediction's record."""
    late: int = 0
    """Feedback to a prediction that had stopped waiting."""
    late_learned: int = 0
    """The late feedback that was passed on as an example all the same."""
    corrected: int = 0
    """Feedback with another label than the one before it: it takes its place."""
    retracted: int = 0
    """Feedback that took a label back."""
    implicit: int = 0
    """Predictions that were passed on with the label that the service gives to those without an answer."""
    unknown: int = 0
    """Feedback that no prediction or example was found for within the time."""
    early: int = 0
    """Feedback now waiting for its prediction's record."""
    feedback_duplicate: int = 0
    """Feedback that says nothing new."""
    duplicates: int = 0
    """Examples whose id was seen before."""
    waiting: int = 0
    """Predictions now waiting for their feedback."""
    expired: int = 0
    """Predictions that stopped waiting without a label."""
    out_of_order: int = 0
    """Events whose own time is more than a minute before that of an event that was taken earlier."""


DELAY_EDGES_S = (
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0),
    *(60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 14_400.0, 21_600.0, 43_200.0),
    *(86_400.0, 172_800.0, 345_600.0, 604_800.0, 1_209_600.0, 2_592_000.0),
)
"""Upper ends of the delay histogram's buckets in seconds, from ten milliseconds to 30 days; one more lies beyond."""


class FeedbackDelays(msgspec.Struct, frozen=True, kw_only=True):
    """How long after its prediction feedback came, by the log's time; late feedback counts, too."""

    counts: tuple[int, ...] = (0,) * (len(DELAY_EDGES_S) + 1)
    """Feedback in each bucket: up to and including its edge, and above the edge before."""
    total_s: float = 0.0
    """Sum of all delays."""
    longest_s: float = 0.0

    def quantile_s(self, share: float) -> float:
        """The delay within which this share of feedback came, to the width of a bucket; NaN before the first."""
        total = sum(self.counts)
        if not total:
            return float("nan")
        edges = (0.0, *DELAY_EDGES_S, max(DELAY_EDGES_S[-1], self.longest_s))
        wanted = share * total
        for (low, high), count, until in zip(pairwise(edges), self.counts, accumulate(self.counts), strict=True):
            if count and until >= wanted:
                # As if the delays were spread evenly within their bucket.
                return min(self.longest_s, low + (high - low) * (wanted - (until - count)) / count)
        return self.longest_s
