"""Watches what is spent, decides how far each budget holds learning back, and has that done.

One process of the house. It may be killed at any point: what it decided stands in the ledger before anything is done
for it, and what is done stands in files that those who follow them go on reading while it is gone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec

from penstock.control.budget.alerts import blind, due
from penstock.control.budget.ladder import BEGINS, Standing, decide
from penstock.control.budget.limits import PORTFOLIO, Change, Limits, in_force
from penstock.control.changes import take
from penstock.control.courier import channel
from penstock.control.interface import Actuator
from penstock.control.ledger import Ledger, pace_of
from penstock.control.meter.account import charge, count
from penstock.control.meter.bill import LEARNING, ServiceBill, bill_of
from penstock.control.meter.forecast import PeriodName, period_of
from penstock.control.meter.reading import missing, restate
from penstock.control.meter.sample import Counts, Process, Sample
from penstock.control.meter_reader import Heard
from penstock.control.portfolio import House, Portfolio, limits_of
from penstock.control.sensor import folder_gib
from penstock.facts import Throttled
from penstock.learn.steps import Reached, nothing
from penstock.metrics import counted
from penstock.publish.interface import LiveReader
from penstock.publish.notices.allowance import FREE, HEIGHT, Allowance, Limit, Rung
from penstock.publish.notices.costs import Costs, newest
from penstock.spec import Budget, Spec

LOOK_MIN_S, LOOK_MAX_S = 0.25, 5.0
"""Between two looks: the nearer the next rung is at the present speed, the sooner."""
LOOKS_TO_RUNG = 4.0
"""Looks that there are to be before the next rung is reached."""
REACTION_S = 1.0
"""Until those who read what they may do have done it."""
LEASE_SPEED = 2.0
"""Times its present speed that spending may come to while nobody looks."""
LEASE_MAX_S = 60.0
DOWN_EVERY_S = 1.0
"""For so long a rung is kept before the next lower one: a look that a crash repeats is no second look."""
DISK_EVERY_S = 60.0
TOLD_EVERY_S = 5.0
FLOOR_WORKERS = 1
PERIODS: tuple[PeriodName, ...] = ("day", "month")


class Eyes(Protocol):
    """What sees the processes of the house."""

    def look(self, now: float) -> tuple[str, tuple[Process, ...]]:
        """The key of the supervisor, and the processes, at this time of a clock that does not jump."""
        ...


class Governor:
    """Governs the services of one house."""

    def __init__(
        self,
        specs: Sequence[Spec],
        data: Path,
        house: House,
        *,
        sensor: Eyes,
        live: Mapping[str, LiveReader],
        actuator: Actuator,
        ledger: Ledger,
        now: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
        heard: Callable[[], Sequence[Heard]] | None = None,
        reached: Reached = nothing,
    ) -> None:
        """``heard`` says what another system has said since it was last called, where one counts in place of this."""
        self._specs = {spec.name: spec for spec in specs}
        self._data = data
        self._house = house
        self._sensor = sensor
        self._live = live
        self._actuator = actuator
        self._ledger = ledger
        self._heard = heard
        self._now = now
        self._elapsed = elapsed
        self._reached = reached
        self._metered = ledger.metered()
        self._told = ledger.told()
        self._told_at = 0.0
        self._disk: dict[str, float] = {}
        self._disk_at = -DISK_EVERY_S
        self._rungs: dict[str, tuple[Rung, str, float]] = {}
        for scope in (*self._specs, PORTFOLIO):
            last = next(iter(ledger.decisions(scope, newest=1)), None)
            self._rungs[scope] = ("free", "", 0.0) if last is None else _rung_of(last)

    def look(self) -> float:
        """Look once and act on it. Returns the seconds until the next look is due."""
        now = self._now()
        # 1. See, and charge what is new: from here on it is spent, whatever crashes.
        self._count(now)
        self._reached("money.charged")
        # 2. Take up what somebody has changed.
        take(self._data, self._ledger, self._reached)
        changes = self._ledger.changes()
        limits = {scope: self._limits(scope, changes, now) for scope in self._rungs}
        standings = {scope: self._standings(scope, seen, now) for scope, seen in limits.items()}
        # 3. Decide, and write it down before anything is done for it.
        has_moved = False
        for scope, standing in standings.items():
            has_moved |= self._decide(scope, standing, now)
            self._reached("money.decided")
            self._alert(scope, standing, now)
            self._reached("money.alerted")
        # 4. Have it done. This says what is to be, so it also mends what a crash has left half done.
        today = bill_of(self._ledger.charges(period_of("day", now).key)).services
        allowances = {
            name: self._allowance(name, standings, limits[name], today.get(name), now) for name in self._specs
        }
        self._actuator.allow(allowances)
        self._reached("money.allowed")
        self._tell(now)
        everybody = all(allowance.reaches("serving_floor") for allowance in allowances.values())
        self._actuator.serve_with(FLOOR_WORKERS if everybody else None)
        pause_s = self._pause_s([each for standing in standings.values() for each in standing])
        # Who has gone down a rung may go down the next one.
        return min(pause_s, DOWN_EVERY_S) if has_moved else pause_s

    # Seeing -----------------------------------------------------------------------------------------------------------

    def _count(self, now: float) -> None:
        """Charge what was used since the last look, or what another system says was spent."""
        sample = self._sample(now)
        if self._heard is None:
            self._metered, charges = charge(self._metered, sample, self._house.rates)
        else:
            self._metered, charges = count(self._metered, sample)
        self._reached("money.seen")
        self._ledger.enter(self._metered, charges)
        for heard in self._heard() if self._heard is not None else ():
            self._hear(heard)

    def _hear(self, heard: Heard) -> None:
        fault, names = heard.fault, {} if (meter := self._house.portfolio.meter) is None else meter.names
        if heard.reading is not None:
            self._metered, restated = restate(self._metered, heard.reading, self._specs, names)
            if restated is not None:
                self._ledger.restate(self._metered, restated)
                self._reached("money.restated")
            is_newest = heard.reading.day == max(self._metered.outside.days)
            fault = missing(heard.reading, self._specs, names) if is_newest else self._metered.outside.fault
        if fault != self._metered.outside.fault:
            self._metered.outside = msgspec.structs.replace(self._metered.outside, fault=fault)
            self._ledger.enter(self._metered, [])

    def _counted_until(self, scope: str, now: float) -> float:
        """Up to when it is known what a service has spent, or the one of all that is known for the shortest."""
        if self._heard is None:
            return now
        until = self._metered.outside.until
        return min(until.get(name, now) for name in (self._specs if scope == PORTFOLIO else (scope,)))

    def _blind(self, scope: str, now: float) -> str:
        """Why it has not been known for too long what is spent; empty where it is."""
        meter, until = self._house.portfolio.meter, self._counted_until(scope, now)
        if meter is None or now - until <= meter.blind_after_s:
            return ""
        since = datetime.fromtimestamp(until, UTC)
        why = self._metered.outside.fault or f"{meter.source} has not counted it"
        return f"nobody knows what was spent since {since:%Y-%m-%d %H:%M} UTC: {why}"

    def _sample(self, now: float) -> Sample:
        elapsed = self._elapsed()
        if elapsed - self._disk_at >= DISK_EVERY_S:
            self._disk = {name: folder_gib(self._data / name) for name in self._specs}
            self._disk_at = elapsed
        house, processes = self._sensor.look(elapsed)
        predictions = counted(self._data / "run" / "metrics", "penstock_predictions_total")
        counts = {}
        for name, live in self._live.items():
            progress = live.progress()
            counts[name] = Counts(
                predictions=predictions.get(name, 0.0), learned=float(progress.labelled), loss=progress.loss
            )
        return Sample(at=now, elapsed=elapsed, house=house, processes=processes, storage_gib=self._disk, counts=counts)

    # Deciding ---------------------------------------------------------------------------------------------------------

    def _limits(self, scope: str, changes: Sequence[Change], now: float) -> tuple[Limit, Limit]:
        """How its day and its month stand."""
        limits = in_force(scope, self._file_limits(scope), changes, now)
        return self._ledger.limits(scope, limits, pace_of(scope, self._metered.slow), now)

    def _standings(self, scope: str, limits: tuple[Limit, Limit], now: float) -> list[Standing]:
        """Of the periods that have a limit."""
        per_s = pace_of(scope, self._metered.fast).per_s
        if self._heard is not None:
            # What is read once a minute says little of a minute.
            per_s = max(per_s, pace_of(scope, self._metered.slow).per_s)
        uncounted_s = max(0.0, now - self._counted_until(scope, now))
        return [
            Standing(
                period=name,
                key=seen.period,
                limit=seen.limit,
                spent=seen.spent,
                ahead=per_s * (min(uncounted_s, period_of(name, now).past_s) + LOOK_MIN_S + REACTION_S),
                per_s=per_s,
                forecast=seen.forecast,
            )
            for name, seen in zip(PERIODS, limits, strict=True)
            if seen.limit is not None
        ]

    def _file_limits(self, scope: str) -> Limits:
        return self._house.portfolio.limits if scope == PORTFOLIO else limits_of(self._specs[scope])

    def _decide(self, scope: str, standings: Sequence[Standing], now: float) -> bool:
        """Whether it is another rung than before."""
        before, _, since = self._rungs[scope]
        may_stop = self._settings(scope).at_limit == "stop"
        decided = decide(before, standings, may_stop=may_stop, blind=self._blind(scope, now))
        is_lower = HEIGHT[decided.rung] < HEIGHT[before]
        # Where the clock was set back, what is still to come has not just been.
        if decided.rung == before or (is_lower and since <= now < since + DOWN_EVERY_S):
            return False
        inputs = tuple(msgspec.structs.asdict(standing) for standing in standings)
        fact = Throttled(at=now, service=scope, before=before, after=decided.rung, reason=decided.why, inputs=inputs)
        self._ledger.decide(fact)
        self._rungs[scope] = _rung_of(fact)
        return True

    def _alert(self, scope: str, standings: Sequence[Standing], now: float) -> None:
        settings, currency = self._settings(scope), self._house.rates.currency
        alerts = list(due(scope, standings, settings.alert_at, self._told, currency=currency, at=now))
        if standings and (why := self._blind(scope, now)):
            since = self._counted_until(scope, now)
            alerts += blind(scope, standings[0], since, why, self._told, currency=currency, at=now)
        if alerts:
            targets = {
                "webhook": settings.alert_webhook,
                "file": settings.alert_file,
                "command": settings.alert_command,
            }
            self._ledger.alert(alerts, [channel(kind, target) for kind, target in targets.items() if target])
            self._told |= {alert.id for alert in alerts}

    def _settings(self, scope: str) -> Portfolio | Budget:
        return self._house.portfolio if scope == PORTFOLIO else self._specs[scope].budget

    # Acting -----------------------------------------------------------------------------------------------------------

    def _tell(self, now: float) -> None:
        """Say what learning costs, now and then: who asks is told why a version is served, and may wait."""
        if self._told_at <= now < self._told_at + TOLD_EVERY_S:
            return
        self._told_at = now
        costs = {}
        for name in self._specs:
            learner, consolidator = (newest(self._ledger.per_second(name, role)) for role in LEARNING)
            costs[name] = Costs(currency=self._house.rates.currency, learner=learner, consolidator=consolidator)
        self._actuator.tell(costs)

    def _allowance(
        self,
        name: str,
        standings: Mapping[str, Sequence[Standing]],
        limits: tuple[Limit, Limit],
        today: ServiceBill | None,
        now: float,
    ) -> Allowance:
        scope = max((name, PORTFOLIO), key=lambda each: HEIGHT[self._rungs[each][0]])
        rung, why, since = self._rungs[scope]
        day, month = limits
        near = [each for each in standings[scope] if each.share >= BEGINS.get(rung, math.inf)]
        return Allowance(
            rung=rung,
            why=why,
            scope=scope if rung != "free" else "",
            since=since,
            at=now,
            ends=max((now + period_of(each.period, now).left_s for each in near), default=0.0),
            learn_until=self._lease(now, [*standings[name], *standings[PORTFOLIO]]),
            currency=self._house.rates.currency,
            day=day,
            month=month,
            per_hour=3600.0 * pace_of(name, self._metered.slow).per_s,
            per_1000_predictions=today.per_1000_predictions if today else None,
            per_million_learned=today.per_million_learned if today else None,
            machine=self._house.rates.source,
            counted_until=self._counted_until(name, now),
            meter_fault=self._metered.outside.fault if self._heard is not None else "",
        )

    def _lease(self, now: float, standings: Sequence[Standing]) -> float | None:
        """Until when learning may go on if this process is killed now and does not come back."""
        lasts_s = [
            (BEGINS["pause_learning"] - each.share) * each.limit / (LEASE_SPEED * each.per_s)
            for each in standings
            if each.per_s > 0.0 and each.limit > 0.0
        ]
        return now + max(0.0, min([LEASE_MAX_S, *lasts_s])) if standings else None

    def _pause_s(self, standings: Sequence[Standing]) -> float:
        """Until the next rung could be near."""
        pause_s = LOOK_MAX_S
        for standing in standings:
            ahead = [begins - standing.share for begins in BEGINS.values() if begins > standing.share]
            if ahead and standing.per_s > 0.0:
                pause_s = min(pause_s, min(ahead) * standing.limit / standing.per_s / LOOKS_TO_RUNG)
        return max(LOOK_MIN_S, pause_s)


def _rung_of(fact: Throttled) -> tuple[Rung, str, float]:
    rung: Rung = next((rung for rung in HEIGHT if rung == fact.after), FREE.rung)
    return rung, fact.reason, fact.at
