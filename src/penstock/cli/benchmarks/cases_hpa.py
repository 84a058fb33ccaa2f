"""Cases of the Horizontal Pod Autoscaler: their inputs, and what our decider says to them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from penstock.cli.benchmarks.cases import Runner
from penstock.control.autoscale import horizontal, limits, pods, replicas
from penstock.control.autoscale.interface import MetricUnavailable, Proposal, Settings, Tolerances

SETTINGS = Settings(cpu_initialization_s=120.0, initial_readiness_delay_s=10.0)
"""Those under which Kubernetes' own tables were written."""
NOW = 0.0


class _Input(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a case gives."""


class UsageSample(_Input, frozen=True, kw_only=True):
    """A pod's sample by container, in thousandths."""

    pod: str
    t: float = 0.0
    window_s: float = 60.0
    containers: dict[str, int | None] | None = None


class ValueSample(_Input, frozen=True, kw_only=True):
    """A pod's value."""

    pod: str
    value_m: int


class AgedCount(_Input, frozen=True, kw_only=True):
    """A recommendation."""

    replicas: int
    age_s: float


class AgedChange(_Input, frozen=True, kw_only=True):
    """A change that was made."""

    change: int
    age_s: float


class Utilization(_Input, frozen=True, kw_only=True):
    current_replicas: int
    target_utilization_pct: int
    container: str | None = None
    tolerance: Tolerances
    pods: tuple[pods.Pod, ...]
    metrics: tuple[UsageSample, ...]


class PodsValue(_Input, frozen=True, kw_only=True):
    current_replicas: int
    target_avg_m: int
    tolerance: Tolerances
    pods: tuple[pods.Pod, ...]
    metrics: tuple[ValueSample, ...]


class Whole(_Input, frozen=True, kw_only=True):
    current_replicas: int
    tolerance: Tolerances
    values_m: tuple[int, ...]
    target_m: int
    pods: tuple[pods.Pod, ...]


class Average(_Input, frozen=True, kw_only=True):
    current_replicas: int
    tolerance: Tolerances
    values_m: tuple[int, ...]
    target_avg_m: int


class PerPod(_Input, frozen=True, kw_only=True):
    usage_m: int
    status_replicas: int


class Grouping(_Input, frozen=True, kw_only=True):
    resource: str
    cpu_initialization_period_s: float
    initial_readiness_delay_s: float
    pods: tuple[pods.Pod, ...]
    metrics: tuple[UsageSample, ...]


class Request(_Input, frozen=True, kw_only=True):
    pod_level_resources_gate: bool
    pod_level_request_m: int | None = None
    container: str | None = None
    containers: tuple[pods.Container, ...]
    init_containers: tuple[pods.Container, ...]


class Clamp(_Input, frozen=True, kw_only=True):
    current: int
    desired: int
    min: int
    max: int


class Stabilize(_Input, frozen=True, kw_only=True):
    window_s: float
    recommendations: tuple[AgedCount, ...]
    desired: int


class Rate(_Input, frozen=True, kw_only=True):
    current: int
    desired: int
    min: int
    max: int
    scale_up: limits.Rules | None = None
    scale_down: limits.Rules | None = None
    scale_up_events: tuple[AgedChange, ...]
    scale_down_events: tuple[AgedChange, ...]


class Limit(_Input, frozen=True, kw_only=True):
    direction: Literal["up", "down"]
    current: int
    rules: limits.Rules
    scale_up_events: tuple[AgedChange, ...]
    scale_down_events: tuple[AgedChange, ...]


class Store(_Input, frozen=True, kw_only=True):
    direction: Literal["up", "down"]
    change: int
    rules: limits.Rules | None = None
    query_period_s: float
    events: tuple[AgedChange, ...]


class Windows(_Input, frozen=True, kw_only=True):
    current: int
    desired: int
    scale_up_window_s: float
    scale_down_window_s: float
    recommendations: tuple[AgedCount, ...]


Failing = Literal["resource", "container_resource", "pods", "object", "external", "invalid"]


class Reconcile(_Input, frozen=True, kw_only=True):
    min: int
    max: int
    current: int
    cpu_target_pct: int
    behavior: limits.Behavior | None = None
    other_metrics_failing: tuple[Failing, ...]
    recommendations: tuple[AgedCount, ...] | None = None
    pods: tuple[pods.Pod, ...]
    metrics: tuple[UsageSample, ...]


def _utilization(given: Utilization) -> dict[str, Any]:
    samples = _samples(given.metrics, given.container)
    try:
        if given.metrics and not samples:
            # Somebody answers, and says nothing of these pods: that is another failure than nobody's answer.
            replicas.by_utilization(
                given.pods,
                samples,
                current=given.current_replicas,
                target_pct=given.target_utilization_pct,
                tolerances=given.tolerance,
                settings=SETTINGS,
                now=NOW,
            )
        metric = horizontal.ResourceMetric(
            container=given.container, target_pct=given.target_utilization_pct, samples=samples
        )
        target = horizontal.Target(replicas=given.current_replicas, pods=given.pods)
        found = horizontal.propose(metric, target, given.tolerance, now=NOW, settings=SETTINGS)
    except MetricUnavailable as failed:
        return {"error": str(failed)}
    return {"replicas": found.replicas, "utilization_pct": found.usage, "raw_avg_m": found.average_m}


def _pods_value(given: PodsValue) -> dict[str, Any]:
    samples = {each.pod: pods.Sample(value_m=each.value_m) for each in given.metrics}
    metric = horizontal.PodsMetric(target_average_m=given.target_avg_m, samples=samples)
    return _proposed(metric, given.current_replicas, given.pods, given.tolerance)


def _object_value(given: Whole) -> dict[str, Any]:
    metric = horizontal.ObjectMetric(value_m=sum(given.values_m), target_m=given.target_m)
    return _proposed(metric, given.current_replicas, given.pods, given.tolerance)


def _object_average(given: Average) -> dict[str, Any]:
    metric = horizontal.ObjectMetric(value_m=sum(given.values_m), target_average_m=given.target_avg_m)
    return _proposed(metric, given.current_replicas, (), given.tolerance)


def _external_value(given: Whole) -> dict[str, Any]:
    metric = horizontal.ExternalMetric(values_m=given.values_m, target_m=given.target_m)
    return _proposed(metric, given.current_replicas, given.pods, given.tolerance)


def _external_average(given: Average) -> dict[str, Any]:
    metric = horizontal.ExternalMetric(values_m=given.values_m, target_average_m=given.target_avg_m)
    return _proposed(metric, given.current_replicas, (), given.tolerance)


def _proposed(
    metric: horizontal.Metric, current: int, there: tuple[pods.Pod, ...], allowed: Tolerances
) -> dict[str, Any]:
    target = horizontal.Target(replicas=current, pods=there)
    try:
        found: Proposal = horizontal.propose(metric, target, allowed, now=NOW, settings=SETTINGS)
    except MetricUnavailable as failed:
        return {"error": str(failed)}
    return {"replicas": found.replicas, "usage_m": found.usage}


def _per_pod(given: PerPod) -> dict[str, Any]:
    return {"usage_m": replicas.per_replica(given.usage_m, given.status_replicas)}


def _grouping(given: Grouping) -> dict[str, Any]:
    samples = {each.pod: pods.Sample(value_m=0, t=each.t, window_s=each.window_s) for each in given.metrics}
    settings = Settings(
        cpu_initialization_s=given.cpu_initialization_period_s,
        initial_readiness_delay_s=given.initial_readiness_delay_s,
    )
    found = pods.group(given.pods, samples, settings, is_cpu=given.resource == "cpu", now=NOW)
    return {
        "ready_count": found.ready,
        "unready": list(found.unready),
        "missing": list(found.missing),
        "ignored": list(found.ignored),
    }


def _request(given: Request) -> dict[str, Any]:
    pod = pods.Pod(
        name="pod",
        containers=given.containers,
        init_containers=given.init_containers,
        pod_request_m=given.pod_level_request_m if given.pod_level_resources_gate else None,
    )
    try:
        return {"request_m": pods.request(pod, "cpu", given.container)}
    except MetricUnavailable as failed:
        return {"error": str(failed)}


def _clamp(given: Clamp) -> dict[str, Any]:
    count, reason = limits.clamp(given.current, given.desired, given.min, given.max)
    return {"replicas": count, "reason": reason}


def _stabilize(given: Stabilize) -> dict[str, Any]:
    count, history = limits.stabilize(given.desired, _history(given.recommendations), given.window_s, NOW)
    return {"replicas": count, "history_len": len(history)}


def _rate(given: Rate) -> dict[str, Any]:
    behavior = limits.Behavior(scale_up=given.scale_up, scale_down=given.scale_down)
    up, down = behavior.filled(SETTINGS.downscale_stabilization_s)
    events = limits.Events(up=_events(given.scale_up_events), down=_events(given.scale_down_events))
    count, reason = limits.limit_rate(given.current, given.desired, given.min, given.max, up, down, events, NOW)
    return {"replicas": count, "reason": reason}


def _limit(given: Limit) -> dict[str, Any]:
    events = limits.Events(up=_events(given.scale_up_events), down=_events(given.scale_down_events))
    limit = limits.upper_limit if given.direction == "up" else limits.lower_limit
    return {"limit": limit(given.current, events, given.rules, NOW)}


def _store(given: Store) -> dict[str, Any]:
    events = _events(given.events)
    before = limits.changed_within(events, given.query_period_s, NOW)
    up = given.direction == "up"
    after = events
    if given.rules is not None:
        # Without `behavior` the controller stores nothing, and this is not called.
        both = limits.Events(up=events, down=events)
        fewer, more = 10_000, 10_000 + given.change
        counts = (fewer, more) if up else (more, fewer)
        stored = limits.remember(*counts, given.rules, given.rules, both, NOW)
        after = stored.up if up else stored.down
    shown = [{"change": event.change, "outdated": event.outdated} for event in after]
    return {"change_in_period_before": before, "events": shown}


def _windows(given: Windows) -> dict[str, Any]:
    up, down = limits.Behavior(
        scale_up=limits.Rules(stabilization_s=given.scale_up_window_s),
        scale_down=limits.Rules(stabilization_s=given.scale_down_window_s),
    ).filled(SETTINGS.downscale_stabilization_s)
    history = _history(given.recommendations)
    count, after = limits.stabilize_with(given.current, given.desired, up, down, history, NOW)
    return {"replicas": count, "history": [each.replicas for each in after]}


def _reconcile(given: Reconcile) -> dict[str, Any]:
    cpu = horizontal.ResourceMetric(target_pct=given.cpu_target_pct, samples=_samples(given.metrics, None))
    others = [_FAILING[kind] for kind in given.other_metrics_failing]
    past = None if given.recommendations is None else _history(given.recommendations)
    decision = horizontal.step(
        horizontal.Autoscaler(smallest=given.min, largest=given.max, behavior=given.behavior),
        horizontal.Target(replicas=given.current, pods=given.pods),
        [cpu, *others],
        horizontal.Memory(recommendations=past),
        now=NOW,
        settings=SETTINGS,
    )
    return {
        "replicas": decision.replicas,
        "scale_written": decision.written,
        "active_reason": decision.active,
        "limited_reason": decision.limited,
    }


_FAILING: dict[Failing, horizontal.Metric] = {
    "resource": horizontal.ResourceMetric(failure="no metrics"),
    "container_resource": horizontal.ResourceMetric(container="c", failure="no metrics"),
    "pods": horizontal.PodsMetric(target_average_m=1, failure="no metrics"),
    "object": horizontal.ObjectMetric(failure="no metrics"),
    "external": horizontal.ExternalMetric(failure="no metrics"),
    "invalid": horizontal.UnknownMetric(failure="unknown metric source type"),
}


def _samples(given: tuple[UsageSample, ...], container: str | None) -> dict[str, pods.Sample]:
    """Samples by pod. A pod of which a container was not measured has none; where one is asked for by name, it alone
    counts, and a pod without it says nothing (kubernetes#127193: before, that was an error)."""
    found = {}
    for each in given:
        used = each.containers or {}
        if container is not None:
            used = {container: used.get(container)}
        values = [value for value in used.values() if value is not None]
        if values and len(values) == len(used):
            found[each.pod] = pods.Sample(value_m=sum(values), t=each.t, window_s=each.window_s)
    return found


def _history(given: tuple[AgedCount, ...]) -> tuple[limits.Recommendation, ...]:
    return tuple(limits.Recommendation(each.replicas, NOW - each.age_s) for each in given)


def _events(given: tuple[AgedChange, ...]) -> tuple[limits.Event, ...]:
    return tuple(limits.Event(each.change, NOW - each.age_s) for each in given)


KINDS: dict[str, tuple[type[msgspec.Struct], Runner]] = {
    "resource_utilization": (Utilization, _utilization),
    "pods_metric": (PodsValue, _pods_value),
    "object_value": (Whole, _object_value),
    "object_avg": (Average, _object_average),
    "external_value": (Whole, _external_value),
    "external_avg": (Average, _external_average),
    "per_pod_usage": (PerPod, _per_pod),
    "group_pods": (Grouping, _grouping),
    "pod_request": (Request, _request),
    "clamp_no_behavior": (Clamp, _clamp),
    "stabilize_no_behavior": (Stabilize, _stabilize),
    "behavior_rate": (Rate, _rate),
    "limit": (Limit, _limit),
    "store_event": (Store, _store),
    "stabilize_behavior": (Windows, _windows),
    "reconcile": (Reconcile, _reconcile),
}
"""By kind: the shape of its input, and what our decider says to it."""
