"""One challenge of a service, from its folder: other settings of the fast tier learn the log, and leave a candidate.

It goes the way of a consolidation, and trains nothing: the base stays what it is, and heads, memories and trees are
made anew by the settings, of all labelled events that the log has. It writes nothing that anybody else writes, and what
it reads is held against being forgotten. Stopped at any point, the same call begins again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from penstock.errors import TrainingFailed
from penstock.learn.configuration import Configuration
from penstock.learn.fast.model import FastModel
from penstock.learn.interface import HeldOut
from penstock.learn.ready import ReadyManifest, read_ready_manifest, ready_numbers
from penstock.learn.slow.artifact import with_configuration
from penstock.learn.slow.consolidate import Work, at_work
from penstock.learn.slow.judge import Judged, judge
from penstock.learn.slow.reservoir import Reservoir
from penstock.learn.slow.train import never
from penstock.learn.steps import Reached, nothing
from penstock.spec import Spec


def challenge(
    spec: Spec,
    folder: Path,
    configuration: Configuration,
    changes: tuple[str, ...],
    *,
    number: int,
    reason: str,
    stop: Callable[[], bool] = never,
    now: Callable[[], float] = time.time,
    reached: Reached = nothing,
) -> ReadyManifest | None:
    """Have a model with these settings learn the log of the service in this folder, and leave a caught-up candidate
    under ``ready/<number>``; ``changes`` are for people.

    None where ``stop`` said so; the same call, with the same number, begins again. A number that stands ready already
    is left as it is. Raises TrainingFailed where nothing was learned yet, BaseMissing, CheckpointDamaged, and whatever
    reading the log and the journal raises."""
    place = folder / "consolidation"
    if number in ready_numbers(place):
        return read_ready_manifest(place, number)
    with at_work(spec, folder, stop) as work:
        # 1. Keep what is read from being forgotten, and read what is new into the reservoir.
        work.begin()
        kept = work.read(number)
        reached("challenge.read")
        if kept is None:
            return None
        # 2. The settings are kept with the base that the learner is on.
        checkpoint = work.begin()
        parent = work.parent(checkpoint)
        numbered = msgspec.structs.replace(configuration, number=number)
        base = work.bases.put(with_configuration(parent, spec, numbered))
        reached("challenge.configured")
        # 3. Have them learn the past, up to the checkpoint.
        model = work.rebuild(checkpoint, base.id, kept)
        if model is None:
            return None
        if not work.relearned:
            raise TrainingFailed(reason="there is no labelled event yet from which the new settings could learn")
        reached("challenge.rebuilt")
        # 4. Ask the old events that are held out of the training of bases what was forgotten.
        if parent is not None and parent.network and kept.reservoir.held_out is not None:
            model.hear(kept.reservoir.held_out.batch)
        judged = _judged(spec, work, work.model_of(checkpoint), model, kept.reservoir)
        # 5. Catch up with the steps since the checkpoint, and hand it over.
        is_left = work.leave(
            checkpoint,
            model,
            reached,
            number=number,
            reason=reason,
            base=base.id,
            held_out=judged.held_out,
            changes=changes,
            events=work.relearned,
            trained_until=tuple(sorted(checkpoint.position.items())),
            made_at=now(),
            details={"relearned": work.relearned, "before": judged.before, "after": judged.after},
        )
        reached("challenge.end")
        return read_ready_manifest(place, number) if is_left else None


def _judged(spec: Spec, work: Work, before: FastModel, after: FastModel, reservoir: Reservoir) -> Judged:
    """What the new settings have forgotten. Both models have learned these events, and what remembers more would win
    on them whatever it is worth on new ones: that does not count."""
    if reservoir.held_out is None:
        none = HeldOut(events=0, gained=0, lost=0, forgotten=0.0, of="new configuration")
        return Judged(none, before={}, after={})
    judged = judge(spec, before, after, reservoir.held_out.batch, work.bases, work.outside)
    claim = msgspec.structs.replace(judged.held_out, gained=0, lost=0, of="new configuration")
    return replace(judged, held_out=claim)
