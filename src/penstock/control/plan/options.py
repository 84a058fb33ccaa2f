"""The ways to run a service, each with the machines of a price list."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.control.plan.workload import HOURS_A_MONTH, Workload
from penstock.control.prices.catalogue import Catalogue, Instance

Option = Literal["one machine", "kubernetes", "kubernetes gpu", "kubernetes spot", "serverless", "hybrid"]
OPTIONS: tuple[Option, ...] = (
    "one machine",
    "kubernetes",
    "kubernetes gpu",
    "kubernetes spot",
    "serverless",
    "hybrid",
)
CLUSTER_FEES = {"aws": "eks cluster", "gcp": "gke cluster"}
FUNCTION_RATES = (
    "lambda requests",
    "lambda memory",
    "lambda provisioned concurrency",
    "lambda memory while provisioned",
    "s3 reads",
)
TAKEN_MAX = 0.001
"""The share of the time in which too few spot nodes may be there."""
SHARED_PROCESSORS = ("t2.", "t3.", "t3a.", "t4g.")
"""Types whose price is for a fraction of their processors, beyond which credits are used up."""


class Assumptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the prices do not say. Each is a published figure, or a choice that its line owns up to."""

    system_mib: int = 512
    """Memory that the operating system of one machine keeps: a choice."""
    node_system_m: int = 150
    """Thousandths of a core that each node's own pods ask for: 50 for EKS's network, 100 for kube-proxy."""
    dns_m: int = 200
    """Of each cluster: two pods of CoreDNS, 100 each, by its default manifest."""
    learner_floor_m: int = 250
    """Thousandths of a core that the learner asks for at least: a choice; it begins steps and writes checkpoints."""
    learner_busy: float = 0.7
    """Of what it asks for, the learner uses so much on average at most: a choice, so that it catches up."""
    keep_warm_s: float = 600.0
    """An idle function is kept for so long (Shilkov, AWS Lambda Cold Starts After 10 Minutes, 2019)."""
    function_core_mib: int = 1769
    """Memory with which a function has one core (AWS Lambda's documentation)."""
    function_smallest_mib: int = 128
    refresh_s: float = 60.0
    """A function reads new weights when it has not for so long, or for half of what freshness is wanted: a choice."""
    fetch_s: float = 0.15
    """One read of an object: 100 to 200 ms to the first byte (Amazon S3, Performance guidelines)."""
    publish_s: float = 0.01
    """From a step of the learner to the predictions of a server: its pause between steps and the weights' way."""
    scaling_lag_s: float = 180.0
    """From more requests to a replica more: 30 s for the metrics, some 90 s for a node, 60 s for the image."""
    scaling_hold_s: float = 300.0
    """From fewer requests to a replica less: for so long the Horizontal Pod Autoscaler keeps its highest count."""
    node_hold_s: float = 600.0
    """And from there to a node less: for so long the Cluster Autoscaler waits."""
    scaling_look_s: float = 15.0
    """The Horizontal Pod Autoscaler looks so often, at what the last so many seconds were like."""
    reclaims_per_h: float = 1.0 / 24.0
    """Of one spot node. A preemptible machine lived for 24 hours at most; most spot machines live longer."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One way with its machines, as it would be set up."""

    option: Option
    cloud: str
    workers: int = 0
    """Server processes with a core (or a device) each: all of them, or the fewest where they are scaled."""
    machine: Instance | None = None
    """The only machine, or the node of the learner and what else fits on it."""
    more: Instance | None = None
    """The other nodes."""
    more_nodes: int = 0
    """Of those, all the time; the fewest where they are scaled."""
    is_spot: bool = False
    """Whether the other nodes are."""
    spare_nodes: int = 0
    """Of the other nodes, so many are there for one that is taken."""
    first_room: int = 0
    """Workers that fit on the first node."""
    more_room: int = 0
    """Workers that fit on each of the others."""
    target: float | None = None
    """Scaled to this many requests at work for each worker; None for a number that does not change."""
    function_mib: int = 0
    kept_warm: int = 0
    """Functions that are always ready."""
    refresh_s: float = 0.0
    """How often a function reads new weights; 0 where there are none."""

    @property
    def scales(self) -> bool:
        """Whether the number of workers follows the load."""
        return self.target is not None

    def nodes(self, workers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Other nodes that so many workers need."""
        if self.more is None or not self.more_room:
            return np.zeros_like(workers)
        needed = -(-np.maximum(0, workers - self.first_room) // self.more_room)
        found: NDArray[np.int64] = np.maximum(self.more_nodes, needed + np.where(needed > 0, self.spare_nodes, 0))
        return found

    def words(self) -> str:
        """What it is made of."""
        parts = []
        if self.machine is not None:
            parts.append(f"1 × {self.machine.type}")
        if self.more is not None and (self.more_nodes or self.scales):
            least = "" if not self.scales else "+"
            parts.append(f"{self.more_nodes}{least} × {self.more.type}{' spot' if self.is_spot else ''}")
        if self.function_mib:
            warm = f", {self.kept_warm} kept warm" if self.kept_warm else ""
            parts.append(f"functions of {self.function_mib} MiB{warm}")
        return " and ".join(parts)


class Market:
    """What a price list offers for such plans."""

    def __init__(self, catalogue: Catalogue, assumptions: Assumptions, cloud: str | None = None) -> None:
        self.catalogue, self.assumptions = catalogue, assumptions
        found = dict.fromkeys(each.cloud for each in catalogue.instances)
        self.clouds = [each for each in found if cloud in (None, each)]

    def rate(self, name: str) -> float | None:
        """A price that is no machine's, or None where the list does not have it."""
        found = self.catalogue.rate(name)
        return None if found is None else found.price

    def priced(self, machines: float = 1.0, functions: float = 1.0) -> Market:
        """The same list with prices of machines, and of functions, so many times as high."""
        instances = tuple(
            msgspec.structs.replace(
                each, price=each.price * machines, spot=None if each.spot is None else each.spot * machines
            )
            for each in self.catalogue.instances
        )
        rates = tuple(
            msgspec.structs.replace(each, price=each.price * functions) if each.name.startswith("lambda") else each
            for each in self.catalogue.rates
        )
        other = Market(msgspec.structs.replace(self.catalogue, instances=instances, rates=rates), self.assumptions)
        other.clouds = self.clouds
        return other

    def used(self) -> Catalogue:
        """The part of the list that plans are made of."""
        rates = tuple(
            each
            for each in self.catalogue.rates
            if each.cloud in self.clouds and (each.name in CLUSTER_FEES.values() or each.name in FUNCTION_RATES)
        )
        instances = tuple(each for each in self.catalogue.instances if each.cloud in self.clouds)
        return msgspec.structs.replace(self.catalogue, instances=instances, rates=rates)

    def fee(self, cloud: str) -> float | None:
        """What a cluster costs an hour beside its nodes."""
        return self.rate(CLUSTER_FEES.get(cloud, ""))

    def machines(
        self, cloud: str, *, device: bool, accelerator: str | None = None, spot: bool = False
    ) -> list[Instance]:
        """Machines that no other of the cloud beats in everything, the cheapest first."""
        key = (cloud, device, accelerator, spot)
        if key not in self._kept:
            self._kept[key] = self._machines(*key)
        return self._kept[key]

    @cached_property
    def _kept(self) -> dict[tuple[str, bool, str | None, bool], list[Instance]]:
        return {}

    def _machines(self, cloud: str, device: bool, accelerator: str | None, spot: bool) -> list[Instance]:
        fit = [
            each
            for each in self.catalogue.instances
            if each.cloud == cloud
            and each.arch == "amd64"
            and not each.type.startswith(SHARED_PROCESSORS)
            and (each.gpus > 0 if device else each.accelerator is None)
            and (accelerator is None or not device or each.accelerator == accelerator)
            and (each.spot is not None or not spot)
        ]
        fit.sort(key=lambda each: (hourly(each, spot), each.type))
        best: list[Instance] = []
        for each in fit:
            beaten = any(b.vcpu >= each.vcpu and b.memory_mib >= each.memory_mib and b.gpus >= each.gpus for b in best)
            if not beaten:
                best.append(each)
        return best


def hourly(machine: Instance, spot: bool) -> float:
    """Its price."""
    return machine.spot if spot and machine.spot is not None else machine.price


def allocatable_m(vcpu: float) -> int:
    """Thousandths of a core that pods may ask of a node: without 6 % of its first core, 1 % of the second, 0.5 % of two
    more and 0.25 % of the rest (Google and Amazon reserve alike, by their documentation)."""
    reserved = 0.06 * min(vcpu, 1) + 0.01 * min(max(vcpu - 1, 0), 1) + 0.005 * min(max(vcpu - 2, 0), 2)
    return math.floor(1000 * (vcpu - reserved - 0.0025 * max(vcpu - 4, 0)))


def allocatable_mib(memory_mib: int) -> int:
    """Memory that pods may ask of a node: without 25 % of the first 4 GiB, 20 % of the next 4, 10 % of 8 more, 6 % of
    112 more, 2 % of the rest (GKE's documentation), and 100 MiB for eviction."""
    left, reserved = float(memory_mib), 100.0
    for size, share in ((4096, 0.25), (4096, 0.2), (8192, 0.1), (114_688, 0.06), (math.inf, 0.02)):
        part = min(left, size)
        reserved += part * share
        left -= part
    return math.floor(memory_mib - reserved)


def learner_m(workload: Workload, assumptions: Assumptions) -> int:
    """Thousandths of a core that the learner asks for."""
    if not workload.learns:
        return 0
    asked = 1000.0 * workload.learner_load / assumptions.learner_busy
    return min(1000, max(assumptions.learner_floor_m, math.ceil(asked)))


def room(cpu_m: float, mib: float, gpus: int, workload: Workload) -> int:
    """Workers that fit into what is left of a machine."""
    found = min(cpu_m // 1000, mib // workload.server_mib)
    if workload.device == "serving":
        found = min(found, gpus)
    return int(found)


def one_machine(workload: Workload, market: Market, workers: int) -> Candidate | None:
    """The cheapest machine with room for so many workers and the learner."""
    own = market.assumptions
    best: Candidate | None = None
    for cloud in market.clouds:
        device = workload.device != "none"
        for machine in market.machines(cloud, device=device, accelerator=workload.accelerator):
            fits = room(
                machine.vcpu * 1000 - learner_m(workload, own),
                machine.memory_mib - own.system_mib - (workload.learner_mib if workload.learns else 0),
                machine.gpus,
                workload,
            )
            if fits >= workers:
                found = Candidate(option="one machine", cloud=cloud, workers=fits, machine=machine, first_room=fits)
                if best is None or fixed_usd(found, market) < fixed_usd(best, market):
                    best = found
                break
    return best


def clusters(workload: Workload, market: Market, option: Option) -> Iterator[Candidate]:
    """A cluster of every pair of machines that fits, without a number of nodes yet."""
    own = market.assumptions
    spot = option == "kubernetes spot"
    needs_device = workload.device != "none" or option == "kubernetes gpu"
    for cloud in market.clouds:
        if market.fee(cloud) is None:
            continue
        firsts = market.machines(cloud, device=needs_device, accelerator=workload.accelerator)
        mores = market.machines(cloud, device=workload.device == "serving", accelerator=workload.accelerator, spot=spot)
        for first in firsts:
            left_m = allocatable_m(first.vcpu) - own.node_system_m - own.dns_m - learner_m(workload, own)
            left_mib = allocatable_mib(first.memory_mib) - (workload.learner_mib if workload.learns else 0)
            if left_m < 0 or left_mib < 0:
                continue
            first_room = room(left_m, left_mib, first.gpus, workload)
            for more in mores:
                each_room = room(
                    allocatable_m(more.vcpu) - own.node_system_m, allocatable_mib(more.memory_mib), more.gpus, workload
                )
                if each_room:
                    yield Candidate(
                        option=option,
                        cloud=cloud,
                        machine=first,
                        more=more,
                        is_spot=spot,
                        first_room=first_room,
                        more_room=each_room,
                    )


def sized(shape: Candidate, workload: Workload, workers: int, assumptions: Assumptions) -> Candidate:
    """This cluster with nodes for at least so many workers, and all workers that fit on them."""
    needed = -(-max(0, workers - shape.first_room) // shape.more_room)
    spare = spare_nodes(needed, assumptions) if shape.is_spot else 0
    if workload.survives_machine:
        needed = max(needed, 1 if shape.first_room else 2)
    fits = shape.first_room + needed * shape.more_room
    return msgspec.structs.replace(shape, workers=fits, more_nodes=needed + spare, spare_nodes=spare)


@lru_cache(maxsize=8192)
def spare_nodes(needed: int, assumptions: Assumptions) -> int:
    """Spot nodes beyond those that are needed, so that fewer are there than needed in 0.1 % of the time at most."""
    spare = 1 if needed else 0
    while needed and missing_share(needed + spare, spare, assumptions) > TAKEN_MAX:
        spare += 1
    return spare


def missing_share(nodes: int, spare: int, assumptions: Assumptions) -> float:
    """The share of the time in which more of so many spot nodes are away than are spare, each away on its own."""
    away = assumptions.reclaims_per_h * assumptions.scaling_lag_s / 3600.0
    kept = sum(math.comb(nodes, gone) * away**gone * (1.0 - away) ** (nodes - gone) for gone in range(spare + 1))
    return max(0.0, 1.0 - kept)


def function(workload: Workload, market: Market, kept_warm: int = 0) -> Candidate | None:
    """The service as functions; None where the list has no price of them."""
    own = market.assumptions
    if "aws" not in market.clouds or market.rate("lambda memory") is None or market.rate("lambda requests") is None:
        return None
    return Candidate(
        option="serverless",
        cloud="aws",
        function_mib=math.ceil(max(workload.server_mib, own.function_core_mib, own.function_smallest_mib)),
        kept_warm=kept_warm,
    )


def hybrid(workload: Workload, market: Market, kept_warm: int = 0) -> Candidate | None:
    """Predictions by functions and the learner on a cluster of one node."""
    own, alone = market.assumptions, function(workload, market, kept_warm)
    if alone is None or market.fee("aws") is None:
        return None
    for machine in market.machines("aws", device=workload.device != "none", accelerator=workload.accelerator):
        left_m = allocatable_m(machine.vcpu) - own.node_system_m - own.dns_m - learner_m(workload, own)
        if left_m >= 0 and allocatable_mib(machine.memory_mib) >= workload.learner_mib:
            wanted = own.refresh_s if workload.fresh_s is None else min(own.refresh_s, workload.fresh_s / 2.0)
            return msgspec.structs.replace(alone, option="hybrid", machine=machine, refresh_s=wanted)
    return None


def fixed_usd(candidate: Candidate, market: Market, more_nodes: float | None = None) -> float:
    """What machines, clusters and functions that are kept warm cost a month, whatever comes."""
    usd_h = 0.0
    if candidate.machine is not None:
        usd_h += candidate.machine.price
    if candidate.more is not None:
        count = candidate.more_nodes if more_nodes is None else more_nodes
        usd_h += count * hourly(candidate.more, candidate.is_spot)
    if candidate.option not in ("one machine", "serverless"):
        usd_h += market.fee(candidate.cloud) or 0.0
    if candidate.kept_warm:
        rate = market.rate("lambda provisioned concurrency") or 0.0
        usd_h += candidate.kept_warm * candidate.function_mib / 1024.0 * rate * 3600.0
    return usd_h * HOURS_A_MONTH


def function_s(candidate: Candidate, workload: Workload, assumptions: Assumptions) -> float:
    """How long a prediction takes in a function, which has a core or less."""
    return workload.service_s * max(1.0, assumptions.function_core_mib / candidate.function_mib)


def request_usd(candidate: Candidate, market: Market, took_s: float) -> float:
    """What one request of a function costs that takes so long."""
    asked = (market.rate("lambda requests") or 0.0) / 1e6
    memory = market.rate("lambda memory") or 0.0
    if candidate.kept_warm:
        memory = market.rate("lambda memory while provisioned") or memory
    return asked + candidate.function_mib / 1024.0 * took_s * memory
