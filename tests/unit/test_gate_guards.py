"""Faults of an update that need no comparison of versions to be seen."""

from __future__ import annotations

from penstock.gate.guards import weights_fault


def test_weights_that_are_broken_are_said_to_be() -> None:
    assert weights_fault(True, 0.5) is None
    assert "finite" in str(weights_fault(False, 0.1))
    assert "finite" in str(weights_fault(True, float("nan")))
    assert "moved" in str(weights_fault(True, 1e6))
