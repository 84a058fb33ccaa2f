"""What hindsight is taken to be worth, in `penstock bench control`."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.cli.benchmarks.control_policy import Policy, Stretch, Traffic, _best, _ratio, _run, tables, words


def policy(replicas: float, late: float) -> Policy:
    return Policy(policy="tried", late=late, replicas=replicas)


def test_the_envelope_holds_what_no_other_beats_in_both() -> None:
    tried = [policy(4, 0.5), policy(6, 0.1), policy(6, 0.2), policy(7, 0.1), policy(8, 0.3), policy(9, 0.0)]
    assert [(best.replicas, best.late) for best in _best(tried)] == [(4, 0.5), (6, 0.1), (9, 0.0)]


def test_ours_is_compared_with_the_fewest_that_are_late_no_more_often() -> None:
    envelope = [policy(4, 0.5), policy(6, 0.1), policy(10, 0.02)]
    assert _ratio(policy(5, 0.1), envelope) == pytest.approx(5 / 6)
    assert _ratio(policy(5, 0.09), envelope) == pytest.approx(0.5)
    assert _ratio(policy(5, 0.01), envelope) is None


def test_only_what_is_reported_counts() -> None:
    # Ten at once before the report, one by one in it: one replica is late with those alone that are not counted.
    arrivals = np.array([*np.zeros(10), 200.0, 300.0])
    load = Traffic(
        name="few",
        arrivals=arrivals,
        services=np.full(12, 10.0),
        reported_from_s=150.0,
        until_s=400.0,
        concurrency=1,
        counts=(1,),
        floors=(),
        promises=(),
    )
    found = _run(load, 5.0, "one", 1, None, np.inf)
    assert (found.late, found.replicas) == (0.0, 1.0)
    stretch = Stretch(
        traffic="few", requests=2, start_s=5.0, rows=[found], objects=[found], envelope=[found], ordered=[found]
    )
    assert words([stretch])
    assert [len(rows) for rows in tables([stretch]).values()] == [3]
