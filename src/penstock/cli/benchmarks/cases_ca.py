"""Cases of the Cluster Autoscaler: their inputs, and what our decider says to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from penstock.cli.benchmarks.cases import Runner
from penstock.control.nodes import expanders, packing, removal, shapes

Count = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]
"""Of pods or nodes; ten million are more than any cluster has, and no case takes for ever."""
Skew = Annotated[int, msgspec.Meta(ge=1)]


class _Input(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a case gives."""


class Node(_Input, frozen=True, kw_only=True):
    cpu_m: int
    memory_b: int
    max_pods: int = 110
    zone: str = ""
    gpu: int = 0


class Spread(_Input, frozen=True, kw_only=True):
    max_skew: Skew
    key: Literal["zone", "hostname"]
    min_domains: int = 1


class PodGroup(_Input, frozen=True, kw_only=True):
    count: Count
    cpu_m: int
    memory_b: int
    gpu: int = 0
    host_port: int | bool | None = None
    """A port, or whether there is one that all pods of the group share."""
    spread: Spread | None = None


class Binpacking(_Input, frozen=True, kw_only=True):
    template: Node
    existing_node: Node | None = None
    max_new_nodes: Count | None = None
    pod_groups: tuple[PodGroup, ...]


class WasteOption(_Input, frozen=True, kw_only=True):
    id: str
    cpu_m: int
    memory_b: int
    count: int
    gpu: int = 0


class InitContainer(_Input, frozen=True, kw_only=True):
    cpu_m: int = 0
    memory_b: int = 0
    restart_always: bool = False


class NodePod(_Input, frozen=True, kw_only=True):
    cpu_m: int
    memory_b: int
    gpu: int = 0
    daemonset: bool = False
    mirror: bool = False
    long_terminating: bool = False
    terminating: bool = False
    init_containers: tuple[InitContainer, ...] = ()


class LeastWaste(_Input, frozen=True, kw_only=True):
    options: tuple[WasteOption, ...]
    pods: tuple[NodePod, ...]


class LeastNodes(_Input, frozen=True, kw_only=True):
    node_counts: tuple[int, ...]


class Priority(_Input, frozen=True, kw_only=True):
    priorities: dict[int, list[str]]
    options: tuple[str, ...]


class Allocatable(_Input, frozen=True, kw_only=True):
    cpu_m: int | None = None
    memory_b: int | None = None
    gpu: int | None = None


class Utilization(_Input, frozen=True, kw_only=True):
    allocatable: Allocatable
    gpu_label: bool
    ignore_daemonsets: bool
    ignore_mirror: bool
    pods: tuple[NodePod, ...]


class State(_Input, frozen=True, kw_only=True):
    cpu_m: int
    memory_b: int
    ready: bool
    being_deleted: bool
    scale_down_disabled: bool


class Eligibility(_Input, frozen=True, kw_only=True):
    node: State
    pods: tuple[NodePod, ...]
    threshold: float
    ignore_daemonsets: bool
    scale_down_unready: bool


class Counts(_Input, frozen=True, kw_only=True):
    empty: int
    drain: int
    min_size: int
    target_size: int
    deletions_in_progress: int


class Reason(_Input, frozen=True, kw_only=True):
    ready: bool
    unneeded_for_s: float
    unneeded_time_s: float
    unready_time_s: float
    scale_down_disabled: bool
    in_node_group: bool
    min_size: int
    target_size: int
    threshold_lookup_fails: bool
    min_nodes_quota: int | None = None


class Since(_Input, frozen=True, kw_only=True):
    unneeded_at_0s: tuple[str, ...]
    unneeded_at_60s: tuple[str, ...]


def _binpacking(given: Binpacking) -> dict[str, Any]:
    groups = [
        packing.Alike(
            count=group.count,
            pod=shapes.PodShape(
                cpu_m=group.cpu_m,
                memory_b=group.memory_b,
                gpu=group.gpu,
                host_port=_port(group.host_port),
                owner="estimatee",
                spread=_spread(group.spread),
            ),
        )
        for group in given.pod_groups
    ]
    existing = [] if given.existing_node is None else [shapes.Placed(name="old", shape=_shape(given.existing_node))]
    found = packing.pack(groups, _shape(given.template), existing=existing, max_new_nodes=given.max_new_nodes)
    served = [index for index, count in enumerate(found.placed) if count]
    return {
        "nodes": found.nodes,
        "pods_scheduled": found.pods,
        "group_served": served[0] if len(served) == 1 else served,
    }


def _port(given: int | bool | None) -> int | None:
    if isinstance(given, bool):
        return int(given) or None
    return given


def _spread(given: Spread | None) -> shapes.Spread | None:
    if given is None:
        return None
    key = shapes.ZONE if given.key == "zone" else shapes.HOSTNAME
    return shapes.Spread(max_skew=given.max_skew, key=key, min_domains=given.min_domains)


def _shape(node: Node) -> shapes.NodeShape:
    labels = {shapes.ZONE: node.zone}
    return shapes.NodeShape(
        cpu_m=node.cpu_m, memory_b=node.memory_b, gpu=node.gpu, max_pods=node.max_pods, labels=labels
    )


