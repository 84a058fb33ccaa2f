"""Nodes and pods as they are now, and what each second of them costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from penstock.control.nodes import autoscaler
from penstock.control.nodes.shapes import Placed, PodShape
from penstock.control.prices.parts import CPU_USD_H, GPU_USD_H, MEMORY_USD_GIB_H
from penstock.control.simulate.scenario import Pool


@dataclass
class SimulatedNode:
    """One node, from the request to its end."""

    name: str
    pool: Pool
    asked_t: float
    placed: Placed
    ready: bool = False
    leaving: bool = False
    """No new pods: it is being drained, or was told that it will be taken."""
    images: set[str] = field(default_factory=set)
    pods: list[Pod] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether pods may be put on it."""
        return self.ready and not self.leaving

    def share(self, pod: PodShape) -> float:
        """The part of the node's price that a pod's request stands for."""
        shape = self.pool.group.shape
        whole = _weight(shape.cpu_m, shape.memory_b, shape.gpu)
        return _weight(pod.cpu_m, pod.memory_b, pod.gpu) / whole


@dataclass
class Pod:
    """One pod, from its creation to its end."""

    number: int
    role: Literal["serving", "learning"]
    shape: PodShape
    created_t: float
    node: SimulatedNode | None = None
    ready_t: float | None = None
    leaving: bool = False
    gone: bool = False

    @property
    def name(self) -> str:
        """Its name in metrics and decisions."""
        return f"{self.role}-{self.number}"


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What was paid, and for what; the first three are the whole."""

    workload_usd: float
    """What pods asked for, while they had it."""
    idle_usd: float
    """Nodes that could be used, beyond what pods asked for."""
    overhead_usd: float
    """The control plane, and nodes that could not be used: on their way, or waiting for their devices."""
    total_usd: float
    node_hours: float


class Cluster:
    """Nodes, pods, and the bill, which is settled whenever anything changes."""

    def __init__(self, pools: tuple[Pool, ...]) -> None:
        self.pools = {pool.group.name: pool for pool in pools}
        self.targets = {pool.group.name: pool.group.target for pool in pools}
        self.nodes: dict[str, SimulatedNode] = {}
        self.pods: list[Pod] = []
        self.version = 0
        """Counts what changed, so that whoever looks knows that nothing did."""
        self.workload_usd = self.idle_usd = self.overhead_usd = self.total_usd = self.node_s = 0.0
        self._settled_t = 0.0
        self._numbers = 0

    def new_node(self, pool: Pool, now: float) -> SimulatedNode:
        """A node was asked for."""
        self._numbers += 1
        shape = pool.group.shape
        bare = msgspec.structs.replace(shape, gpu=0)
        name = f"{pool.group.name}-{self._numbers}"
        node = SimulatedNode(name=name, pool=pool, asked_t=now, placed=Placed(name=name, shape=bare))
        self.nodes[name] = node
        self.version += 1
        return node

    def devices(self, node: SimulatedNode) -> None:
        """A node's devices can be asked for."""
        node.placed.shape = node.pool.group.shape
        self.version += 1

    def end_node(self, node: SimulatedNode, now: float) -> None:
        """A node is gone and no longer paid for: its whole life is on the bill."""
        del self.nodes[node.name]
        self.total_usd += (now - node.asked_t) / 3600.0 * node.pool.usd_h
        self.node_s += now - node.asked_t
        self.version += 1

    def bind(self, pod: Pod) -> SimulatedNode | None:
        """Put a pod on the first node with room for it."""
        for node in self.nodes.values():
            if node.usable and node.placed.room(pod.shape):
                node.placed.put(pod.shape)
                node.pods.append(pod)
                pod.node = node
                self.version += 1
                return node
        return None

    def unbind(self, pod: Pod) -> None:
        """A pod is gone."""
        if pod.node is not None:
            pod.node.placed.take(pod.shape)
            pod.node.pods.remove(pod)
        pod.gone = True
        self.pods.remove(pod)
        self.version += 1

    def pending(self) -> list[Pod]:
        """Pods without a node."""
        return [pod for pod in self.pods if pod.node is None]

    def live(self, role: str) -> list[Pod]:
        """Pods that are to stay."""
        return [pod for pod in self.pods if pod.role == role and not pod.leaving]

    def settle(self, now: float, overhead_usd_h: float) -> None:
        """Write the time since the last settlement onto the bill, before anything changes."""
        hours = (now - self._settled_t) / 3600.0
        self._settled_t = now
        if hours <= 0.0:
            return
        self.overhead_usd += hours * overhead_usd_h
        for node in self.nodes.values():
            usd = hours * node.pool.usd_h
            if not node.ready or node.placed.shape.gpu < node.pool.group.shape.gpu:
                self.overhead_usd += usd
                continue
            asked = usd * sum(node.share(pod.shape) for pod in node.pods)
            self.workload_usd += asked
            self.idle_usd += usd - asked

    def bill(self, now: float, overhead_usd_h: float) -> Cost:
        """What was paid until now. The total is counted by the lives of the nodes, and so apart from its parts."""
        self.settle(now, overhead_usd_h)
        for node in list(self.nodes.values()):
            self.end_node(node, now)
        return Cost(
            workload_usd=self.workload_usd,
            idle_usd=self.idle_usd,
            overhead_usd=self.overhead_usd,
            total_usd=self.total_usd + now / 3600.0 * overhead_usd_h,
            node_hours=self.node_s / 3600.0,
        )

    def seen(self) -> tuple[list[autoscaler.Node], list[autoscaler.NodeGroup]]:
        """The nodes that have come and the groups, as the Cluster Autoscaler sees them."""
        groups = [
            msgspec.structs.replace(pool.group, target=self.targets[name], usd_h=pool.usd_h)
            for name, pool in self.pools.items()
        ]
        return list(self._seen()), groups

    def _seen(self) -> Iterator[autoscaler.Node]:
        for node in self.nodes.values():
            if node.ready:
                yield autoscaler.Node(
                    name=node.name,
                    group=node.pool.group.name,
                    shape=node.placed.shape,
                    being_deleted=node.leaving,
                    pods=tuple(autoscaler.Resident(shape=pod.shape) for pod in node.pods),
                )


def _weight(cpu_m: int, memory_b: int, gpu: int) -> float:
    return cpu_m / 1000.0 * CPU_USD_H + memory_b / 2**30 * MEMORY_USD_GIB_H + gpu * GPU_USD_H
