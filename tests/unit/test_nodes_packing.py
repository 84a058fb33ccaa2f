"""Pods onto new nodes: what fits where, and which group of nodes is chosen."""

from __future__ import annotations

import random

import pytest

from penstock.control.nodes import expanders
from penstock.control.nodes.packing import Alike, pack
from penstock.control.nodes.shapes import (
    HOSTNAME,
    ZONE,
    NodeShape,
    Placed,
    PodShape,
    Spread,
    Taint,
    Toleration,
)

NODE = NodeShape(cpu_m=1000, memory_b=5000, max_pods=10, labels={ZONE: "mars"})
OLD = NodeShape(cpu_m=100, memory_b=1000, max_pods=10, labels={ZONE: "jupiter"})


def alike(count: int, cpu_m: int = 0, memory_b: int = 1, **more: object) -> Alike:
    return Alike(pod=PodShape(cpu_m=cpu_m, memory_b=memory_b, owner="a", **more), count=count)  # type: ignore[arg-type]


def old() -> list[Placed]:
    return [Placed(name="old", shape=OLD)]


def one_by_one(groups: list[Alike], node: NodeShape, limit: int | None) -> tuple[int, list[int]]:
    """First fit, the largest first, pod after pod."""
    order = sorted(
        range(len(groups)),
        key=lambda i: groups[i].pod.cpu_m / node.cpu_m + groups[i].pod.memory_b / node.memory_b,
        reverse=True,
    )
    nodes: list[dict[str, int]] = []
    placed = [0] * len(groups)
    for index in order:
        pod = groups[index].pod
        need = {"cpu": pod.cpu_m, "memory": pod.memory_b, "gpu": pod.gpu, "pods": 1}
        fresh = {"cpu": node.cpu_m, "memory": node.memory_b, "gpu": node.gpu, "pods": node.max_pods}
        for _ in range(groups[index].count):
            free = next((n for n in nodes if all(n[key] >= need[key] for key in need)), None)
            if free is None:
                if any(fresh[key] < need[key] for key in need) or (limit is not None and len(nodes) >= limit):
                    break
                free = dict(fresh)
                nodes.append(free)
            for key in need:
                free[key] -= need[key]
            placed[index] += 1
    return len(nodes), placed


def test_packing_is_first_fit_decreasing() -> None:
    rng = random.Random(7)
    for _ in range(300):
        node = NodeShape(cpu_m=1000, memory_b=1000, gpu=rng.choice([0, 4]), max_pods=rng.choice([3, 10, 100]))
        groups = [
            alike(
                rng.randint(0, 12),
                rng.choice([0, 1, 100, 250, 333, 500, 501, 1000, 1001]),
                rng.choice([0, 1, 100, 501]),
                gpu=rng.choice([0, 0, 0, 1, 3]),
            )
            for _ in range(rng.randint(1, 4))
        ]
        limit = rng.choice([None, None, 0, 1, 3])
        found = pack(groups, node, max_new_nodes=limit)
        assert (found.nodes, list(found.placed)) == one_by_one(groups, node, limit), (groups, node, limit)
        assert found.pods == sum(found.placed)


def test_fifty_one_thousand_pods_need_2595_nodes() -> None:
    node = NodeShape(cpu_m=1000, memory_b=5000 * 2**20, max_pods=100)
    found = pack([alike(50_000, 50, 100), alike(1000, 95, 190)], node, max_new_nodes=3000)
    assert (found.nodes, found.pods) == (2595, 51_000)


def test_a_port_of_the_host_is_one_pods_alone() -> None:
    assert pack([alike(8, 100, host_port=5555)], NODE).nodes == 8
    assert pack([alike(3, 100, host_port=5555), alike(2, 50, host_port=5555)], NODE).nodes == 5
    other = Alike(pod=PodShape(cpu_m=100, owner="b", host_port=80), count=8)
    assert pack([alike(8, 100, host_port=5555), other], NODE).nodes == 8


def test_replicas_stand_apart() -> None:
    by_host = Spread(max_skew=2, key=HOSTNAME)
    # The node that was there has no replica, so no new one may have more than two.
    assert pack([alike(8, 200, spread=by_host)], NODE, existing=old()).nodes == 4
    # The zone of the new nodes may have two more than the other zone, which has none.
    found = pack([alike(8, 20, spread=Spread(max_skew=2, key=ZONE))], NODE, existing=old())
    assert (found.nodes, found.pods) == (1, 2)
    # Twelve small ones over the old node and two new ones: each takes four in turn.
    small = pack([alike(12, 20, spread=Spread(max_skew=1, min_domains=3))], NODE, existing=old())
    assert (small.nodes, small.pods) == (3, 12)
    # Without any node but new ones, three domains must be there before a second replica stands anywhere.
    alone = pack([alike(12, 20, spread=Spread(max_skew=1, min_domains=3))], NODE)
    assert (alone.nodes, alone.pods) == (3, 12)
    assert pack([alike(2, 20, spread=Spread(max_skew=1))], NODE).nodes == 1
    nowhere = NodeShape(cpu_m=1000, memory_b=5000)
    assert pack([alike(2, 20, spread=Spread(max_skew=1, key=ZONE))], nowhere).pods == 0


