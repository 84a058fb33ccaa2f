"""What the command line says of the slow tier and of promotions."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.cli.status import base_line
from penstock.cli.versions import _readable, sentence

NONE: dict[str, Any] = {
    "id": None,
    "version": None,
    "promoted": None,
    "training": None,
    "catching_up": None,
    "shadow": None,
    "settled": 0,
    "outcome": "",
    "failure": "",
}
BASE = "0123456789abcdef" * 4
PROMOTED = {"id": BASE, "version": 1812, "promoted": 1000.0}
TRAINING = {"training": {"number": 2, "reason": "drift", "since": 4000.0}}
SHADOW = {"shadow": {"number": 2, "since": 0.0, "events": 12_345, "evidence": 7.25, "gain": 0.00312}}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "none yet"),
        (TRAINING, "none yet; consolidating (number 2, drift) for 10 min"),
        ({"catching_up": 2}, "none yet; number 2 catches up with the stream"),
        (PROMOTED, "0123456789ab, promoted as version 1,812 1 h ago"),
        (
            PROMOTED | SHADOW,
            "0123456789ab, promoted as version 1,812 1 h ago; number 2 in shadow for 12,345 events, evidence 7.25 to 1 "
            "(gain +0.0031 an event)",
        ),
        (
            PROMOTED | {"configuration": {"half_lives": "[64, inf]", "tree_window": "0"}},
            "0123456789ab, promoted as version 1,812 1 h ago; a challenge has put in force half_lives [64, inf], "
            "tree_window 0",
        ),
        (
            {"shadow": SHADOW["shadow"] | {"changes": ["learn.tree_window 0 instead of 4096"]}},
            "none yet; number 2 (learn.tree_window 0 instead of 4096) in shadow for 12,345 events, evidence 7.25 to 1 "
            "(gain +0.0031 an event)",
        ),
        (
            {"training": {"number": 2, "reason": "challenge", "since": 4000.0}},
            "none yet; other settings learn the log (number 2, challenge) for 10 min",
        ),
        ({"failure": "Error: x", "failed": "challenge"}, "none yet; the last challenge failed: Error: x"),
        ({"failure": "Traceback\nError: no room"}, "none yet; the last training failed: Error: no room"),
        ({"outcome": "The new base is given up: x."}, "none yet; The new base is given up: x."),
    ],
)
def test_the_slow_tier_in_one_line(more: dict[str, Any], expected: str) -> None:
    assert base_line(NONE | more, now=4600.0) == expected


def test_a_promotion_is_explained_by_its_bases_its_evidence_and_its_cost() -> None:
    receipt: dict[str, Any] = {
        "version": 1812,
        "parent": 1811,
        "cause": "promotion",
        "ranges": [[0, 5, 9]],
        "events": 4,
        "verdict": "The new base is promoted: evidence 21 to 1.",
        "time": 0.0,
        "weights": "",
        "base": BASE,
        "parent_base": "",
        "consolidation": {
            "number": 3,
            "cause": "schedule",
            "trained": 20_000,
            "shadow_events": 900,
            "evidence": 21.0,
            "seconds": 61.0,
            "cpu_s": 58.4,
        },
    }
    assert sentence("fraud", receipt) == (
        "Version 1,812 of fraud reads base 0123456789ab where version 1,811 had no base: "
        "The new base is promoted: evidence 21 to 1."
    )
    shown = _readable(receipt)
    assert shown["consolidation_shown"] == ("number 3 (schedule), on 20,000 events, in 61 s, 58 s of processor time")
    assert shown["base_shown"] == BASE
    assert shown["parent_base_shown"] is None
