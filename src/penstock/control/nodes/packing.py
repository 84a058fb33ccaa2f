"""How many new nodes of one kind the waiting pods need: first fit, the largest pods first.

The rules are those of the Cluster Autoscaler's binpacking estimator (cluster-autoscaler/estimator, 2026-07)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from penstock.control.nodes.shapes import HOSTNAME, NodeShape, Placed, PodShape


class Alike(msgspec.Struct, frozen=True, kw_only=True):
    """Pods of one shape, and how many of them there are."""

    pod: PodShape
    count: int


class Packing(msgspec.Struct, frozen=True, kw_only=True):
    """What new nodes would bring."""

    nodes: int
    """Nodes that at least one pod was put on."""
    placed: tuple[int, ...]
    """How many pods of each group found a place, in the order in which the groups were given."""

    @property
    def pods(self) -> int:
        """Pods that found a place."""
        return sum(self.placed)


def pack(
    groups: Sequence[Alike],
    template: NodeShape,
    *,
    existing: Sequence[Placed] = (),
    max_new_nodes: int | None = None,
) -> Packing:
    """Put the pods on as many new nodes of this shape as they need. Existing nodes change: give copies."""
    estimate = _Estimate(template, list(existing), max_new_nodes)
    placed = [0] * len(groups)
    for index in sorted(range(len(groups)), key=lambda i: -_size(groups[i].pod, template)):
        placed[index] = estimate.place(groups[index])
    return Packing(nodes=len(estimate.used), placed=tuple(placed))


def _size(pod: PodShape, template: NodeShape) -> float:
    """The shares of a node's processor and memory that a pod asks for, together."""
    cpu = pod.cpu_m / template.cpu_m if template.cpu_m else 0.0
    memory = pod.memory_b / template.memory_b if template.memory_b else 0.0
    return cpu + memory


class _Estimate:
    """Nodes that fill up, one group of pods after the other."""

    def __init__(self, template: NodeShape, existing: list[Placed], max_new_nodes: int | None) -> None:
        self.template, self.existing, self.max_new_nodes = template, existing, max_new_nodes
        self.new: list[Placed] = []
        self.used: set[str] = set()

    def place(self, group: Alike) -> int:
        """Place as many of the group as find a place."""
        if group.pod.spread is not None:
            return self._place_apart(group)
        left = group.count
        for node in self.new:
            left -= self._fill(node, group.pod, left)
            if not left:
                return group.count
        while left and self._add():
            taken = self._fill(self.new[-1], group.pod, left)
            if not taken:
                break
            left -= taken
        return group.count - left

    def _fill(self, node: Placed, pod: PodShape, left: int) -> int:
        count = min(left, node.room(pod))
        if count:
            node.put(pod, count)
            self.used.add(node.name)
        return count

    def _add(self) -> bool:
        """One more new node, unless the last one is still empty, which nothing that waits would fit on, or the limit
        is reached."""
        if self.new and self.new[-1].name not in self.used:
            return False
        if self.max_new_nodes is not None and len(self.new) >= self.max_new_nodes:
            return False
        self.new.append(Placed(name=f"new-{len(self.new)}", shape=self.template))
        return True

    def _place_apart(self, group: Alike) -> int:
        """Pods that must stand apart are placed one by one, since each changes where the next may go."""
        pod, left = group.pod, group.count
        counts = _Domains(pod, [*self.existing, *self.new])
        while left and self._first(self.new, pod, counts.allow):
            left -= 1
        while left:
            if self.new and self._first(self.new[-1:], pod, counts.allow):
                left -= 1
                continue
            # Where it is the spread over nodes that keeps a pod off the last one, it may go to any other node, of
            # those that were there before too; that node then counts as one that the new nodes brought pods to.
            elsewhere = [*self.existing, *self.new[:-1]] if self.new and counts.blocks(self.new[-1]) else []
            if self._first(elsewhere, pod, counts.allow):
                left -= 1
                continue
            if not self._add():
                break
            counts.add(self.new[-1])
            if not self._first(self.new[-1:], pod, counts.allow):
                break
            left -= 1
        return group.count - left

    def _first(self, nodes: Sequence[Placed], pod: PodShape, allow: Callable[[Placed, bool], bool]) -> bool:
        for node in nodes:
            if node.room(pod) and allow(node, True):
                self._fill(node, pod, 1)
                return True
        return False


class _Domains:
    """How many of a pod's replicas stand in each topology domain."""

    def __init__(self, pod: PodShape, nodes: Sequence[Placed]) -> None:
        assert pod.spread is not None
        self.pod, self.spread, self.owner = pod, pod.spread, pod.owner
        self.counts: dict[str, int] = {}
        for node in nodes:
            self.add(node)

    def add(self, node: Placed) -> None:
        """Count a node's domain, with the replicas that it has."""
        domain = node.domain(self.spread.key)
        if domain is not None:
            self.counts[domain] = self.counts.get(domain, 0) + node.owners.get(self.owner, 0)

    def allow(self, node: Placed, take: bool) -> bool:
        """Whether one more replica may go to the node, and if so, count it when it does."""
        domain = node.domain(self.spread.key)
        if domain is None:
            return False
        fewest = 0 if len(self.counts) < self.spread.min_domains else min(self.counts.values())
        if self.counts[domain] + 1 - fewest > self.spread.max_skew:
            return False
        if take:
            self.counts[domain] += 1
        return True

    def blocks(self, node: Placed) -> bool:
        """Whether it is the spread over nodes, and nothing else, that keeps one more replica off a node."""
        return self.spread.key == HOSTNAME and node.room(self.pod) > 0 and not self.allow(node, False)