def test_spread_counts_the_replicas_that_are_there() -> None:
    there = Placed(name="old", shape=NODE)
    there.put(PodShape(owner="a"), 3)
    assert pack([alike(9, 300, spread=Spread(max_skew=1))], NODE, existing=[there]).placed == (9,)
    stranger = Placed(name="old", shape=OLD)
    stranger.put(PodShape(owner="b"), 3)
    assert pack([alike(3, 300, spread=Spread(max_skew=1))], NODE, existing=[stranger]).nodes == 3


def test_spread_uses_the_room_that_other_pods_left() -> None:
    plain = Alike(pod=PodShape(cpu_m=600, owner="b"), count=3)
    found = pack([plain, alike(3, 100, spread=Spread(max_skew=1))], NODE)
    assert (found.nodes, found.placed) == (3, (3, 3))
    fewer = pack([plain, alike(1, 100, spread=Spread(max_skew=1))], NODE)
    assert (fewer.nodes, fewer.placed) == (3, (3, 1))


def test_a_node_with_room_for_one_more_is_kept_from_it_by_the_spread_alone() -> None:
    there = Placed(name="old", shape=NODE)
    # One on the new node, one on the old one, and so the third on the new one again.
    found = pack([alike(3, 500, spread=Spread(max_skew=1, key=HOSTNAME))], NODE, existing=[there])
    assert (found.nodes, found.pods) == (2, 3)


def test_spread_ends_at_the_limit_and_where_nothing_fits() -> None:
    assert pack([alike(8, 200, spread=Spread(max_skew=2))], NODE, existing=old(), max_new_nodes=3).pods == 6
    found = pack([alike(8, 2000, spread=Spread(max_skew=2))], NODE, existing=old())
    assert (found.nodes, found.pods) == (0, 0)
    full = pack([alike(12, 500, spread=Spread(max_skew=5))], NODE)
    assert (full.nodes, full.pods) == (6, 12)


def test_taints_and_labels_keep_pods_off() -> None:
    gpu = NodeShape(cpu_m=1000, memory_b=5000, gpu=1, labels={"kind": "gpu"}, taints=(Taint(key="nvidia.com/gpu"),))
    assert pack([alike(1)], gpu).pods == 0
    tolerant = (Toleration(key="nvidia.com/gpu"),)
    assert pack([alike(1, tolerations=tolerant)], gpu).pods == 1
    assert pack([alike(1, tolerations=tolerant, selector={"kind": "cpu"})], gpu).pods == 0
    assert pack([alike(1, tolerations=tolerant, selector={"kind": "gpu"})], gpu).pods == 1
    taint = Taint(key="a", value="x", effect="NoExecute")
    for toleration, covers in (
        (Toleration(), True),
        (Toleration(key="a", value="x"), True),
        (Toleration(key="a", value="y"), False),
        (Toleration(key="b"), False),
        (Toleration(key="a", effect="NoSchedule"), False),
        (Toleration(key="a", effect="NoExecute"), True),
    ):
        assert toleration.covers(taint) is covers
    assert PodShape().tolerates((Taint(key="a", effect="PreferNoSchedule"),))
    assert not PodShape().tolerates((Taint(key="a"), Taint(key="b", effect="PreferNoSchedule")))


def options(**nodes: int) -> list[expanders.Option]:
    return [expanders.Option(group=name, nodes=count) for name, count in nodes.items()]


def names(found: list[expanders.Option]) -> list[str]:
    return [option.group for option in found]


