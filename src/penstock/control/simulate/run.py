"""Lets time pass: whatever happens next happens, and requests are served up to it."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable

import numpy as np

from penstock.control.autoscale import horizontal, pods
from penstock.control.foresight import decide as foresight
from penstock.control.nodes import autoscaler
from penstock.control.simulate.backlog import Backlog
from penstock.control.simulate.cluster import Cluster, Pod, SimulatedNode
from penstock.control.simulate.outcome import Moment, Outcome, digest, latency
from penstock.control.simulate.queue import Ended, Floats, Queue
from penstock.control.simulate.scenario import Scaling, Scenario

LEARNER_LOOK_S = 15.0
"""How often the learner's backlog is noted."""


def simulate(scenario: Scenario, arrivals: Floats, services: Floats, *, seed: int) -> Outcome:
    """Run a scenario. ``arrivals`` are in order; ``services`` say how long each request takes."""
    return follow(scenario, arrivals, services, seed=seed)[0]


def follow(scenario: Scenario, arrivals: Floats, services: Floats, *, seed: int) -> tuple[Outcome, Floats]:
    """The same, and how long each request waited; NaN of those that had not begun at the end."""
    if len(arrivals) != len(services):
        raise ValueError(f"{len(arrivals)} requests and {len(services)} service times")
    run = _Run(scenario, arrivals, services, seed)
    return run.outcome(), run.queue.waits


