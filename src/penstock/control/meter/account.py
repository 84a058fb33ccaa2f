"""Samples become charges: each counter is charged by how much it has grown since it was last charged.

So a sample that comes twice charges nothing the second time, and what a lost one would have charged is in the next. A
process that ended between two looks has left its processor time with the one that waited for it: what is more there
than was charged before is charged to those that have gone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

import msgspec

from penstock.control.meter.rates import Rates
from penstock.control.meter.sample import HOUSE_ROLES, Counts, Process, Resource, Sample

FAST_S, SLOW_S = 60.0, 3600.0
"""Seconds over which the two rates of spending forget: the fast one says what comes in the next moments, the slow one
what comes in days."""
KEPT_DAYS = 40
"""Days of which it is remembered what another system said: more than it is asked for again."""
MACHINE = "machine"
"""The resource under which the price of the whole machine stands."""


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was used, on one day."""

    day: str
    """As 2026-07-31, in UTC."""
    service: str
    """Empty for the house itself."""
    role: str
    resource: str
    """One of `Resource`, ``machine``, or a count: ``predictions``, ``learned``."""
    amount: float
    """Core seconds, GiB seconds, device seconds, or how many."""
    cost: float


class Known(msgspec.Struct, kw_only=True):
    """What was charged of a process."""

    process: Process
    reaped_s: float = 0.0
    """Of its children that have gone: processor time that was charged."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """Money and time, both forgotten at the same speed: their ratio is a mean that has no start to it."""

    cost: float = 0.0
    seconds: float = 0.0

    @property
    def per_s(self) -> float:
        return self.cost / self.seconds if self.seconds > 0 else 0.0

    def after(self, cost: float, seconds: float, memory_s: float) -> Pace:
        """The pace when so much more was spent in so many more seconds."""
        kept = math.exp(-seconds / memory_s)
        return Pace(cost=kept * self.cost + cost, seconds=kept * self.seconds + seconds)


class WordOnDay(msgspec.Struct, frozen=True, kw_only=True):
    """What another system said last of a day."""

    at: float
    """When it was asked, in seconds since 1970."""
    totals: dict[str, float]
    """What each service had cost."""


class Outside(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be remembered where another system counts."""

    days: dict[str, WordOnDay] = {}
    until: dict[str, float] = {}
    """Seconds since 1970 up to which each service was counted, or since when it waits to be."""
    fault: str = ""
    """Why nothing is heard of it; empty while it answers."""

    def told(self, day: str, at: float, totals: Mapping[str, float]) -> Outside:
        """The same when this was said of a day; of the days before it no more than KEPT_DAYS are remembered."""
        known = self.days.get(day)
        word = WordOnDay(at=at, totals={**(known.totals if known else {}), **totals})
        days = dict(sorted({**self.days, day: word}.items())[-KEPT_DAYS:])
        return msgspec.structs.replace(self, days=days)


class Metered(msgspec.Struct, kw_only=True):
    """What has to be remembered between two samples."""

    at: float = 0.0
    elapsed: float = 0.0
    house: str = ""
    known: dict[str, Known] = {}
    storage_gib: dict[str, float] = {}
    counts: dict[str, Counts] = {}
    fast: dict[str, Pace] = {}
    slow: dict[str, Pace] = {}
    outside: Outside = Outside()


def count(before: Metered, sample: Sample) -> tuple[Metered, list[Charge]]:
    """What was done since the last sample, where another system says what it cost. Its figures do not know of the time
    while nothing runs, so that of a new house nothing is taken to have been spent before it began."""
    if not _is_newer(before, sample):
        return before, []
    outside, is_new = before.outside, sample.house != before.house
    until = {name: sample.at if is_new else outside.until.get(name, sample.at) for name in sample.counts}
    after = msgspec.structs.replace(
        before,
        at=sample.at,
        elapsed=sample.elapsed,
        house=sample.house,
        # Whoever counts here next begins with the processes that there are then.
        known={},
        storage_gib={},
        counts={**before.counts, **sample.counts},
        outside=msgspec.structs.replace(outside, until=until),
    )
    return after, list(_counted(before, sample, _day(sample.at)))


