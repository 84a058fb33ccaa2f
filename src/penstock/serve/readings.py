"""What of a service is read off logs and learners when metrics are scraped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from penstock.metrics import Reading
from penstock.publish.interface import ApprenticeProgress, Progress
from penstock.publish.notices.allowance import HEIGHT, Allowance
from penstock.serve.health import is_ready
from penstock.serve.served import Service
from penstock.serve.status import learned

FEEDBACK_READINGS = (
    ("learned", "Feedback joined to its prediction", "feedback_learned", True),
    ("early", "Joined feedback that came before its prediction's record", "feedback_early", True),
    ("waiting", "Feedback that waits for its prediction's record", "feedback_waiting", False),
    ("late", "Feedback to a prediction that had stopped waiting", "feedback_late", True),
    ("corrected", "Feedback that gave another label", "feedback_corrected", True),
    ("retracted", "Feedback that took a label back", "feedback_retracted", True),
    ("duplicate", "Feedback that says nothing new", "feedback_duplicate", True),
    ("unknown", "Feedback to no prediction or example", "feedback_unknown", True),
)
"""Names, explanations, fields of the progress, and whether they only grow."""
CORRECTION_READINGS = (
    ("made_good", "Events of which the model is as if their label had been known at first", "applied", True),
    ("to_make_good", "Events of which it will be", "waiting", False),
    ("too_long_ago", "Corrections and retractions that reach the slow tier alone", "beyond", True),
    ("aside", "Corrections and retractions of events that are set aside", "aside", True),
    ("learned_again", "Events that were learned again to make others good", "again", True),
)
"""The same of the progress's corrections."""


def readings(services: Iterable[Service]) -> list[Reading]:
    """What is read off logs and learners when metrics are scraped."""
    seen = [(service.spec.name, service.log.counts(), service.live.progress(), service) for service in services]

    def reading(name: str, explanation: str, values: dict[str, float], grows: bool = False) -> Reading:
        return Reading(f"penstock_{name}", explanation, values, grows=grows)

    return [
        reading("log_examples", "Examples durable", {n: c.examples for n, c, _, _ in seen}, True),
        reading("log_feedback", "Feedback durable", {n: c.feedback for n, c, _, _ in seen}, True),
        reading("log_predictions", "Predictions durable", {n: c.predictions for n, c, _, _ in seen}, True),
        reading("events_learned", "Events that changed the model", {n: learned(p) for n, _, p, _ in seen}, True),
        reading("impossible", "Events set aside as impossible", {n: p.aside.impossible for n, _, p, _ in seen}, True),
        reading("suspicious", "Events set aside as not believed", {n: p.aside.suspicious for n, _, p, _ in seen}, True),
        reading("flood", "Events set aside as too many of one source", {n: p.aside.flood for n, _, p, _ in seen}, True),
        reading("quarantine_events", "Events that can be released", {n: p.aside.waiting for n, _, p, _ in seen}),
        *(
            reading(f"feedback_{name}", words, {n: getattr(p, field) for n, _, p, _ in seen}, grows)
            for name, words, field, grows in FEEDBACK_READINGS
        ),
        *(
            reading(f"corrections_{name}", words, {n: getattr(p.corrections, field) for n, _, p, _ in seen}, grows)
            for name, words, field, grows in CORRECTION_READINGS
        ),
        *(
            reading(
                f"feedback_delay_{name}_seconds",
                "Within which that share of answers came",
                {n: p.feedback_delays_s[place] for n, _, p, _ in seen},
            )
            for place, name in enumerate(("p50", "p90", "p99"))
        ),
        reading("predictions_waiting", "Predictions that wait", {n: p.predictions_waiting for n, _, p, _ in seen}),
        reading("predictions_expired", "Without a label", {n: p.predictions_expired for n, _, p, _ in seen}, True),
        reading("predictions_implicit", "Labelled by default", {n: p.implicit_learned for n, _, p, _ in seen}, True),
        reading("events_out_of_order", "By their own time", {n: p.out_of_order for n, _, p, _ in seen}, True),
        reading("lag_events", "Durable events not taken yet", {n: s.lag() for n, _, _, s in seen}),
        reading("version", "The version that answers", {n: p.version for n, _, p, _ in seen}),
        reading("versions_published", "Versions published", {n: p.versions_published for n, _, p, _ in seen}, True),
        reading("updates_held", "Updates that the gate held back", {n: p.updates_held for n, _, p, _ in seen}, True),
        reading("rollbacks", "Returns to the last good version", {n: p.rollbacks for n, _, p, _ in seen}, True),
        reading(
            "held_by_hand", "Whether somebody holds updates back", {n: float(p.hold is not None) for n, _, p, _ in seen}
        ),
        reading("loss", "Prequential loss in [0, 1]", {n: p.loss for n, _, p, _ in seen}),
        reading("forgotten", "Lost on anchors, where it is the most", {n: _lost(p) for n, _, p, _ in seen}),
        reading("inputs_drift", "From what the base was trained on", {n: _departed(p) for n, _, p, _ in seen}),
        reading("predictions_drift", "From the answers before", {n: _moved(p) for n, _, p, _ in seen}),
        reading("canary_share", "Of the traffic, what a new base answers", {n: p.slow.share for n, _, p, _ in seen}),
        reading(
            "canary_answers", "Predictions from a new base", {n: p.slow.share_counts.answered for n, _, p, _ in seen}
        ),
        *_race_readings({n: p.apprentice for n, _, p, _ in seen if p.apprentice is not None}),
        *_money_readings({n: s.allowance() for n, _, _, s in seen}),
        reading("ready", "Whether it answers", {n: float(is_ready(s)) for n, _, _, s in seen}),
    ]


