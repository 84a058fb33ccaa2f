"""What comes out of the join: labelled events in the order in which they became learnable, and counts of the rest."""

from __future__ import annotations

import msgspec


class JoinCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the events taken so far."""

    examples: int = 0
    matched: int = 0
    """Feedback joined to its prediction."""
    unknown: int = 0
    """Feedback that no prediction was found for within the time."""
    early: int = 0
    """Feedback now waiting for its prediction's record."""
    feedback_duplicate: int = 0
    duplicates: int = 0
    """Examples whose id was seen before."""
    waiting: int = 0
    expired: int = 0
    """Predictions that stopped waiting without an answer."""
