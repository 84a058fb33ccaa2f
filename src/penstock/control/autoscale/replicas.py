"""One metric in, one count of replicas out.

The rules are those of Kubernetes' ``replica_calculator.go`` (pkg/controller/podautoscaler, towards 1.37)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from penstock.control.autoscale.arithmetic import INT64_MAX, ceiling, quotient, ratio
from penstock.control.autoscale.interface import MetricUnavailable, Proposal, Settings, Tolerances
from penstock.control.autoscale.pods import Groups, Pod, Sample, group, ready_count, requests


def by_utilization(
    pods: Sequence[Pod],
    samples: Mapping[str, Sample],
    *,
    current: int,
    target_pct: int,
    tolerances: Tolerances,
    settings: Settings,
    now: float,
    resource: str = "cpu",
    container: str | None = None,
) -> Proposal:
    """A resource as an integer percentage of what the pods asked for."""
    groups, counted = _counted(pods, samples, settings, is_cpu=resource == "cpu", now=now)
    requested = requests(pods, resource, container)
    used_pct, average_m = _utilization(counted, requested)
    change = ratio(used_pct, float(target_pct))
    if _is_plain(groups, change):
        replicas = current if tolerances.hold(change) else ceiling(change * groups.ready)
        return Proposal(replicas=replicas, usage=used_pct, average_m=average_m)
    # Who says nothing is taken to use all of its request on the way down, and nothing of it on the way up.
    silent_pct = max(100, target_pct)
    filled = _filled(counted, groups, change, {name: quotient(requested[name] * silent_pct, 100) for name in requested})
    refined = ratio(_utilization(filled, requested)[0], float(target_pct))
    replicas = _refined(current, change, refined, len(filled), tolerances)
    return Proposal(replicas=replicas, usage=used_pct, average_m=average_m)


def by_average(
    pods: Sequence[Pod],
    samples: Mapping[str, Sample],
    *,
    current: int,
    target_m: int,
    tolerances: Tolerances,
    settings: Settings,
    now: float,
    is_cpu: bool,
) -> Proposal:
    """A value of every pod against a target for the average of them."""
    groups, counted = _counted(pods, samples, settings, is_cpu=is_cpu, now=now)
    average_m = _average(counted)
    change = ratio(average_m, float(target_m))
    if _is_plain(groups, change):
        replicas = current if tolerances.hold(change) else ceiling(change * groups.ready)
        return Proposal(replicas=replicas, usage=average_m)
    filled = _filled(counted, groups, change, dict.fromkeys(groups.missing, target_m))
    refined = ratio(_average(filled), float(target_m))
    return Proposal(replicas=_refined(current, change, refined, len(filled), tolerances), usage=average_m)


def by_value(pods: Sequence[Pod], usage_m: int, *, current: int, target_m: int, tolerances: Tolerances) -> Proposal:
    """One value of an object, or the sum of an external metric's series, against a target for the whole of it."""
    change = ratio(usage_m, float(target_m))
    if current == 0:
        return Proposal(replicas=ceiling(change), usage=usage_m)
    if tolerances.hold(change):
        return Proposal(replicas=current, usage=usage_m)
    return Proposal(replicas=ceiling(change * ready_count(pods)), usage=usage_m)


def by_value_per_replica(usage_m: int, *, replicas: int, target_m: int, tolerances: Tolerances) -> Proposal:
    """The same against a target for each replica, of which the target's status counts ``replicas``."""
    held = tolerances.hold(ratio(usage_m, float(target_m) * float(replicas)))
    wanted = replicas if held else ceiling(ratio(usage_m, float(target_m)))
    return Proposal(replicas=wanted, usage=per_replica(usage_m, replicas))


def per_replica(usage_m: int, replicas: int) -> int:
    """What the status shows as the average: rounded up, 0 without replicas, and never beyond 64 bits."""
    if float(usage_m) >= float(INT64_MAX):
        return INT64_MAX
    return 0 if replicas == 0 else math.ceil(ratio(usage_m, float(replicas)))


def sum_of_series(values_m: Sequence[int]) -> int:
    """An external metric's series together, which ends at the largest integer of 64 bits."""
    total = 0
    for value in values_m:
        total += value
        if total > INT64_MAX:
            return INT64_MAX
    return total


def sum_of_series_per_replica(values_m: Sequence[int]) -> int:
    """The same for a target per replica, where the controller takes any sum below zero for one that ran over."""
    total = 0
    for value in values_m:
        total += value
        if not 0 <= total <= INT64_MAX:
            return INT64_MAX
    return total


def _counted(
    pods: Sequence[Pod], samples: Mapping[str, Sample], settings: Settings, *, is_cpu: bool, now: float
) -> tuple[Groups, dict[str, int]]:
    """The pods sorted, and the samples that count: not those of pods that are starting, ending or unready."""
    if not pods:
        raise MetricUnavailable("no pods returned by selector while calculating replica count")
    groups = group(pods, samples, settings, is_cpu=is_cpu, now=now)
    left_out = {*groups.ignored, *groups.unready}
    counted = {name: sample.value_m for name, sample in samples.items() if name not in left_out}
    if not counted:
        raise MetricUnavailable("did not receive metrics for targeted pods (pods might be unready)")
    return groups, counted


def _utilization(used_m: Mapping[str, int], requested_m: Mapping[str, int]) -> tuple[int, int]:
    """Percent of the requests that is used, without its fraction, and what a pod uses on average."""
    known = [name for name in used_m if name in requested_m]
    asked = sum(requested_m[name] for name in known)
    if asked == 0:
        raise MetricUnavailable("no metrics returned matched known pods")
    used = sum(used_m[name] for name in known)
    return quotient(used * 100, asked), quotient(used, len(known))


def _average(used_m: Mapping[str, int]) -> int:
    return quotient(sum(used_m.values()), len(used_m))


def _is_plain(groups: Groups, change: float) -> bool:
    """Whether no pod has to be guessed at."""
    return not groups.missing and not (groups.unready and change > 1.0)


def _filled(
    counted: Mapping[str, int], groups: Groups, change: float, on_the_way_down: Mapping[str, int]
) -> dict[str, int]:
    """The samples with a cautious guess for each pod without one: whatever makes the change smaller."""
    filled = dict(counted)
    if change < 1.0:
        filled.update((name, on_the_way_down[name]) for name in groups.missing)
    elif change > 1.0:
        filled.update(dict.fromkeys((*groups.missing, *groups.unready), 0))
    return filled


def _refined(current: int, change: float, refined: float, pods: int, tolerances: Tolerances) -> int:
    """The count after the guesses, or the current one where they undo or turn the change."""
    turned = (change < 1.0 < refined) or (refined < 1.0 < change)
    if turned or tolerances.hold(refined):
        return current
    wanted = ceiling(refined * pods)
    against = (refined < 1.0 and wanted > current) or (refined > 1.0 and wanted < current)
    return current if against else wanted
