"""Guards: faults of an update that need no comparison of versions to be seen."""

from __future__ import annotations

import math

JUMP_MAX = 30.0
"""A step that moves a weight by thirty times the largest one is an explosion, not learning."""


def weights_fault(finite: bool, jump: float) -> str | None:
    """What is wrong with the updated weights, in words."""
    if not finite or not math.isfinite(jump):
        return "weights of the update are not finite"
    if jump > JUMP_MAX:
        return f"a weight moved by {jump:.3g} times the largest one in a single step (at most {JUMP_MAX:g})"
    return None


def named(source: str | None) -> str:
    """A source in words."""
    return "events without a source" if source is None else f"source {source!r}"