def charge(before: Metered, sample: Sample, rates: Rates) -> tuple[Metered, list[Charge]]:
    """What is to be charged for this sample, and what to remember. One that is not newer than the last charges
    nothing."""
    if not _is_newer(before, sample):
        return before, []
    used = [*_processor(before, sample), *_held(before, sample)]
    day = _day(sample.at)
    shares = _shares(before, sample)
    totals: defaultdict[tuple[str, str, str], float] = defaultdict(float)
    for service, role, resource, amount in used:
        if service or role in HOUSE_ROLES:
            totals[service, role, resource] += amount
        else:
            for each, share in shares.items():
                totals[each, role, resource] += share * amount
    unit = {"cpu": rates.core_h, "memory": rates.gib_h, "gpu": rates.gpu_h, "storage": rates.storage_gib_h}
    charges = [
        Charge(day=day, service=s, role=r, resource=x, amount=amount, cost=amount / 3600.0 * unit[x])
        for (s, r, x), amount in totals.items()
        if amount
    ]
    up_s = _up_s(before, sample)
    charges.append(
        Charge(day=day, service="", role="", resource=MACHINE, amount=up_s, cost=up_s / 3600.0 * rates.machine_h)
    )
    charges += _counted(before, sample, day)
    return _after(before, sample, charges, up_s), charges


def _is_newer(before: Metered, sample: Sample) -> bool:
    """Whether there is something new in a sample. Somebody may have set the clock of the day back: that is no reason to
    count nothing until it has come as far again."""
    if _is_one_clock(before, sample):
        return sample.elapsed > before.elapsed
    return sample.at > before.at or sample.house != before.house


def _is_one_clock(before: Metered, sample: Sample) -> bool:
    """Whether the clock that does not jump has gone on since: it begins anew when the machine does."""
    return bool(sample.house and before.elapsed) and sample.house == before.house


def _passed_s(before: Metered, sample: Sample) -> float:
    """Seconds since the last sample. While the house is the same a clock that was set in between changes nothing."""
    if not before.at:
        return 0.0
    if _is_one_clock(before, sample):
        return sample.elapsed - before.elapsed
    return max(0.0, sample.at - before.at)


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def _processor(before: Metered, sample: Sample) -> Iterator[tuple[str, str, Resource, float]]:
    """Processor time since the last sample: of those that are there, then of those that have gone."""
    here = {process.key: process for process in sample.processes}
    for process in sample.processes:
        known = before.known.get(process.key)
        yield _whose(process, max(0.0, process.cpu_s - (known.process.cpu_s if known else 0.0)))
    for parent, (gone, rest_s) in _left_behind(before, here).items():
        heirs = [known.process for known in gone] or [here[parent]]
        weights = [max(heir.cpu_s, 1e-9) for heir in heirs]
        for heir, weight in zip(heirs, weights, strict=True):
            yield _whose(heir, rest_s * weight / sum(weights))


def _whose(process: Process, amount: float) -> tuple[str, str, Resource, float]:
    return process.service, process.role, "cpu", amount


def _left_behind(before: Metered, here: Mapping[str, Process]) -> dict[str, tuple[list[Known], float]]:
    """For each process that waits for others: which have gone, and their processor time that was never charged."""
    gone: defaultdict[str, list[Known]] = defaultdict(list)
    certain: defaultdict[str, float] = defaultdict(float)
    possible: defaultdict[str, list[float]] = defaultdict(list)
    for key, known in before.known.items():
        if key in here:
            continue
        charged_s = known.process.cpu_s + known.reaped_s
        parent = known.process.parent
        if parent in here:
            certain[parent] += charged_s
            gone[parent].append(known)
            continue
        while parent and parent not in here:
            parent = before.known[parent].process.parent if parent in before.known else ""
        if parent:
            # Its own parent has gone as well, and may have waited for it before or not.
            possible[parent].append(charged_s)
            gone[parent].append(known)
    found = {}
    for key, process in here.items():
        booked_s = before.known[key].reaped_s if key in before.known else 0.0
        rest_s = process.reaped_cpu_s - booked_s - certain[key]
        for charged_s in sorted(possible[key], reverse=True):
            rest_s -= charged_s if rest_s >= charged_s else 0.0
        if rest_s > 0.0:
            found[key] = (gone[key], rest_s)
    return found