def _least_waste(given: LeastWaste) -> dict[str, Any]:
    options = [
        expanders.Option(
            group=option.id,
            nodes=option.count,
            cpu_m=option.cpu_m,
            memory_b=option.memory_b,
            asked_cpu_m=sum(pod.cpu_m for pod in given.pods),
            asked_memory_b=sum(pod.memory_b for pod in given.pods),
        )
        for option in given.options
    ]
    return {"best": [option.group for option in expanders.least_waste(options)]}


def _least_nodes(given: LeastNodes) -> dict[str, Any]:
    options = [expanders.Option(group=str(index), nodes=count) for index, count in enumerate(given.node_counts)]
    return {"best_index": [int(option.group) for option in expanders.least_nodes(options)]}


def _priority(given: Priority) -> dict[str, Any]:
    options = [expanders.Option(group=name, nodes=1) for name in given.options]
    return {"best": [option.group for option in expanders.by_priority(options, given.priorities)]}


def _utilization(given: Utilization) -> dict[str, Any]:
    node = removal.Usage(
        cpu_m=given.allocatable.cpu_m,
        memory_b=given.allocatable.memory_b,
        gpu=given.allocatable.gpu,
        is_labelled_for_devices=given.gpu_label,
    )
    pods = [_resident(pod) for pod in given.pods]
    try:
        used = removal.utilization(
            node, pods, ignore_daemonsets=given.ignore_daemonsets, ignore_mirrors=given.ignore_mirror
        )
        return {"utilization": used, "cpu": removal.cpu_share(node, pods)}
    except removal.ResourceUnknown:
        return {"error": "a resource of the node is not known"}


def _resident(pod: NodePod) -> removal.Resident:
    cpu_m, memory_b = (_with_init(pod, resource) for resource in ("cpu_m", "memory_b"))
    return removal.Resident(
        cpu_m=cpu_m,
        memory_b=memory_b,
        gpu=pod.gpu,
        daemonset=pod.daemonset,
        mirror=pod.mirror,
        long_terminating=pod.long_terminating or pod.terminating,
    )


def _with_init(pod: NodePod, resource: str) -> int:
    """What a pod asks for in all: sidecars add to it, and an init container may for a while ask for more."""
    beside, most = 0, 0
    for init in pod.init_containers:
        wanted = getattr(init, resource)
        if init.restart_always:
            beside += wanted
        most = max(most, beside if init.restart_always else beside + wanted)
    return max(most, beside + int(getattr(pod, resource)))


def _eligibility(given: Eligibility) -> dict[str, Any]:
    node = removal.Usage(cpu_m=given.node.cpu_m, memory_b=given.node.memory_b)
    pods = [_resident(pod) for pod in given.pods]
    try:
        used = removal.utilization(node, pods, ignore_daemonsets=given.ignore_daemonsets)
    except removal.ResourceUnknown:
        return {"error": "a resource of the node is not known"}
    reason = removal.eligible(
        used,
        threshold=given.threshold,
        ready=given.node.ready,
        being_deleted=given.node.being_deleted,
        disabled=given.node.scale_down_disabled,
        scale_down_unready=given.scale_down_unready,
    )
    return {"unneeded": reason is None, "reason": reason}


def _counts(given: Counts) -> dict[str, Any]:
    empty, drain = removal.removable(
        given.empty,
        given.drain,
        smallest=given.min_size,
        size=given.target_size,
        in_progress=given.deletions_in_progress,
    )
    return {"empty": empty, "drain": drain}


def _reason(given: Reason) -> dict[str, Any]:
    node = removal.Candidate(
        ready=given.ready,
        disabled=given.scale_down_disabled,
        unneeded_for_s=given.unneeded_for_s,
        unneeded_time_s=None if given.threshold_lookup_fails else given.unneeded_time_s,
        unready_time_s=None if given.threshold_lookup_fails else given.unready_time_s,
        in_group=given.in_node_group,
        group_size=given.target_size,
        smallest=given.min_size,
        nodes_left=given.min_nodes_quota,
        cluster_size=given.target_size,
    )
    return {"reason": removal.blocked(node)}


def _since(given: Since) -> dict[str, Any]:
    first = removal.since({}, given.unneeded_at_0s, 0.0)
    return {"since_s": removal.since(first, given.unneeded_at_60s, 60.0)}


KINDS: dict[str, tuple[type[msgspec.Struct], Runner]] = {
    "binpacking": (Binpacking, _binpacking),
    "expander_least_waste": (LeastWaste, _least_waste),
    "expander_least_nodes": (LeastNodes, _least_nodes),
    "expander_priority": (Priority, _priority),
    "utilization": (Utilization, _utilization),
    "eligibility": (Eligibility, _eligibility),
    "removable_counts": (Counts, _counts),
    "removable_reason": (Reason, _reason),
    "unneeded_since": (Since, _since),
}
"""By kind: the shape of its input, and what our decider says to it."""