class _Run:
    """One run. Events are handled in order of time, and of their making where the time is the same."""

    def __init__(self, scenario: Scenario, arrivals: Floats, services: Floats, seed: int) -> None:
        self.scenario, self.seed = scenario, seed
        self.delays, self.faults = (np.random.default_rng([seed, stream]) for stream in (1, 2))
        self.queue = Queue(arrivals, services, scenario.serving.concurrency, scenario.serving.patience_s)
        self.cluster = Cluster(scenario.pools)
        self.now = 0.0
        self.wanted = scenario.serving.replicas
        self.hpa, self.nodes_memory = horizontal.Memory(), autoscaler.Memory()
        self.foresight, self.ended = foresight.Memory(), Ended(self.queue)
        self.samples: dict[str, pods.Sample] = {}
        self.answered: deque[tuple[float, float]] = deque()
        """When the metrics were read lately, and for how many seconds the requests were there that ended before."""
        self.worked: dict[int, float] = {}
        self.moments: list[Moment] = []
        self.ready_s = 0.0
        self.counts = dict.fromkeys(("nodes_bought", "cold_starts", "reclaimed", "crashed"), 0)
        self.replicas_max = self.nodes_max = 0
        self.backlog = Backlog(scenario.learning)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = self._pods = 0
        self._decided_at = -1

    def outcome(self) -> Outcome:
        """Begin with what is there, let time pass, and tell."""
        self._begin()
        end = self.scenario.duration_s
        while self._events and self._events[0][0] < end:
            t, _, happen = heapq.heappop(self._events)
            self._pass(t)
            happen()
        self._pass(end)
        for pod in self.cluster.live("serving"):
            self._count_ready(pod)
        cost = self.cluster.bill(end, self.scenario.overhead_usd_h)
        began = ~np.isnan(self.queue.waits)
        waits = self.queue.waits[began]
        return Outcome(
            requests=len(self.queue.arrivals),
            served=len(waits),
            retried=self.queue.retried,
            wait=latency(waits),
            response=latency(waits + self.queue.services[began]),
            replica_hours=self.ready_s / 3600.0,
            replicas_max=self.replicas_max,
            nodes_max=self.nodes_max,
            **self.counts,
            cost=cost,
            freshness=self.backlog.freshness(),
            moments=self.moments,
            digest=digest(self.queue.waits, self.moments, cost),
        )

    def _at(self, t: float, happen: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (t, self._order, happen))

    def _pass(self, t: float) -> None:
        self.queue.advance(t)
        self.cluster.settle(t, self.scenario.overhead_usd_h)
        self.now = t

    def _begin(self) -> None:
        for pool in self.scenario.pools:
            for _ in range(pool.group.target):
                node = self.cluster.new_node(pool, 0.0)
                node.ready = True
                self.cluster.devices(node)
                self._may_be_reclaimed(node)
        if self.scenario.learning is not None:
            self._new_pod("learning")
            self._every(LEARNER_LOOK_S, self._look_at_the_learner)
        self._deploy()
        # What is there at the beginning has long been started.
        for pod in self.cluster.pods:
            if pod.node is not None:
                self._ready(pod)
        scaling = self.scenario.scaling
        if isinstance(scaling, Scaling):
            self._every(scaling.scrape_s, self._scrape)
            self._every(scaling.settings.sync_period_s, self._scale_replicas)
        elif scaling is not None:
            self._every(scaling.period_s, self._foresee)
        self._every(self.scenario.nodes_settings.scan_interval_s, self._scale_nodes)

    def _every(self, period_s: float, look: Callable[[], None]) -> None:
        def again() -> None:
            look()
            self._at(self.now + period_s, again)

        self._at(self.now + period_s, again)

    # Pods ------------------------------------------------------------------------------------------------------------

    def _new_pod(self, role: str) -> None:
        serving, learning = self.scenario.serving, self.scenario.learning
        learns = role == "learning" and learning is not None
        shape = learning.pod if learning is not None and learns else serving.pod
        pod = Pod(self._pods, "learning" if learns else "serving", shape, self.now)
        self._pods += 1
        self.cluster.pods.append(pod)
        self.cluster.version += 1
        self._place(pod)

    def _place(self, pod: Pod) -> None:
        """Put a pod on a node where there is room; it is ready when its image and its model are there."""
        node = self.cluster.bind(pod)
        if node is None:
            return
        serving, learning = self.scenario.serving, self.scenario.learning
        late_s = 0.0
        if pod.role not in node.images:
            node.images.add(pod.role)
            late_s += serving.image_pull.draw(self.delays)
        load = learning.restore if pod.role == "learning" and learning is not None else serving.model_load
        late_s += load.draw(self.delays)
        if self.now > 0.0:
            self.counts["cold_starts"] += pod.role == "serving"
            self._at(self.now + late_s, lambda: self._ready(pod))

    def _ready(self, pod: Pod) -> None:
        if pod.gone or pod.leaving or pod.node is None:
            return
        pod.ready_t = self.now
        if pod.role != "serving":
            return
        self.queue.open(pod.number, self.now)
        self.worked[pod.number] = float(self.queue.worked(self.now)[pod.number])
        rate = self.scenario.serving.crashes_per_h
        if rate > 0.0:
            self._at(self.now + self.faults.exponential(3600.0 / rate), lambda: self._crash(pod))

    def _crash(self, pod: Pod) -> None:
        """A replica fails and starts again where it is."""
        if pod.gone or pod.leaving or pod.node is None:
            return
        self.counts["crashed"] += 1
        self._count_ready(pod)
        self.queue.remove(pod.number, self.now)
        late_s = self.scenario.serving.model_load.draw(self.delays)
        self._at(self.now + late_s, lambda: self._ready(pod))

    def _deploy(self) -> None:
        """As many replicas as are wanted, as a Deployment keeps them: of too many, those that serve least go first."""
        live = self.cluster.live("serving")
        for _ in range(self.wanted - len(live)):
            self._new_pod("serving")
        spare = sorted(live, key=lambda pod: (pod.ready_t is not None, pod.node is not None, -pod.created_t))
        for pod in spare[: max(0, len(live) - self.wanted)]:
            self._retire(pod)
        self.replicas_max = max(self.replicas_max, self.wanted)

    def _retire(self, pod: Pod) -> None:
        """A replica takes no more requests, and goes when it has finished or its grace is over."""
        pod.leaving = True
        self.cluster.version += 1
        self._count_ready(pod)
        last = self.queue.close(pod.number) if pod.role == "serving" else self.now
        gone_t = max(self.now, min(last, self.now + self.scenario.serving.grace_s))
        self._at(gone_t, lambda: self._end(pod))

    def _end(self, pod: Pod) -> None:
        if pod.gone:
            return
        node = pod.node
        self._count_ready(pod)
        self.queue.remove(pod.number, self.now)
        self.cluster.unbind(pod)
        if node is not None and node.leaving and not node.pods and node.name in self.cluster.nodes:
            self._end_node(node)
        self._place_waiting()

    def _place_waiting(self) -> None:
        for pod in self.cluster.pending():
            if not pod.leaving:
                self._place(pod)

    def _count_ready(self, pod: Pod) -> None:
        """Add a replica's time to the bill of replica-hours, once."""
        if pod.role == "serving" and pod.ready_t is not None:
            self.ready_s += self.now - pod.ready_t
            pod.ready_t = None

    # Nodes -----------------------------------------------------------------------------------------------------------

    def _buy(self, group: str, count: int) -> None:
        pool = self.cluster.pools[group]
        self.cluster.targets[group] += count
        self.counts["nodes_bought"] += count
        for _ in range(count):
            node = self.cluster.new_node(pool, self.now)
            self._at(self.now + pool.provision.draw(self.delays), lambda node=node: self._arrive(node))  # type: ignore[misc]
        self.nodes_max = max(self.nodes_max, len(self.cluster.nodes))

    def _arrive(self, node: SimulatedNode) -> None:
        if node.name not in self.cluster.nodes:
            return  # given up
        node.ready = True
        self.cluster.version += 1
        self._may_be_reclaimed(node)
        late_s = node.pool.device_plugin.draw(self.delays) if node.pool.group.shape.gpu else 0.0
        if late_s > 0.0:
            self._at(self.now + late_s, lambda: self._devices(node))
            self._place_waiting()
        else:
            self._devices(node)

    def _devices(self, node: SimulatedNode) -> None:
        if node.name in self.cluster.nodes:
            self.cluster.devices(node)
            self._place_waiting()

    def _may_be_reclaimed(self, node: SimulatedNode) -> None:
        rate = node.pool.spot_reclaims_per_h
        if rate > 0.0:
            self._at(self.now + self.faults.exponential(3600.0 / rate), lambda: self._notice(node))

    def _notice(self, node: SimulatedNode) -> None:
        """A spot node is told that it will be taken: its pods are replaced at once, and end with it at the latest."""
        if node.name not in self.cluster.nodes or node.leaving:
            return
        self.counts["reclaimed"] += 1
        self._drain(node)
        self._at(self.now + node.pool.spot_notice_s, lambda: self._taken(node))

    def _taken(self, node: SimulatedNode) -> None:
        if node.name not in self.cluster.nodes:
            return
        for pod in list(node.pods):
            self._end(pod)
        if node.name in self.cluster.nodes:
            self._end_node(node)

    def _drain(self, node: SimulatedNode) -> None:
        node.leaving = True
        self.cluster.version += 1
        roles = [pod.role for pod in node.pods if not pod.leaving]
        for pod in list(node.pods):
            if not pod.leaving:
                self._retire(pod)
        for role in roles:
            if role == "learning":
                self._new_pod(role)
        self._deploy()

    def _end_node(self, node: SimulatedNode) -> None:
        self.cluster.targets[node.pool.group.name] -= 1
        self.cluster.end_node(node, self.now)

    # Control ---------------------------------------------------------------------------------------------------------

    def _scrape(self) -> None:
        """Read the metrics of every replica that is ready."""
        scaling, serving = self.scenario.scaling, self.scenario.serving
        assert isinstance(scaling, Scaling)
        if scaling.metric == "requests":
            self.answered.append((self.now, float(self.ended.since(self.now)[2].sum())))
            while self.answered[0][0] <= self.now - scaling.window_s:
                self.answered.popleft()
            return
        ready = [pod for pod in self.cluster.live("serving") if pod.ready_t is not None]
        share = self.queue.waiting(self.now) / len(ready) if ready else 0.0
        self.samples = {}
        worked = self.queue.worked(self.now)
        for pod in ready:
            busy_s = float(worked[pod.number]) - self.worked[pod.number]
            self.worked[pod.number] = float(worked[pod.number])
            occupied = busy_s / scaling.scrape_s
            if scaling.metric == "utilization":
                value = round(occupied / serving.concurrency * serving.pod.cpu_m)
            else:
                value = round((occupied + share) * 1000.0)
            self.samples[pod.name] = pods.Sample(value_m=value, t=self.now, window_s=scaling.scrape_s)

    def _scale_replicas(self) -> None:
        scaling = self.scenario.scaling
        assert isinstance(scaling, Scaling)
        request = (pods.Container("server", self.scenario.serving.pod.cpu_m),)
        live = self.cluster.live("serving")
        there = tuple(
            pods.Pod(
                name=pod.name,
                phase="Pending" if pod.node is None else "Running",
                ready=pod.ready_t is not None,
                start_t=pod.created_t,
                ready_transition_t=pod.created_t if pod.ready_t is None else pod.ready_t,
                containers=request,
            )
            for pod in live
        )
        metric: horizontal.Metric
        if scaling.metric == "utilization":
            metric = horizontal.ResourceMetric(target_pct=round(scaling.target), samples=self.samples)
        elif scaling.metric == "requests":
            requests = sum(seconds for _, seconds in self.answered) / scaling.window_s
            metric = horizontal.ExternalMetric(
                values_m=(round(requests * 1000.0),), target_average_m=round(scaling.target * 1000.0)
            )
        else:
            target_m = round(scaling.target * 1000.0)
            metric = horizontal.PodsMetric(target_average_m=target_m, samples=self.samples)
        decision = horizontal.step(
            scaling.autoscaler,
            horizontal.Target(replicas=self.wanted, pods=there),
            [metric],
            self.hpa,
            now=self.now,
            settings=scaling.settings,
        )
        self.hpa = decision.memory
        if decision.written:
            self.wanted = decision.replicas
            self._deploy()
            self._note(f"replicas: {decision.limited or decision.active}")

    def _foresee(self) -> None:
        """Our own autoscaler's look."""
        scaling = self.scenario.scaling
        assert isinstance(scaling, foresight.Settings)
        arrivals, services, _ = self.ended.since(self.now)
        judged, late = self.ended.judged(self.now, scaling.wait_max_s)
        seen = foresight.Seen(
            replicas=self.wanted,
            working=self.queue.at_work(self.now),
            waiting=self.queue.waiting(self.now),
            arrivals=arrivals,
            services=services,
            judged=judged,
            late=late,
        )
        decision = foresight.step(seen, self.foresight, self.now, scaling)
        self.foresight = decision.memory
        if decision.replicas != self.wanted:
            self.wanted = decision.replicas
            self._deploy()
            self._note(f"replicas: {decision.why}")

    def _scale_nodes(self) -> None:
        """The Cluster Autoscaler's loop. Where nothing changed since it found nothing to do, it would find nothing."""
        idle = not self.nodes_memory.unneeded_since and not self.nodes_memory.asked
        if idle and self._decided_at == self.cluster.version and not self.cluster.pending():
            return
        nodes, groups = self.cluster.seen()
        self._decided_at = self.cluster.version
        decision = autoscaler.step(
            [pod.shape for pod in self.cluster.pending() if not pod.leaving],
            nodes,
            groups,
            self.nodes_memory,
            now=self.now,
            seed=self.seed + self._order,
            settings=self.scenario.nodes_settings,
        )
        self.nodes_memory = decision.memory
        for group, count in decision.give_up:
            self._give_up(group, count)
        if decision.group is not None:
            self._buy(decision.group, decision.add)
            self._note(f"nodes: {decision.add} more of {decision.group}")
        for name in decision.remove:
            node = self.cluster.nodes[name]
            self._drain(node)
            if not node.pods:
                self._end_node(node)
        if decision.remove:
            self._note(f"nodes: {len(decision.remove)} fewer")

    def _give_up(self, group: str, count: int) -> None:
        late = [node for node in self.cluster.nodes.values() if node.pool.group.name == group and not node.ready]
        for node in late[:count]:
            self._end_node(node)
        self._note(f"nodes: {count} of {group} did not come")

    def _look_at_the_learner(self) -> None:
        learners = [pod for pod in self.cluster.live("learning") if pod.ready_t is not None]
        came = int(np.searchsorted(self.queue.arrivals, self.now, side="right"))
        self.backlog.look(self.now, came, learning=bool(learners))

    def _note(self, decided: str) -> None:
        live = self.cluster.live("serving")
        self.moments.append(
            Moment(
                t=self.now,
                replicas=self.wanted,
                ready=sum(pod.ready_t is not None for pod in live),
                nodes=len(self.cluster.nodes),
                waiting=self.queue.waiting(self.now),
                decided=decided,
            )
        )
