"""A whole step of the Horizontal Pod Autoscaler: every metric, then what holds the count back.

The rules are those of Kubernetes' ``horizontal.go`` (pkg/controller/podautoscaler, development towards 1.37). The state
goes in and comes out; a controller that was restarted has none, remembers the current count first, and so holds
scale-downs for its window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from penstock.control.autoscale import limits, replicas
from penstock.control.autoscale.interface import MetricUnavailable, Proposal, Settings, Tolerances
from penstock.control.autoscale.limits import Behavior, Events, Recommendation
from penstock.control.autoscale.pods import Pod, Sample

_NONE = "no metrics returned from"
_NO_TARGET = "neither a value target nor an average value target was set"


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """What every metric has beside its target: why it could not be read, or empty."""

    failure: str = ""


class ResourceMetric(Metric, frozen=True, kw_only=True):
    """CPU or memory of the pods, or of one container in each."""

    resource: str = "cpu"
    container: str | None = None
    target_pct: int | None = None
    """Percent of the request; the other target is an average in thousandths."""
    target_average_m: int | None = None
    samples: dict[str, Sample] = msgspec.field(default_factory=dict)


class PodsMetric(Metric, frozen=True, kw_only=True):
    """A value that every pod has, such as requests under way."""

    target_average_m: int
    samples: dict[str, Sample] = msgspec.field(default_factory=dict)


class ObjectMetric(Metric, frozen=True, kw_only=True):
    """A value of one object, such as an ingress."""

    value_m: int = 0
    target_m: int | None = None
    target_average_m: int | None = None


class ExternalMetric(Metric, frozen=True, kw_only=True):
    """Series from outside of the cluster, such as the lag of a queue."""

    values_m: tuple[int, ...] = ()
    target_m: int | None = None
    target_average_m: int | None = None


class UnknownMetric(Metric, frozen=True, kw_only=True):
    """A metric of a kind that there is not."""


class Autoscaler(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asks for."""

    smallest: int = 1
    largest: int
    behavior: Behavior | None = None


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What is scaled, as it is now."""

    replicas: int
    """What its specification asks for."""
    status_replicas: int | None = None
    """How many there are; None where these are the same."""
    pods: tuple[Pod, ...] = ()


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What the controller remembers from step to step."""

    recommendations: tuple[Recommendation, ...] | None = None
    """None before the first step."""
    events: Events = Events()
    scaled_to_zero: bool = False
    """Whether it was this controller that went to zero; a count that somebody else set to zero is left alone."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What a step decides, with why."""

    replicas: int
    written: bool
    """Whether the target is to be changed."""
    active: str
    """``ValidMetricFound``, ``ScalingDisabled``, the failure that keeps it from scaling, or empty where no metric
    was needed."""
    limited: str = ""
    """What held the count back, or ``DesiredWithinRange``."""
    wanted: int | None = None
    """What the metrics asked for, before anything held it back."""
    failures: tuple[str, ...] = ()
    memory: Memory


class _NoCount(Exception):
    """The metrics give no count that may be acted on."""

    def __init__(self, reason: str, failures: tuple[str, ...]) -> None:
        super().__init__(reason)
        self.reason, self.failures = reason, failures


