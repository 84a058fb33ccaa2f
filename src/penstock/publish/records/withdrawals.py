"""Which versions are served no more because something older was served again."""

from __future__ import annotations

from penstock.events import Version
from penstock.facts import RolledBack
from penstock.publish.interface import Receipts

ROLLBACKS_MAX = 10_000
"""As many as facts of a kind are kept."""


def withdrawn_by(version: Version, receipts: Receipts) -> Version | None:
    """The first rollback behind which this version stood; None where there was none."""
    found = receipts.facts(ROLLBACKS_MAX, ("rolled_back",))
    later = [
        fact.version for fact in found if isinstance(fact, RolledBack) and fact.restored < version <= fact.withdrawn
    ]
    return min(later, default=None)
