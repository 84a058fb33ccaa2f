"""What operators should know of one entry of the step journal: facts. Of that entry alone, without what came before."""

from __future__ import annotations

from penstock.facts import (
    Consolidated,
    Corrected,
    Drifted,
    Fact,
    GivenUp,
    InputsDrifted,
    Ordered,
    PredictionsDrifted,
    Promoted,
    RaceEnded,
    ShadowStarted,
    Widened,
)
from penstock.learn.steps import ShadowStep, Step

PLACES_NAMED_MAX = 100
"""Events that a fact names at most; the journal names all."""


def news(step: Step, service: str) -> list[Fact]:
    """What was ordered, found and decided, in the order in which it is told."""
    return [
        *_ordered(step, service),
        *_drifted(step, service),
        *_shadow(step, service),
        *_corrected(step, service),
        *_race_ended(step, service),
    ]


def _ordered(step: Step, service: str) -> list[Fact]:
    hand = step.hand
    if hand is None:
        return []
    told, version = step.verdict, step.version
    return [
        Ordered(at=step.time, service=service, what=hand.what, by=hand.by, why=hand.reason, told=told, version=version)
    ]


def _drifted(step: Step, service: str) -> list[Fact]:
    facts: list[Fact] = []
    at = step.time
    if step.drifted is not None:
        before, after, events = step.drifted
        facts.append(Drifted(at=at, service=service, before=before, after=after, events=events))
    if step.departed is not None:
        feature, index, events = step.departed
        facts.append(InputsDrifted(at=at, service=service, base=step.base, feature=feature, index=index, events=events))
    if step.answers_moved is not None:
        column, index, events = step.answers_moved
        facts.append(PredictionsDrifted(at=at, service=service, column=column, index=index, events=events))
    return facts


def _shadow(step: Step, service: str) -> list[Fact]:
    shadow = step.shadow
    if shadow is None:
        return []
    at, number, base, version = step.time, shadow.number, shadow.base, step.version
    events, reason = shadow.events, shadow.reason
    facts: list[Fact] = []
    if not step.ranges and step.hand is None and step.heard is None:
        facts.append(_consolidated(shadow, at, service))
    match shadow.what:
        case "widened":
            facts.append(
                Widened(
                    at=at,
                    service=service,
                    number=number,
                    base=base,
                    version=version,
                    share=shadow.share,
                    events=events,
                    reason=reason,
                )
            )
        case "adopted":
            facts.append(ShadowStarted(at=at, service=service, number=number, base=base, version=version))
        case "promoted":
            facts.append(
                Promoted(
                    at=at, service=service, number=number, base=base, version=version, events=events, reason=reason
                )
            )
        case "given_up":
            facts.append(GivenUp(at=at, service=service, number=number, base=base, events=events, reason=reason))
    return facts


def _consolidated(shadow: ShadowStep, at: float, service: str) -> Consolidated:
    return Consolidated(
        at=at,
        service=service,
        number=shadow.number,
        base=shadow.base,
        cause=shadow.cause,
        trained=shadow.trained,
        seconds=shadow.seconds,
        cpu_s=shadow.cpu_s,
        changes=shadow.changes,
    )


def _corrected(step: Step, service: str) -> list[Fact]:
    if step.corrected is None:
        return []
    places = step.corrected.places
    return [
        Corrected(
            at=step.time,
            service=service,
            version=step.version,
            events=len(places),
            again=step.corrected.again,
            named=places[:PLACES_NAMED_MAX],
        )
    ]


def _race_ended(step: Step, service: str) -> list[Fact]:
    turn = step.apprentice
    if turn is None:
        return []
    return [
        RaceEnded(
            at=step.time,
            service=service,
            what=turn.what,
            of=turn.of,
            version=step.version,
            events=turn.gain[3],
            reason=turn.reason,
        )
    ]