def _race_readings(races: Mapping[str, ApprenticeProgress]) -> list[Reading]:
    """How services compare with the systems that were there before."""

    def reading(name: str, explanation: str, of: Callable[[ApprenticeProgress], float], grows: bool = False) -> Reading:
        return Reading(
            f"penstock_apprentice{name}", explanation, {n: float(of(race)) for n, race in races.items()}, grows=grows
        )

    if not races:
        return []
    return [
        reading("", "Whether another system's answers are to be used", lambda race: race.is_apprentice),
        reading("_compared", "Events answered by both", lambda race: race.compared, True),
        reading("_race_events", "Those of the race that is on", lambda race: race.events),
        reading("_gain", "The other's loss minus our own, an event of the race", lambda race: race.gain.mean),
        reading("_gain_low", "What it is at least", lambda race: race.gain.low),
        reading("_gain_high", "What it is at most", lambda race: race.gain.high),
        reading("_evidence", "That ends the race, to 1, so far", lambda race: race.evidence),
        reading("_evidence_wanted", "What ends it", lambda race: race.evidence_wanted),
        reading("_graduations", "Times that it was shown to be better", lambda race: race.graduated, True),
    ]


def _money_readings(allowances: Mapping[str, Allowance]) -> list[Reading]:
    """What services cost, in the currency of the price list; a limit that there is not is none."""

    def of(period: Literal["day", "month"], field: str) -> dict[str, float]:
        found = {name: getattr(allowance, period) for name, allowance in allowances.items()}
        values = {name: getattr(limit, field) for name, limit in found.items() if limit is not None}
        return {name: value for name, value in values.items() if value is not None}

    periods: tuple[Literal["day", "month"], ...] = ("day", "month")
    return [
        *(Reading(f"penstock_cost_{period}", f"Spent this {period} (UTC)", of(period, "spent")) for period in periods),
        *(
            Reading(f"penstock_cost_{period}_limit", f"What may be spent this {period}", of(period, "limit"))
            for period in periods
        ),
        *(
            Reading(f"penstock_cost_{period}_forecast", f"At the end of this {period}", of(period, "forecast"))
            for period in periods
        ),
        Reading("penstock_cost_per_hour", "At present", {n: a.per_hour for n, a in allowances.items()}),
        Reading(
            "penstock_cost_age_seconds",
            "For which it is not known what was spent",
            {n: max(0.0, time.time() - a.counted_until) for n, a in allowances.items() if a.counted_until},
        ),
        Reading(
            "penstock_budget_rung",
            "0 free, 1 alert, 2 and 3 consolidation slowed and paused, 4 and 5 learning less and paused, "
            "6 serving floor, 7 stopped",
            {n: float(HEIGHT[a.rung]) for n, a in allowances.items()},
        ),
    ]


def _departed(progress: Progress) -> float:
    return math.nan if progress.departed is None else progress.departed.index


def _moved(progress: Progress) -> float:
    return math.nan if progress.moved is None else progress.moved.index


def _lost(progress: Progress) -> float:
    return math.nan if progress.forgotten is None else progress.forgotten.lost