def _held(before: Metered, sample: Sample) -> Iterator[tuple[str, str, Resource, float]]:
    """Memory, devices and disk for the time since the last sample, by the mean of what was held at both."""
    passed_s = _passed_s(before, sample)
    for process in sample.processes:
        known = before.known.get(process.key)
        earlier = known.process if known else process
        held_s = passed_s if known else max(0.0, sample.at - process.started)
        held_s = min(held_s, passed_s) if before.at else held_s
        yield process.service, process.role, "memory", held_s * (earlier.memory_gib + process.memory_gib) / 2.0
        yield process.service, process.role, "gpu", held_s * (earlier.gpus + process.gpus) / 2.0
    for service, gib in sample.storage_gib.items():
        yield service, "", "storage", passed_s * (before.storage_gib.get(service, gib) + gib) / 2.0


def _shares(before: Metered, sample: Sample) -> dict[str, float]:
    """What each service has of what all share: as it was asked and taught; alike where nobody was."""
    done = {name: sum(_grown(before, sample, name)) for name in sample.counts}
    if not done:
        return {}
    whole = sum(done.values())
    return {name: count / whole if whole else 1.0 / len(done) for name, count in done.items()}


def _grown(before: Metered, sample: Sample, service: str) -> tuple[float, float]:
    """Predictions and learned events since the last sample."""
    now, then = sample.counts[service], before.counts.get(service, Counts())
    predictions = now.predictions - (then.predictions if before.house == sample.house else 0.0)
    return max(0.0, predictions), max(0.0, now.learned - then.learned) if service in before.counts else 0.0


def _counted(before: Metered, sample: Sample, day: str) -> Iterator[Charge]:
    for service in sample.counts:
        for resource, amount in zip(("predictions", "learned"), _grown(before, sample, service), strict=True):
            if amount:
                yield Charge(day=day, service=service, role="", resource=resource, amount=amount, cost=0.0)


def _up_s(before: Metered, sample: Sample) -> float:
    """For how long the house ran since the last sample."""
    passed_s = _passed_s(before, sample) if before.at else math.inf
    if sample.house == before.house:
        return passed_s
    started = next((each.started for each in sample.processes if each.key == sample.house), sample.at)
    return min(max(0.0, sample.at - started), passed_s)


def _after(before: Metered, sample: Sample, charges: Iterable[Charge], up_s: float) -> Metered:
    here = {process.key: process for process in sample.processes}
    reaped: defaultdict[str, float] = defaultdict(float)
    for key, known in before.known.items():
        if key in here:
            reaped[key] += known.reaped_s
        elif known.process.parent in here:
            reaped[known.process.parent] += known.process.cpu_s + known.reaped_s
    charged = {
        key: Known(process=process, reaped_s=max(process.reaped_cpu_s, reaped[key])) for key, process in here.items()
    }
    spent: defaultdict[str, float] = defaultdict(float)
    for each in charges:
        if each.resource != MACHINE:
            spent[each.service] += each.cost
    names = {*before.fast, *spent, *sample.counts}
    return Metered(
        at=sample.at,
        elapsed=sample.elapsed,
        house=sample.house,
        known=charged,
        storage_gib=sample.storage_gib,
        counts={**before.counts, **sample.counts},
        fast={name: before.fast.get(name, Pace()).after(spent[name], up_s, FAST_S) for name in names},
        slow={name: before.slow.get(name, Pace()).after(spent[name], up_s, SLOW_S) for name in names},
        outside=before.outside,
    )