def step(
    autoscaler: Autoscaler,
    target: Target,
    metrics: Sequence[Metric],
    memory: Memory,
    *,
    now: float,
    settings: Settings = Settings(),  # noqa: B008 - frozen
) -> Decision:
    """Decide once."""
    # 1. The first look remembers the current count, so that a new controller does not scale down at once.
    if memory.recommendations is None:
        memory = msgspec.structs.replace(memory, recommendations=(Recommendation(target.replicas, now),))
    # 2. A count out of range is put into range, whatever the metrics say.
    outside = _out_of_range(autoscaler, target.replicas, metrics, memory, settings)
    if outside == "disabled":
        return Decision(replicas=0, written=False, active="ScalingDisabled", memory=memory)
    if isinstance(outside, int):
        return _decided(autoscaler, target, outside, memory, metrics, now, settings, active="")
    # 3. The highest of what the metrics ask for.
    try:
        wanted, failures = _wanted(autoscaler, target, metrics, now, settings)
    except _NoCount as failed:
        return Decision(
            replicas=target.replicas, written=False, active=failed.reason, failures=failed.failures, memory=memory
        )
    # 4. What holds it back: first the memory of recommendations, then the rate of change and the bounds.
    count, limited, memory = _held_back(autoscaler, target.replicas, wanted, memory, now, settings)
    if target.replicas == 0 and memory.scaled_to_zero and count < autoscaler.smallest:
        count = autoscaler.smallest
    decision = _decided(
        autoscaler, target, count, memory, metrics, now, settings, active="ValidMetricFound", limited=limited
    )
    return msgspec.structs.replace(decision, wanted=wanted, failures=failures)


def tolerances(behavior: Behavior | None, settings: Settings) -> Tolerances:
    """The controller's tolerance, or what ``behavior`` says for a direction."""
    up = behavior.scale_up.tolerance if behavior and behavior.scale_up else None
    down = behavior.scale_down.tolerance if behavior and behavior.scale_down else None
    return Tolerances(up=settings.tolerance if up is None else up, down=settings.tolerance if down is None else down)


def _out_of_range(
    autoscaler: Autoscaler, current: int, metrics: Sequence[Metric], memory: Memory, settings: Settings
) -> int | Literal["disabled"] | None:
    """The count to go to without asking any metric, ``disabled`` where zero was somebody else's wish, or None."""
    if current == 0:
        ours = settings.scale_to_zero and memory.scaled_to_zero
        may_wake = ours and (autoscaler.smallest != 0 or _counts_at_zero(metrics))
        return None if may_wake else "disabled"
    if current > autoscaler.largest:
        return autoscaler.largest
    return autoscaler.smallest if current < autoscaler.smallest else None


def _counts_at_zero(metrics: Sequence[Metric]) -> bool:
    """Whether any metric says something while there are no pods."""
    return any(isinstance(metric, (ObjectMetric, ExternalMetric)) for metric in metrics)


def _wanted(
    autoscaler: Autoscaler, target: Target, metrics: Sequence[Metric], now: float, settings: Settings
) -> tuple[int, tuple[str, ...]]:
    """The highest proposal. One metric that fails keeps the count from going down, all of them from going anywhere."""
    allowed = tolerances(autoscaler.behavior, settings)
    wanted, reason, failures = 0, "", []
    for metric in metrics:
        try:
            proposal = propose(metric, target, allowed, now=now, settings=settings)
        except MetricUnavailable as failed:
            reason = reason or _reason(metric)
            failures.append(str(failed))
            continue
        wanted = max(wanted, proposal.replicas)
    if len(failures) == len(metrics) or (failures and wanted < target.replicas):
        raise _NoCount(reason, tuple(failures))
    return wanted, tuple(failures)


def propose(metric: Metric, target: Target, allowed: Tolerances, *, now: float, settings: Settings) -> Proposal:
    """What one metric asks for."""
    if metric.failure:
        raise MetricUnavailable(metric.failure)
    match metric:
        case ResourceMetric() | PodsMetric():
            return _of_pods(metric, target, allowed, now, settings)
        case ObjectMetric() | ExternalMetric():
            return _of_whole(metric, target, allowed)
    raise MetricUnavailable("unknown metric source type")


