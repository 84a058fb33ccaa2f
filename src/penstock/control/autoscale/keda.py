"""KEDA: from zero to one and back by itself, and everything above one through the Horizontal Pod Autoscaler.

The rules are those of KEDA's documentation (2.22) and of its Kafka scaler: the autoscaler is given the lag of all
partitions as an external metric with a target per replica, so that it asks for ⌈lag/threshold⌉ replicas."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.control.autoscale.horizontal import ExternalMetric


class Trigger(msgspec.Struct, frozen=True, kw_only=True):
    """A Kafka trigger's settings, with KEDA's defaults."""

    lag_threshold: int = 10
    """Events that one replica may have before it."""
    activation_lag: int = 0
    """More than so many wake the first replica."""
    allow_idle_consumers: bool = False
    """Whether there may be more replicas than partitions."""
    only_partitions_with_lag: bool = False
    """Whether partitions without lag are left out of the count that bounds the replicas."""
    exclude_persistent_lag: bool = False
    """Whether a partition whose offset does not move is left out, as one with a broken event at its head."""
    scale_to_zero_on_invalid_offset: bool = False
    """What a partition without a committed offset counts for: nothing, or one event."""


class Partition(msgspec.Struct, frozen=True, kw_only=True):
    """One partition: its end, and how far the group has read."""

    end: int
    committed: int | None = None
    """None where the group has committed nothing, and begins with what is new."""
    previous: int | None = None
    """What was committed a poll ago; None where that is not known."""


class Waking(msgspec.Struct, frozen=True, kw_only=True):
    """What decides between zero and one replica, with KEDA's defaults."""

    polling_s: float = 30.0
    cooldown_s: float = 300.0
    """For so long after the last activity the last replica stays."""
    smallest: int = 0
    idle: int | None = None
    """Replicas while nothing happens, fewer than the smallest count; None where there is no such count."""


def lag(partition: Partition, trigger: Trigger) -> int:
    """Events that wait in one partition."""
    if partition.committed is None:
        return 0 if trigger.scale_to_zero_on_invalid_offset else 1
    if trigger.exclude_persistent_lag and partition.committed == partition.previous:
        return 0
    return max(0, partition.end - partition.committed)


def total_lag(partitions: Sequence[Partition], trigger: Trigger) -> tuple[int, int]:
    """The lag as the autoscaler is told it, no more than keeps every partition busy; and the whole of it."""
    lags = [lag(partition, trigger) for partition in partitions]
    whole = sum(lags)
    readers = sum(each > 0 for each in lags) if trigger.only_partitions_with_lag else len(lags)
    if trigger.allow_idle_consumers or whole // trigger.lag_threshold <= readers:
        return whole, whole
    return readers * trigger.lag_threshold, whole


def is_active(partitions: Sequence[Partition], trigger: Trigger) -> bool:
    """Whether there is enough to wake the first replica."""
    return total_lag(partitions, trigger)[1] > trigger.activation_lag


def metric(partitions: Sequence[Partition], trigger: Trigger) -> ExternalMetric:
    """What the autoscaler is told."""
    told, _ = total_lag(partitions, trigger)
    return ExternalMetric(values_m=(told * 1000,), target_average_m=trigger.lag_threshold * 1000)


def wake(replicas: int, active: bool, last_active_t: float | None, waking: Waking, now: float) -> int:
    """The count that KEDA itself sets; above zero and active it leaves the count to the autoscaler."""
    if active:
        asleep = replicas == 0 or (waking.idle is not None and replicas < waking.smallest)
        return max(waking.smallest, 1) if asleep else replicas
    floor = waking.idle if waking.idle is not None else waking.smallest if waking.smallest == 0 else None
    if floor is not None and replicas > floor:
        rested = last_active_t is None or last_active_t + waking.cooldown_s < now
        return floor if rested else replicas
    return max(replicas, waking.smallest) if waking.idle is None else replicas
