"""What is compared with the incumbent: the reply that was given, or what is served; and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from penstock.eventlog.interface import Entry
from penstock.events import Batch, Kind, Offset, Partition, encode
from penstock.publish.interface import ApprenticeProgress
from penstock.publish.publisher import Publisher
from penstock.replies import Replies
from penstock.spec import Apprentice, ClassName, Gate, Label, Spec
from penstock.testing.memory_log import MemoryLog
from penstock.testing.small_house import SPEC as SMALL
from penstock.testing.small_house import build_publisher, filled_log

SPEC = msgspec.structs.replace(SMALL, gate=Gate(apprentice=Apprentice(of="rules")))
YES, NO = ClassName("yes"), ClassName("no")
P0 = Partition(0)


def batch_of(kind: Kind, ids: Sequence[str], label: ClassName | None = None, incumbent: str | None = None) -> Batch:
    """Events that all look alike."""
    n = len(ids)
    return Batch(
        kind=kind,
        times=np.zeros(n),
        ids=list(ids),
        sources=None,
        numbers=np.empty((n, 0)) if kind is Kind.FEEDBACK else np.ones((n, 2)),
        vectors=(),
        strings=(),
        labels=None if label is None else [label] * n,
        versions=np.ones(n, np.uint64) if kind is Kind.PREDICTION else None,
        incumbents=None if incumbent is None else [incumbent] * n,
    )


def log_of(*batches: Batch, apart_s: float = 0.0) -> MemoryLog:
    """These one after the other, so many seconds apart."""
    times = iter(range(len(batches)))
    log = MemoryLog(clock=lambda: 1000.0 + apart_s * next(times))
    writer = log.writer(P0)
    for batch in batches:
        writer.append([Entry(kind=batch.kind, count=len(batch), payload=encode(batch))])
    return log


def learned(folder: Path, log: MemoryLog, script: Sequence[str] = ("publish",), spec: Spec = SPEC) -> Publisher:
    folder.mkdir()
    publisher = build_publisher(folder, log, script=script, spec=spec)
    publisher.start()
    while publisher.step() or publisher.has_backlog():
        pass
    return publisher


def compared(
    folder: Path, log: MemoryLog, script: Sequence[str] = ("publish",), spec: Spec = SPEC
) -> ApprenticeProgress:
    publisher = learned(folder, log, script, spec)
    found = publisher.progress.apprentice
    publisher.close()
    assert found is not None
    return found


TAUGHT = batch_of(Kind.EXAMPLE, [f"e{i}" for i in range(28)], YES)
"""After these events the model says yes."""


def test_a_prediction_is_compared_by_what_was_answered_and_not_by_what_would_be_answered_now(tmp_path: Path) -> None:
    asked = batch_of(Kind.PREDICTION, ["p", "q"])
    told = batch_of(Kind.FEEDBACK, ["p", "q"], YES, "yes")
    said_no = replace(asked, replies=Replies(np.array([[0.9, 0.1], [0.8, 0.2]], np.float32), (NO, YES)))
    found = compared(tmp_path / "kept", log_of(TAUGHT, said_no, told))
    assert (found.compared, found.loss, found.incumbent_loss) == (2, 1.0, 0.0)
    # Where the record does not say it, the version that is served is asked.
    found = compared(tmp_path / "unknown", log_of(TAUGHT, asked, told))
    assert (found.compared, found.loss, found.incumbent_loss) == (2, 0.0, 0.0)


def test_what_was_said_with_the_question_is_held_against_the_answer_and_against_none(tmp_path: Path) -> None:
    asked = batch_of(Kind.PREDICTION, ["p", "q"], incumbent="no")
    told = batch_of(Kind.FEEDBACK, ["p"], YES)
    found = compared(tmp_path / "told", log_of(TAUGHT, asked, told))
    assert (found.compared, found.loss, found.incumbent_loss) == (1, 0.0, 1.0)
    # The word that comes with the label is the later one.
    found = compared(tmp_path / "twice", log_of(TAUGHT, asked, replace(told, incumbents=["yes"])))
    assert (found.compared, found.loss, found.incumbent_loss) == (1, 0.0, 0.0)
    # No answer is one, too, where the service says so; only what was said with the question is known then.
    silent = msgspec.structs.replace(SPEC, label=Label(wait_s=30.0, implicit=NO))
    found = compared(tmp_path / "silent", log_of(TAUGHT, asked, TAUGHT, apart_s=40.0), spec=silent)
    assert (found.compared, found.loss, found.incumbent_loss) == (2, 1.0, 0.0)


def test_an_example_is_compared_by_what_is_served_and_not_by_what_is_learned_meanwhile(tmp_path: Path) -> None:
    later = batch_of(Kind.EXAMPLE, ["x", "y"], YES, "no")
    found = compared(tmp_path / "published", log_of(TAUGHT, later))
    assert (found.compared, found.loss, found.incumbent_loss) == (2, 0.0, 1.0)
    # The empty model is served still: it knows no class.
    found = compared(tmp_path / "held", log_of(TAUGHT, later), ("hold",))
    assert (found.compared, found.loss, found.incumbent_loss) == (2, 1.0, 1.0)


def test_what_nobody_has_said_of_is_compared_with_nothing(tmp_path: Path) -> None:
    some = replace(batch_of(Kind.EXAMPLE, ["x", "y", "z"], YES), incumbents=[None, "yes", None])
    assert compared(tmp_path / "some", log_of(TAUGHT, some)).compared == 1


def test_what_was_compared_stays_compared_whatever_is_said_of_the_label_later(tmp_path: Path) -> None:
    one = batch_of(Kind.EXAMPLE, ["y"], YES, "yes")
    corrected = batch_of(Kind.FEEDBACK, ["y"], NO, "no")
    others = batch_of(Kind.EXAMPLE, [f"o{i}" for i in range(28)], YES)
    found = compared(tmp_path / "later", log_of(TAUGHT, one, others, corrected))
    assert (found.compared, found.incumbent_loss) == (1, 0.0)
    # A label that was right before it was learned is the only one that there was.
    found = compared(tmp_path / "before", log_of(TAUGHT, one, corrected))
    assert (found.compared, found.incumbent_loss) == (1, 1.0)


def test_what_is_learned_again_is_learned_without_what_was_answered(tmp_path: Path) -> None:
    publisher = learned(tmp_path / "house", log_of(batch_of(Kind.EXAMPLE, ["x"], YES, "yes")))
    features = publisher._learner.features(P0, [Offset(0)])
    publisher.close()
    assert (features.incumbents, features.replies) == (None, None)


def test_the_race_begins_anew_where_a_source_is_taken_out(tmp_path: Path) -> None:
    log = filled_log(6, ("a", "b"), has_incumbent=True)
    usual = compared(tmp_path / "usual", log, ("publish", "probation", "good", "publish"))
    apart = compared(tmp_path / "apart", log, ("publish", "probation", "good", "apart", "believe"))
    assert usual.race == 1
    assert apart.race > 1
    assert apart.events < usual.events
