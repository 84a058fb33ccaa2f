"""What pods ask for and what nodes have."""

from __future__ import annotations

from typing import Literal

import msgspec

DEVICE_TAINT = "nvidia.com/gpu"
ACCELERATOR_LABELS = ("cloud.google.com/gke-accelerator", "k8s.amazonaws.com/accelerator")
"""What GKE and EKS nodes with GPUs are labelled with. The autoscaler waits for a node's devices only where it finds the
label of its cloud; without it, a node whose devices are not there yet counts as a node without devices."""
HOSTNAME, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"


class Taint(msgspec.Struct, frozen=True, kw_only=True):
    """What keeps pods off a node that do not tolerate it."""

    key: str
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"


class Toleration(msgspec.Struct, frozen=True, kw_only=True):
    """A pod's leave to run beside a taint: of a key, and of one value or any."""

    key: str = ""
    """Empty tolerates every key."""
    value: str | None = None
    """None tolerates any value, as the operator Exists does."""
    effect: str = ""
    """Empty tolerates every effect."""

    def covers(self, taint: Taint) -> bool:
        """Whether this taint is tolerated."""
        return (
            self.key in ("", taint.key)
            and (self.value is None or self.value == taint.value)
            and self.effect in ("", taint.effect)
        )


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A constraint that replicas stand apart (topologySpreadConstraints, DoNotSchedule)."""

    max_skew: int
    key: str = HOSTNAME
    min_domains: int = 1


class PodShape(msgspec.Struct, frozen=True, kw_only=True):
    """What one pod asks of a node. Pods of the same shape and owner are alike to the scheduler."""

    cpu_m: int = 0
    memory_b: int = 0
    gpu: int = 0
    owner: str = ""
    """Whose replicas it belongs to; spread counts these alone."""
    host_port: int | None = None
    spread: Spread | None = None
    selector: dict[str, str] = msgspec.field(default_factory=dict)
    """Labels that the node must have."""
    tolerations: tuple[Toleration, ...] = ()
    priority: int = 0

    def tolerates(self, taints: tuple[Taint, ...]) -> bool:
        """Whether the pod may run on a node with these taints; a preference keeps nobody off."""
        return all(
            taint.effect == "PreferNoSchedule" or any(each.covers(taint) for each in self.tolerations)
            for taint in taints
        )


class NodeShape(msgspec.Struct, frozen=True, kw_only=True):
    """What one node has for pods (its allocatable resources) and how it is marked."""

    cpu_m: int
    memory_b: int
    gpu: int = 0
    max_pods: int = 110
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    taints: tuple[Taint, ...] = ()

    @property
    def is_labelled_for_devices(self) -> bool:
        """Whether the autoscaler knows that there are devices to wait for."""
        return any(label in self.labels for label in ACCELERATOR_LABELS)

    def admits(self, pod: PodShape) -> bool:
        """Whether labels and taints let the pod in, whatever is free."""
        return all(self.labels.get(k) == v for k, v in pod.selector.items()) and pod.tolerates(self.taints)


class Placed(msgspec.Struct, kw_only=True):
    """A node while pods are put on it. The one thing here that changes; it never leaves a decision."""

    name: str
    shape: NodeShape
    cpu_m: int = 0
    memory_b: int = 0
    gpu: int = 0
    pods: int = 0
    ports: set[int] = msgspec.field(default_factory=set)
    owners: dict[str, int] = msgspec.field(default_factory=dict)
    """Pods by owner."""

    def domain(self, key: str) -> str | None:
        """The topology domain that the node stands in."""
        return self.name if key == HOSTNAME else self.shape.labels.get(key)

    def room(self, pod: PodShape) -> int:
        """How many more of such pods the free resources are enough for."""
        shape = self.shape
        room = shape.max_pods - self.pods
        for asked, has, taken in (
            (pod.cpu_m, shape.cpu_m, self.cpu_m),
            (pod.memory_b, shape.memory_b, self.memory_b),
            (pod.gpu, shape.gpu, self.gpu),
        ):
            if asked:
                room = min(room, (has - taken) // asked)
        if pod.host_port is not None:
            room = min(room, 0 if pod.host_port in self.ports else 1)
        return max(0, room) if shape.admits(pod) else 0

    def put(self, pod: PodShape, count: int = 1) -> None:
        """Put so many of such pods here."""
        self.cpu_m += pod.cpu_m * count
        self.memory_b += pod.memory_b * count
        self.gpu += pod.gpu * count
        self.pods += count
        self.owners[pod.owner] = self.owners.get(pod.owner, 0) + count
        if pod.host_port is not None:
            self.ports.add(pod.host_port)

    def take(self, pod: PodShape) -> None:
        """Take one of such pods away."""
        self.cpu_m -= pod.cpu_m
        self.memory_b -= pod.memory_b
        self.gpu -= pod.gpu
        self.pods -= 1
        self.owners[pod.owner] -= 1
        if pod.host_port is not None:
            self.ports.discard(pod.host_port)
