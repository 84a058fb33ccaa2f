"""Which nodes may go: how much of each is asked for, for how long it was unneeded, and what keeps it.

The rules are those of the Cluster Autoscaler (cluster-autoscaler/simulator/utilization and core/scaledown, 2026-07)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

Blocked = Literal[
    "CurrentlyBeingDeleted",
    "ScaleDownDisabledAnnotation",
    "ScaleDownUnreadyDisabled",
    "NotAutoscaled",
    "NotUnderutilized",
    "NotUnneededLongEnough",
    "NotUnreadyLongEnough",
    "NodeGroupMinSizeReached",
    "MinimalResourceLimitExceeded",
    "UnexpectedError",
]


class Resident(msgspec.Struct, frozen=True, kw_only=True):
    """A pod on a node, and what it asks for."""

    cpu_m: int = 0
    memory_b: int = 0
    gpu: int = 0
    daemonset: bool = False
    mirror: bool = False
    long_terminating: bool = False
    """Ending for much longer than its grace; such a pod no longer counts."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has for pods; None is a resource that it does not tell of."""

    cpu_m: int | None
    memory_b: int | None
    gpu: int | None = None
    is_labelled_for_devices: bool = False


class ResourceUnknown(Exception):
    """A node says nothing of its processors or memory, so nothing can be said of how much is used."""


def utilization(
    node: Usage, pods: Sequence[Resident], *, ignore_daemonsets: bool = False, ignore_mirrors: bool = False
) -> float:
    """The larger of the shares of processors and memory that are asked for; of a node with devices, that of devices
    alone, which is 0 until they are there."""
    kept = [pod for pod in pods if not _is_left_out(pod, ignore_daemonsets, ignore_mirrors)]
    left_out = [pod for pod in pods if _is_left_out(pod, ignore_daemonsets, ignore_mirrors)]
    counted = [pod for pod in kept if not pod.long_terminating]
    if node.gpu or node.is_labelled_for_devices:
        return _share(node.gpu, (pod.gpu for pod in counted), (pod.gpu for pod in left_out)) if node.gpu else 0.0
    cpu = _share(node.cpu_m, (pod.cpu_m for pod in counted), (pod.cpu_m for pod in left_out))
    memory = _share(node.memory_b, (pod.memory_b for pod in counted), (pod.memory_b for pod in left_out))
    return max(cpu, memory)


def cpu_share(node: Usage, pods: Sequence[Resident]) -> float:
    """The share of the processors alone."""
    return _share(node.cpu_m, (pod.cpu_m for pod in pods if not pod.long_terminating), ())


def _is_left_out(pod: Resident, ignore_daemonsets: bool, ignore_mirrors: bool) -> bool:
    return (ignore_daemonsets and pod.daemonset) or (ignore_mirrors and pod.mirror)


def _share(has: int | None, asked: Iterable[int], left_out: Iterable[int]) -> float:
    if not has:
        raise ResourceUnknown
    # What is left out is taken from both sides, as if the node were smaller by it.
    remaining = has - sum(left_out)
    wanted = sum(asked)
    if not remaining:
        return float("inf") if wanted else 0.0
    return wanted / remaining


def eligible(
    used: float,
    *,
    threshold: float = 0.5,
    ready: bool = True,
    being_deleted: bool = False,
    disabled: bool = False,
    scale_down_unready: bool = True,
) -> Blocked | None:
    """Why a node is not even a candidate, or None. At exactly the threshold it is one."""
    if being_deleted:
        return "CurrentlyBeingDeleted"
    if disabled:
        return "ScaleDownDisabledAnnotation"
    if not ready and not scale_down_unready:
        return "ScaleDownUnreadyDisabled"
    return "NotUnderutilized" if used > threshold else None


def since(before: Mapping[str, float], unneeded: Sequence[str], now: float) -> dict[str, float]:
    """Since when each node has been unneeded without a break."""
    return {name: before.get(name, now) for name in unneeded}


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A node that is unneeded, and what its removal would leave."""

    ready: bool = True
    disabled: bool = False
    unneeded_for_s: float
    unneeded_time_s: float | None = 600.0
    """How long it must have been; None where the settings of its group cannot be read."""
    unready_time_s: float | None = 1200.0
    in_group: bool = True
    group_size: int
    """Without the nodes of the group that are being deleted."""
    smallest: int = 0
    nodes_left: int | None = None
    """Nodes that the cluster must keep in all, against ``cluster_size``; None where there is no such limit."""
    cluster_size: int = 0


def blocked(node: Candidate) -> Blocked | None:
    """Why a candidate must stay for now, or None."""
    if node.disabled:
        return "ScaleDownDisabledAnnotation"
    if not node.in_group:
        return "NotAutoscaled"
    needed_s = node.unneeded_time_s if node.ready else node.unready_time_s
    if needed_s is None:
        return "UnexpectedError"
    if node.unneeded_for_s <= needed_s:
        return "NotUnneededLongEnough" if node.ready else "NotUnreadyLongEnough"
    if node.group_size <= node.smallest:
        return "NodeGroupMinSizeReached"
    if node.nodes_left is not None and node.cluster_size - 1 < node.nodes_left:
        return "MinimalResourceLimitExceeded"
    return None


def removable(empty: int, drain: int, *, smallest: int, size: int, in_progress: int) -> tuple[int, int]:
    """How many empty nodes of a group, and then how many with pods, may go before the group is at its smallest."""
    spare = max(0, size - in_progress - smallest)
    taken = min(empty, spare)
    return taken, min(drain, spare - taken)
