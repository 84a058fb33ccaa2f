"""The essentials of Karpenter: a node for the pods that wait, the cheapest that they fit on, and no node that a cheaper
one could do without.

The rules are those of Karpenter's documentation (1.14): pods in one batch share nodes, a pool's ``limits`` end its
growth, consolidation takes empty nodes first and then one node at a time, replaces a node only by a cheaper one, and
never disturbs more nodes at once than the pool's budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from penstock.control.nodes.shapes import NodeShape, Placed, PodShape


class InstanceType(msgspec.Struct, frozen=True, kw_only=True):
    """What the cloud sells."""

    name: str
    shape: NodeShape
    usd_h: float
    spot: bool = False


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """A NodePool: what it may be made of, and how far it may grow."""

    types: tuple[InstanceType, ...]
    cpu_m_limit: int | None = None
    gpu_limit: int | None = None
    disruption_budget: float = 0.1
    """The share of the nodes that may be disturbed at once, rounded up."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A node that is there, and its pods."""

    name: str
    type: InstanceType
    pods: tuple[PodShape, ...] = ()


class Disruption(msgspec.Struct, frozen=True, kw_only=True):
    """A node that goes, and what takes its place first."""

    name: str
    reason: Literal["empty", "underutilized"]
    replacement: InstanceType | None = None


def provision(pending: Sequence[PodShape], pool: Pool, there: Sequence[Claim]) -> list[InstanceType]:
    """New nodes for the pods that no node has room for: the largest first, each node as cheap as its pods allow."""
    rooms = [_placed(claim) for claim in there]
    batches: list[list[PodShape]] = []
    cpu = sum(claim.type.shape.cpu_m for claim in there)
    gpu = sum(claim.type.shape.gpu for claim in there)
    for pod in sorted(pending, key=lambda each: (-each.gpu, -each.cpu_m, -each.memory_b)):
        room = next((placed for placed in rooms if placed.room(pod)), None)
        if room is not None:
            room.put(pod)
            continue
        batch = next((batch for batch in batches if _cheapest([*batch, pod], pool, math.inf)), None)
        if batch is not None:
            batch.append(pod)
        elif _cheapest([pod], pool, math.inf):
            batches.append([pod])
    chosen = []
    for batch in batches:
        best = _cheapest(batch, pool, math.inf)
        if best is None or not _within(pool, cpu + best.shape.cpu_m, gpu + best.shape.gpu):
            continue
        cpu, gpu = cpu + best.shape.cpu_m, gpu + best.shape.gpu
        chosen.append(best)
    return chosen


def consolidate(there: Sequence[Claim], pool: Pool) -> list[Disruption]:
    """What goes now: all empty nodes within the budget, or else one whose pods fit elsewhere or on a cheaper one."""
    budget = math.ceil(pool.disruption_budget * len(there))
    empty = [Disruption(name=claim.name, reason="empty") for claim in there if not claim.pods]
    if empty or not budget:
        return empty[:budget]
    for claim in sorted(there, key=lambda each: (len(each.pods), -each.type.usd_h, each.name)):
        left = _without(claim, there)
        if not left:
            return [Disruption(name=claim.name, reason="underutilized")]
        cheaper = _cheapest(left, pool, claim.type.usd_h)
        # One spot node for another would race to the type that is reclaimed first.
        if cheaper is not None and not (claim.type.spot and cheaper.spot):
            return [Disruption(name=claim.name, reason="underutilized", replacement=cheaper)]
    return []


def interrupted(name: str, there: Sequence[Claim], pool: Pool) -> list[InstanceType]:
    """What to start at once when a spot node is told that it will be taken: room for those of its pods that no other
    node has room for."""
    claim = next(each for each in there if each.name == name)
    return provision(claim.pods, pool, [each for each in there if each.name != name])


def _placed(claim: Claim) -> Placed:
    placed = Placed(name=claim.name, shape=claim.type.shape)
    for pod in claim.pods:
        placed.put(pod)
    return placed


def _without(claim: Claim, there: Sequence[Claim]) -> list[PodShape]:
    """The claim's pods for which the other nodes have no room."""
    rooms = [_placed(each) for each in there if each.name != claim.name]
    left = []
    for pod in claim.pods:
        room = next((placed for placed in rooms if placed.room(pod)), None)
        if room is None:
            left.append(pod)
        else:
            room.put(pod)
    return left


def _cheapest(pods: Sequence[PodShape], pool: Pool, below_usd_h: float) -> InstanceType | None:
    """The cheapest type that takes all of these pods and costs less than so much."""
    fitting = [each for each in pool.types if each.usd_h < below_usd_h and _takes(each.shape, pods)]
    return min(fitting, key=lambda each: (each.usd_h, each.name), default=None)


def _takes(shape: NodeShape, pods: Sequence[PodShape]) -> bool:
    placed = Placed(name="", shape=shape)
    for pod in pods:
        if not placed.room(pod):
            return False
        placed.put(pod)
    return True


def _within(pool: Pool, cpu_m: int, gpu: int) -> bool:
    return (pool.cpu_m_limit is None or cpu_m <= pool.cpu_m_limit) and (pool.gpu_limit is None or gpu <= pool.gpu_limit)