def _of_pods(
    metric: ResourceMetric | PodsMetric, target: Target, allowed: Tolerances, now: float, settings: Settings
) -> Proposal:
    is_cpu, target_pct = False, None
    if not metric.samples:
        if isinstance(metric, ResourceMetric):
            raise MetricUnavailable(
                f"unable to get metrics for resource {metric.resource}: {_NONE} resource metrics API"
            )
        raise MetricUnavailable(f"unable to get metric of pods: {_NONE} custom metrics API")
    if isinstance(metric, ResourceMetric):
        is_cpu, target_pct = metric.resource == "cpu", metric.target_pct
    if metric.target_average_m is not None:
        return replicas.by_average(
            target.pods,
            metric.samples,
            current=target.replicas,
            target_m=metric.target_average_m,
            tolerances=allowed,
            settings=settings,
            now=now,
            is_cpu=is_cpu,
        )
    if target_pct is None or not isinstance(metric, ResourceMetric):
        raise MetricUnavailable(_NO_TARGET)
    return replicas.by_utilization(
        target.pods,
        metric.samples,
        current=target.replicas,
        target_pct=target_pct,
        tolerances=allowed,
        settings=settings,
        now=now,
        resource=metric.resource,
        container=metric.container,
    )


def _of_whole(metric: ObjectMetric | ExternalMetric, target: Target, allowed: Tolerances) -> Proposal:
    there = target.replicas if target.status_replicas is None else target.status_replicas
    whole, average = metric.target_m, metric.target_average_m
    if isinstance(metric, ExternalMetric):
        if not metric.values_m:
            raise MetricUnavailable(f"unable to get external metric: {_NONE} external metrics API")
        usage_m = replicas.sum_of_series(metric.values_m)
        usage_per_replica_m = replicas.sum_of_series_per_replica(metric.values_m)
        prefers_average = average is not None
    else:
        usage_m = usage_per_replica_m = metric.value_m
        prefers_average = whole is None
    # Where both targets are given an object goes by its value and an external metric by its average.
    if average is not None and prefers_average:
        return replicas.by_value_per_replica(usage_per_replica_m, replicas=there, target_m=average, tolerances=allowed)
    if whole is None:
        raise MetricUnavailable(_NO_TARGET)
    return replicas.by_value(target.pods, usage_m, current=target.replicas, target_m=whole, tolerances=allowed)


def _held_back(
    autoscaler: Autoscaler, current: int, wanted: int, memory: Memory, now: float, settings: Settings
) -> tuple[int, str, Memory]:
    history = memory.recommendations or ()
    if autoscaler.behavior is None:
        stable, history = limits.stabilize(wanted, history, settings.downscale_stabilization_s, now)
        count, limited = limits.clamp(current, stable, autoscaler.smallest, autoscaler.largest)
    else:
        up, down = autoscaler.behavior.filled(settings.downscale_stabilization_s)
        stable, history = limits.stabilize_with(current, wanted, up, down, history, now)
        count, limited = limits.limit_rate(
            current, stable, autoscaler.smallest, autoscaler.largest, up, down, memory.events, now
        )
    return count, limited, msgspec.structs.replace(memory, recommendations=history)


def _decided(
    autoscaler: Autoscaler,
    target: Target,
    count: int,
    memory: Memory,
    metrics: Sequence[Metric],
    now: float,
    settings: Settings,
    *,
    active: str,
    limited: str = "",
) -> Decision:
    written = count != target.replicas
    if written:
        zeroed = count == 0 and autoscaler.smallest == 0 and _counts_at_zero(metrics)
        memory = msgspec.structs.replace(memory, scaled_to_zero=settings.scale_to_zero and zeroed)
        if autoscaler.behavior is not None:
            up, down = autoscaler.behavior.filled(settings.downscale_stabilization_s)
            events = limits.remember(target.replicas, count, up, down, memory.events, now)
            memory = msgspec.structs.replace(memory, events=events)
    return Decision(replicas=count, written=written, active=active, limited=limited, memory=memory)


def _reason(metric: Metric) -> str:
    """How the condition names that a metric of this kind failed."""
    match metric:
        case ResourceMetric(container=container):
            return "FailedGetResourceMetric" if container is None else "FailedGetContainerResourceMetric"
        case PodsMetric():
            return "FailedGetPodsMetric"
        case ObjectMetric():
            return "FailedGetObjectMetric"
        case ExternalMetric():
            return "FailedGetExternalMetric"
    return "InvalidMetricSourceType"