def test_the_expanders() -> None:
    def option(group: str, **more: object) -> expanders.Option:
        shape = {"nodes": 1, "cpu_m": 8000, "memory_b": 16_000, "asked_cpu_m": 500, "asked_memory_b": 1000}
        return expanders.Option(group=group, **{**shape, **more})  # type: ignore[arg-type]

    balanced, roomy, small = option("balanced"), option("roomy", memory_b=32_000), option("small", cpu_m=4000)
    assert names(expanders.least_waste([balanced, roomy])) == ["balanced"]
    assert names(expanders.least_waste([balanced, roomy, small])) == ["small"]
    assert names(expanders.least_waste([balanced, option("twin"), option("two", nodes=2)])) == ["balanced", "twin"]
    assert expanders.waste(balanced) == pytest.approx(7500 / 8000 + 15 / 16)
    assert expanders.waste(option("none", cpu_m=0)) == float("inf")
    assert expanders.waste(option("none", memory_b=0)) == float("inf")
    assert names(expanders.least_nodes(options(a=6, b=2, c=2, d=0))) == ["b", "c"]
    assert names(expanders.least_nodes(options(a=1, b=2))) == ["a"]
    assert expanders.least_nodes(options(a=0)) == []
    assert names(expanders.most_pods([option("a", pods=3), option("b", pods=4), option("c", pods=4)])) == ["b", "c"]
    dear, cheap = option("dear", usd_h=3.0, pods=2), option("cheap", usd_h=1.0, pods=2)
    assert names(expanders.cheapest([dear, cheap, option("unknown")])) == ["cheap"]
    assert names(expanders.cheapest([option("few", usd_h=1.0, pods=1), option("many", usd_h=3.0, pods=4)])) == ["many"]
    assert names(expanders.cheapest([option("idle", usd_h=2.0), option("one", usd_h=1.5, pods=1)])) == ["one"]
    assert names(expanders.cheapest([option("two", usd_h=1.0, nodes=2, pods=1), option("b", usd_h=1.5, pods=1)])) == [
        "b"
    ]
    assert names(expanders.cheapest([option("a"), option("b")])) == ["a", "b"]


def test_priorities_are_patterns_and_the_highest_that_matches_counts() -> None:
    given = options(**{"t2.large": 1, "t3.large": 1, "m4.xlarge": 1})
    assert names(expanders.by_priority(given, {1: ["t2"], 10: ["t3", "m4"]})) == ["t3.large", "m4.xlarge"]
    assert names(expanders.by_priority(given, {1: ["t2"], 10: ["^large"]})) == ["t2.large"]
    assert names(expanders.by_priority(given, {1: ["large", "t2"], 5: ["t2"]})) == ["t2.large"]
    assert len(expanders.by_priority(given, {10: ["c5"]})) == 3
    assert len(expanders.by_priority(given, {})) == 3
    assert names(expanders.by_priority(given, {-1: ["t2"]})) == ["t2.large"]
    assert len(expanders.by_priority(given, {-2: ["t2"]})) == 3
    assert expanders.by_priority([], {1: ["a"]}) == []


def test_filters_follow_one_another_and_a_seed_breaks_the_tie() -> None:
    given = options(c=2, a=2, b=3)
    found = {expanders.choose(given, ["least-nodes"], seed=seed) for seed in range(20)}
    assert {option.group for option in found if option} == {"a", "c"}
    assert expanders.choose(given, ["random"], seed=4) == expanders.choose(given[::-1], ["random"], seed=4)
    assert {o.group for s in range(30) if (o := expanders.choose(given, ["random"], seed=s))} == {"a", "b", "c"}
    ranked = expanders.choose(given, ["least-nodes", "priority"], seed=1, priorities={1: ["c"], 2: ["b"]})
    assert ranked is not None
    assert ranked.group == "c"
    assert expanders.choose([], ["least-waste"], seed=0) is None
    assert expanders.choose(options(a=0), ["least-nodes"], seed=0) is None
    for name in ("least-waste", "most-pods", "price"):
        assert expanders.choose(options(a=1), [name], seed=0) is not None  # type: ignore[list-item]


def test_defaults() -> None:
    pod, node = PodShape(), NodeShape(cpu_m=1, memory_b=1)
    assert (pod.cpu_m, pod.memory_b, pod.gpu, pod.priority, node.gpu, node.max_pods) == (0, 0, 0, 0, 0, 110)
    empty = Placed(name="", shape=node)
    assert (empty.cpu_m, empty.memory_b, empty.gpu, empty.pods) == (0, 0, 0, 0)
    assert Spread(max_skew=1).min_domains == 1
    option = expanders.Option(group="a", nodes=1)
    sizes = (option.pods, option.cpu_m, option.memory_b, option.asked_cpu_m, option.asked_memory_b)
    assert sizes == (0, 0, 0, 0, 0)


def test_what_is_taken_away_leaves_the_node_as_it_was() -> None:
    node = Placed(name="a", shape=NodeShape(cpu_m=1000, memory_b=1000, gpu=2))
    pod = PodShape(cpu_m=100, memory_b=10, gpu=1, owner="a", host_port=80)
    node.put(PodShape(cpu_m=5, owner="a"), 2)
    node.put(pod)
    assert (node.cpu_m, node.memory_b, node.gpu, node.pods, node.owners, node.ports) == (110, 10, 1, 3, {"a": 3}, {80})
    node.take(pod)
    assert (node.cpu_m, node.memory_b, node.gpu, node.pods, node.owners, node.ports) == (10, 0, 0, 2, {"a": 2}, set())
