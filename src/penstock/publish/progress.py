"""How far a learner is, put together from its parts."""

from __future__ import annotations

from penstock.learn.learner import Learner
from penstock.learn.prequential import Prequential
from penstock.learn.quarantine import AsideCounts
from penstock.publish.interface import Progress, SlowTier
from penstock.publish.records.account import Account

HOLDING_TOLD_MAX = 1000
"""Characters of a reason to hold that are told: a hold by hand stands beside it in full."""


def progress_of(
    learner: Learner, account: Account, prequential: Prequential, slow: SlowTier, aside: AsideCounts, time: float
) -> Progress:
    """Everything that was taken so far, what is not recorded yet included; ``time`` is that of the last step."""
    counts, delays = learner.join.counts, learner.join.delays
    return Progress(
        position=dict(learner.position),
        examples_learned=counts.examples,
        feedback_learned=counts.matched + counts.late_learned,
        feedback_early=counts.early_matched,
        feedback_late=counts.late,
        feedback_late_learned=counts.late_learned,
        feedback_corrected=counts.corrected,
        feedback_retracted=counts.retracted,
        feedback_delays_s=(delays.quantile_s(0.5), delays.quantile_s(0.9), delays.quantile_s(0.99)),
        implicit_learned=counts.implicit,
        out_of_order=counts.out_of_order,
        feedback_unknown=counts.unknown,
        feedback_waiting=counts.early,
        feedback_duplicate=counts.feedback_duplicate,
        duplicates=counts.duplicates,
        set_aside=learner.set_aside,
        aside=aside,
        doubted=doubted_of(learner),
        predictions_waiting=counts.waiting,
        predictions_expired=counts.expired,
        version=account.version,
        versions_published=int(account.version),
        updates_held=account.held,
        rollbacks=account.rollbacks,
        loss=prequential.loss.mean,
        accuracy=prequential.accuracy.mean,
        error=prequential.error.mean,
        hamming_loss=prequential.hamming_loss.mean,
        micro_f1=prequential.micro_f1,
        holding=bool(account.holding),
        holding_why=account.holding[:HOLDING_TOLD_MAX],
        time=time,
        slow=slow,
    )


DOUBTED_TOLD = 16
"""Sources that are told of; there is no room for long lists, and more are never doubted at once without one cause."""


def doubted_of(learner: Learner) -> tuple[str, ...]:
    """The sources that are not believed, as far as there is room for them; an empty name for events without one."""
    return tuple((source or "")[:100] for source in learner.doubted)[:DOUBTED_TOLD]
