"""Whole steps of the Cluster Autoscaler and of Karpenter."""

from __future__ import annotations

import msgspec
import pytest

from penstock.control.nodes import karpenter
from penstock.control.nodes.autoscaler import (
    Asked,
    Backoff,
    Decision,
    Memory,
    Node,
    NodeGroup,
    Resident,
    Settings,
    step,
    upcoming,
)
from penstock.control.nodes.shapes import DEVICE_TAINT, NodeShape, PodShape, Taint, Toleration

SHAPE = NodeShape(cpu_m=1000, memory_b=1000, max_pods=10)
HALF = PodShape(cpu_m=500)
LABEL = {"cloud.google.com/gke-accelerator": "nvidia-l4"}
GPU = NodeShape(cpu_m=1000, memory_b=1000, gpu=1, labels=LABEL, taints=(Taint(key=DEVICE_TAINT),))
GPU_POD = PodShape(gpu=1, tolerations=(Toleration(key=DEVICE_TAINT),))


def group(target: int = 0, **more: object) -> NodeGroup:
    given = {"name": "cpu", "shape": SHAPE, "target": target, **more}
    return NodeGroup(**given)  # type: ignore[arg-type]


def node(name: str, *pods: PodShape, **more: object) -> Node:
    residents = tuple(Resident(shape=pod) for pod in pods)
    given = {"name": name, "group": "cpu", "shape": SHAPE, "pods": residents, **more}
    return Node(**given)  # type: ignore[arg-type]


def decide(
    pending: list[PodShape], nodes: list[Node], groups: list[NodeGroup], memory: Memory | None = None, **more: object
) -> Decision:
    given = {"now": 1000.0, "seed": 1, **more}
    return step(pending, nodes, groups, memory or Memory(), **given)  # type: ignore[arg-type]


def test_pods_that_wait_get_as_many_nodes_as_they_need() -> None:
    decision = decide([HALF] * 5, [], [group()])
    assert (decision.group, decision.add, decision.waiting, decision.remove) == ("cpu", 3, 5, ())
    assert decision.memory.asked == (Asked(group="cpu", count=3, t=1000.0),)
    assert decision.memory.added_t == 1000.0


def test_pods_with_room_on_nodes_that_are_there_or_coming_need_none() -> None:
    assert decide([HALF], [node("a", HALF)], [group(1)]).add == 0
    assert decide([HALF] * 2, [], [group(1)]).add == 0
    assert decide([HALF] * 3, [], [group(1)]).add == 1
    assert decide([HALF], [node("a", ready=False)], [group(1)]).add == 0  # it counts as coming
    assert decide([HALF], [node("a", being_deleted=True)], [group(1)]).add == 1
    assert upcoming(group(3), [node("a"), node("b", ready=False), node("c", group="other")]) == 2
    assert upcoming(group(0), [node("a")]) == 0


def test_limits_end_the_growth() -> None:
    assert decide([HALF] * 9, [], [group(largest=2)]).add == 2
    assert decide([HALF] * 9, [], [group(largest=0)]).group is None
    assert decide([HALF] * 9, [], [group()], settings=Settings(max_nodes_per_scale_up=3)).add == 3
    assert decide([HALF] * 9, [], [group()], settings=Settings(max_nodes_total=4)).add == 4
    two = [group(), group(3, name="other", largest=3)]
    full = [node(name, HALF, HALF, group="other") for name in "abc"]
    assert decide([HALF] * 9, full, two, settings=Settings(max_nodes_total=4)).add == 1
    gpus = group(1, name="gpu", shape=GPU)
    taken = [node("g", GPU_POD, group="gpu", shape=GPU)]
    assert decide([GPU_POD] * 9, taken, [gpus], settings=Settings(max_gpus_total=4)).add == 3
    assert decide([GPU_POD] * 9, taken, [gpus]).add == 9


def test_pods_that_are_not_worth_a_node_get_none() -> None:
    assert decide([PodShape(cpu_m=1, priority=-11)], [], [group()]).add == 0
    assert decide([PodShape(cpu_m=1, priority=-10)], [], [group()]).add == 1
    impossible = decide([PodShape(cpu_m=2000)], [], [group()])
    assert (impossible.add, impossible.waiting) == (0, 1)


def test_a_group_is_chosen_by_what_it_wastes_unless_told_otherwise() -> None:
    big = group(name="big", shape=NodeShape(cpu_m=4000, memory_b=4000), usd_h=0.1)
    small = group(usd_h=0.2)
    assert decide([HALF], [], [big, small]).group == "cpu"
    assert decide([HALF], [], [big, small], settings=Settings(expanders=("price",))).group == "big"
    ranked = Settings(expanders=("priority",), priorities={1: ("cpu",), 2: ("big",)})
    assert decide([HALF], [], [big, small], settings=ranked).group == "big"


def test_a_pod_without_devices_may_be_given_some_unless_they_are_tainted() -> None:
    bare = group(name="gpu", shape=NodeShape(cpu_m=500, memory_b=1000, gpu=1, labels=LABEL))
    assert decide([HALF], [], [group(), bare]).group == "gpu"
    tainted = group(name="gpu", shape=NodeShape(cpu_m=500, memory_b=1000, gpu=1, taints=GPU.taints))
    assert decide([HALF], [], [group(), tainted]).group == "cpu"


def test_without_its_label_a_node_without_devices_yet_makes_the_autoscaler_add_another() -> None:
    waiting = msgspec.structs.replace(GPU, gpu=0)
    gpus = group(1, name="gpu", shape=GPU)
    labelled = node("g", group="gpu", shape=waiting)
    assert decide([GPU_POD], [labelled], [gpus]).add == 0
    bare_shape = msgspec.structs.replace(GPU, labels={})
    bare = msgspec.structs.replace(waiting, labels={})
    assert decide([GPU_POD], [node("g", group="gpu", shape=bare)], [group(1, name="gpu", shape=bare_shape)]).add == 1
    ready = node("g", group="gpu", shape=bare_shape)
    assert decide([GPU_POD], [ready], [group(1, name="gpu", shape=bare_shape)]).add == 0


def test_nodes_that_do_not_come_are_given_up_and_their_group_rests_longer_each_time() -> None:
    memory = decide([HALF], [], [group()], now=0.0).memory
    assert decide([HALF], [], [group(1)], memory, now=899.0).give_up == ()
    late = decide([HALF], [], [group(1)], memory, now=900.0)
    assert (late.give_up, late.add, late.waiting) == ((("cpu", 1),), 0, 1)
    assert late.memory.backoffs["cpu"].until == 1200.0
    assert decide([HALF], [], [group()], late.memory, now=1199.0).add == 0
    again = decide([HALF], [], [group()], late.memory, now=1200.0)
    assert again.add == 1
    twice = decide([HALF], [], [group(1)], again.memory, now=2100.0)
    assert twice.memory.backoffs["cpu"].length_s == 600.0
    lengths = []
    memory = twice.memory
    now = 2100.0
    for _ in range(3):
        now = memory.backoffs["cpu"].until
        asked = decide([HALF], [], [group()], memory, now=now)
        now += 900.0
        memory = decide([HALF], [], [group(1)], asked.memory, now=now).memory
        lengths.append(memory.backoffs["cpu"].length_s)
    assert lengths == [1200.0, 1800.0, 1800.0]
    calm = decide([HALF], [], [group()], memory, now=now + 20_000.0)
    assert decide([HALF], [], [group(1)], calm.memory, now=now + 20_900.0).memory.backoffs["cpu"].length_s == 300.0


def test_a_group_that_failed_long_ago_rests_as_if_for_the_first_time() -> None:
    before = Backoff(until=600.0, length_s=600.0, failed_t=0.0)
    for since_s, length_s in ((10_799.0, 1200.0), (10_800.0, 300.0)):
        memory = Memory(asked=(Asked(group="cpu", count=1, t=since_s - 900.0),), backoffs={"cpu": before})
        late = decide([HALF], [], [group(1)], memory, now=since_s)
        assert late.memory.backoffs["cpu"].length_s == length_s


def test_what_came_of_one_group_says_nothing_of_another() -> None:
    asked = (Asked(group="cpu", count=1, t=0.0), Asked(group="other", count=1, t=50.0))
    there = [node("b", group="other")]
    groups = [group(1), group(1, name="other")]
    decision = decide([], there, groups, Memory(asked=asked), now=100.0)
    assert decision.memory.asked == (Asked(group="cpu", count=1, t=0.0),)
    assert decide([], there, groups, Memory(asked=asked), now=900.0).give_up == (("cpu", 1),)


def test_what_came_is_forgotten_oldest_first() -> None:
    asked = (Asked(group="cpu", count=2, t=0.0), Asked(group="cpu", count=1, t=500.0))
    there = [node("a"), node("b")]
    decision = decide([], there, [group(3)], Memory(asked=asked), now=950.0)
    assert (decision.give_up, decision.memory.asked) == ((), asked[1:])
    half = decide([], there[:1], [group(3)], Memory(asked=asked), now=950.0)
    assert half.give_up == (("cpu", 1),)
    assert decide([], there, [group(2)], Memory(asked=asked), now=950.0).memory.asked == ()


def unneeded(nodes: list[Node], groups: list[NodeGroup], **more: object) -> list[str]:
    return sorted(decide([], nodes, groups, **more).memory.unneeded_since)


def test_a_node_is_unneeded_when_its_pods_fit_elsewhere() -> None:
    small = PodShape(cpu_m=300)
    assert unneeded([node("a", small), node("b", small)], [group(2)]) == ["a"]
    assert unneeded([node("a", small), node("b", small, small, small)], [group(2)]) == []
    assert unneeded([node("a", small)], [group(1)]) == []
    assert unneeded([node("a"), node("b", HALF)], [group(2)]) == ["a"]
    assert unneeded([node("a", disabled=True)], [group(1)]) == []
    assert unneeded([node("a", group=None)], [group(1)]) == []
    assert unneeded([node("a", group="cpu", being_deleted=True)], [group(1)]) == []
    held = node("a", pods=(Resident(shape=small, movable=False),))
    assert unneeded([held, node("b", small)], [group(2)]) == ["b"]
    daemon = node("a", pods=(Resident(shape=small, daemonset=True), Resident(shape=PodShape(), mirror=True)))
    assert unneeded([daemon], [group(1)]) == ["a"]
    daemons = node("a", pods=(Resident(shape=PodShape(cpu_m=900), daemonset=True),))
    assert unneeded([daemons], [group(1)]) == []
    assert unneeded([daemons], [group(1)], settings=Settings(ignore_daemonsets=True)) == ["a"]


def test_thresholds_of_devices_are_their_own() -> None:
    gpus = group(2, name="gpu", shape=GPU)
    busy = [node("g", GPU_POD, group="gpu", shape=GPU), node("h", group="gpu", shape=GPU)]
    assert unneeded(busy, [gpus]) == ["h"]
    two = NodeShape(cpu_m=1000, memory_b=1000, gpu=2, labels=LABEL)
    half = [node(name, PodShape(gpu=1), group="gpu", shape=two) for name in "ab"]
    pair = [group(2, name="gpu", shape=two)]
    assert unneeded(half, pair) == ["a"]
    assert unneeded(half, pair, settings=Settings(gpu_utilization_threshold=0.4)) == []
    third = [node("a", PodShape(cpu_m=300)), node("b", PodShape(cpu_m=300))]
    assert unneeded(third, [group(2)]) == ["a"]
    assert unneeded(third, [group(2)], settings=Settings(utilization_threshold=0.2)) == []


def test_unneeded_nodes_go_after_their_time_unless_something_has_just_happened() -> None:
    empty = [node("a"), node("b"), node("c", HALF, HALF)]
    since = {"a": 0.0, "b": 0.0}
    assert decide([], empty, [group(3)], Memory(unneeded_since=since), now=600.0).remove == ()
    gone = decide([], empty, [group(3)], Memory(unneeded_since=since), now=600.5)
    assert (sorted(gone.remove), gone.memory.deleted_t) == (["a", "b"], 600.5)
    for name, delay_s in (("added_t", 600.0), ("failed_t", 180.0)):
        memory = Memory(unneeded_since=since, **{name: 1000.0})  # type: ignore[arg-type]
        assert decide([], empty, [group(3)], memory, now=1000.0 + delay_s - 1).remove == ()
        assert sorted(decide([], empty, [group(3)], memory, now=1000.0 + delay_s).remove) == ["a", "b"]
    deleted = Memory(unneeded_since=since, deleted_t=1000.0)
    assert decide([], empty, [group(3)], deleted, now=1000.0).remove
    assert not decide([], empty, [group(3)], deleted, now=1000.0, settings=Settings(delay_after_delete_s=1.0)).remove
    # The clock of a node runs while the autoscaler rests, and begins again when the node was needed.
    resting = decide([], empty, [group(3)], Memory(added_t=999.0), now=1000.0)
    assert resting.memory.unneeded_since == {"a": 1000.0, "b": 1000.0}
    # A step that adds takes nothing away.
    adds = decide([PodShape(cpu_m=1000)] * 3, empty, [group(3)], Memory(unneeded_since=since), now=5000.0)
    assert (adds.add, adds.remove) == (1, ())


def test_the_smallest_size_and_the_numbers_at_once_bound_what_goes() -> None:
    since = {f"n{index}": 0.0 for index in range(20)}
    many = [node(name) for name in since]
    memory = Memory(unneeded_since=since)
    assert len(decide([], many, [group(20)], memory, now=5000.0).remove) == 10
    assert len(decide([], many, [group(20, smallest=17)], memory, now=5000.0).remove) == 3
    going = [*many[:18], *(node(f"d{index}", being_deleted=True) for index in range(2))]
    assert len(decide([], going, [group(20, smallest=17)], memory, now=5000.0).remove) == 1
    used = [node("n0", PodShape(cpu_m=100)), node("n1", PodShape(cpu_m=100)), node("n2", PodShape(cpu_m=600))]
    assert decide([], used, [group(3)], memory, now=5000.0).remove == ("n0",)
    mixed = [*used, node("n3")]
    assert decide([], mixed, [group(4)], memory, now=5000.0).remove == ("n3",)
    unready = [node("n0", ready=False)]
    assert decide([], unready, [group(1)], memory, now=1200.0).remove == ()
    assert decide([], unready, [group(1)], memory, now=1200.5).remove == ("n0",)


def test_a_decision_is_the_same_for_the_same_seed() -> None:
    twins = [group(name="a"), group(name="b")]
    assert decide([HALF], [], twins, seed=3) == decide([HALF], [], twins, seed=3)
    assert {decide([HALF], [], twins, seed=seed).group for seed in range(20)} == {"a", "b"}


SMALL = karpenter.InstanceType(name="small", shape=NodeShape(cpu_m=2000, memory_b=4000), usd_h=0.1)
LARGE = karpenter.InstanceType(name="large", shape=NodeShape(cpu_m=8000, memory_b=16_000), usd_h=0.35)
SPOT = karpenter.InstanceType(name="spot", shape=SMALL.shape, usd_h=0.03, spot=True)
DEVICE = karpenter.InstanceType(name="gpu", shape=NodeShape(cpu_m=4000, memory_b=16_000, gpu=1), usd_h=0.8)
POOL = karpenter.Pool(types=(LARGE, SMALL, DEVICE))


def bought(pending: list[PodShape], *there: karpenter.Claim, pool: karpenter.Pool = POOL) -> list[str]:
    return [each.name for each in karpenter.provision(pending, pool, there)]


def test_karpenter_buys_the_cheapest_node_that_a_batch_fits_on() -> None:
    assert bought([PodShape(cpu_m=1000)]) == ["small"]
    assert bought([PodShape(cpu_m=1000)] * 3) == ["large"]
    assert bought([PodShape(cpu_m=1000)] * 9) == ["large", "small"]
    assert bought([PodShape(cpu_m=100, gpu=1), PodShape(cpu_m=1000)]) == ["gpu"]
    assert bought([PodShape(cpu_m=9000)]) == []
    assert bought([PodShape(cpu_m=1000)], karpenter.Claim(name="a", type=SMALL)) == []
    full = karpenter.Claim(name="a", type=SMALL, pods=(PodShape(cpu_m=1500),))
    assert bought([PodShape(cpu_m=1000)], full) == ["small"]
    assert bought([PodShape(cpu_m=1000)], pool=msgspec.structs.replace(POOL, types=(SPOT, SMALL))) == ["spot"]


def test_karpenter_places_the_largest_first_and_fills_what_is_there() -> None:
    small, large = PodShape(cpu_m=400, memory_b=100), PodShape(cpu_m=1900, memory_b=100)
    # 1900 fills a small node; the two small pods share what is left of the other one.
    there = karpenter.Claim(name="a", type=SMALL, pods=(PodShape(cpu_m=1000),))
    assert bought([small, small, large], there) == ["small"]
    assert bought([small, small, small], there) == ["small"]
    # Were the small ones first, they would take the room and the large one's node as well.
    only = msgspec.structs.replace(POOL, types=(SMALL,))
    assert bought([PodShape(cpu_m=1000), PodShape(cpu_m=1000), PodShape(cpu_m=2000)], there, pool=only) == [
        "small",
        "small",
    ]
    wide = karpenter.InstanceType(name="wide", shape=NodeShape(cpu_m=2000, memory_b=1000), usd_h=0.1)
    narrow = msgspec.structs.replace(POOL, types=(wide,))
    by_memory = [PodShape(cpu_m=100, memory_b=each) for each in (300, 300, 700, 700)]
    assert bought(by_memory, pool=narrow) == ["wide", "wide"]
    by_cpu = [PodShape(cpu_m=each, memory_b=1) for each in (600, 600, 1400, 1400)]
    assert bought(by_cpu, pool=narrow) == ["wide", "wide"]
    devices = karpenter.InstanceType(name="two", shape=NodeShape(cpu_m=2000, memory_b=1000, gpu=3), usd_h=0.1)
    by_gpu = [PodShape(gpu=each) for each in (1, 1, 2, 2)]
    assert bought(by_gpu, pool=msgspec.structs.replace(POOL, types=(devices,))) == ["two", "two"]


def test_karpenter_passes_over_a_batch_that_its_limits_refuse() -> None:
    pool = karpenter.Pool(types=(LARGE, SMALL), cpu_m_limit=6000)
    both = [PodShape(cpu_m=8000), PodShape(cpu_m=2000), PodShape(cpu_m=2000)]
    assert bought(both[:1], pool=pool) == []
    assert bought([PodShape(cpu_m=8000), PodShape(cpu_m=2000)], pool=pool) == ["small"]
    exact = karpenter.Pool(types=(SMALL,), cpu_m_limit=4000)
    assert bought([PodShape(cpu_m=2000)] * 3, pool=exact) == ["small", "small"]
    devices = karpenter.Pool(types=(DEVICE,), gpu_limit=2)
    assert bought([PodShape(cpu_m=4000, gpu=1)] * 4, pool=devices) == ["gpu", "gpu"]


def test_karpenters_limits_end_the_growth() -> None:
    claim = karpenter.Claim(name="a", type=SMALL, pods=(PodShape(cpu_m=2000),))
    for limit, expected in ((4000, ["small"]), (3999, [])):
        pool = karpenter.Pool(types=(SMALL,), cpu_m_limit=limit)
        assert bought([PodShape(cpu_m=1000)], claim, pool=pool) == expected
    device = [PodShape(cpu_m=3000, gpu=1)] * 2
    assert bought(device, pool=karpenter.Pool(types=(DEVICE,), gpu_limit=1)) == ["gpu"]
    assert bought(device, pool=karpenter.Pool(types=(DEVICE,), gpu_limit=2)) == ["gpu", "gpu"]


def test_karpenter_consolidates_empty_nodes_first_and_replaces_only_by_cheaper_ones() -> None:
    def claim(name: str, kind: karpenter.InstanceType, *pods: PodShape) -> karpenter.Claim:
        return karpenter.Claim(name=name, type=kind, pods=pods)

    tiny = PodShape(cpu_m=500)
    empty = [claim("a", SMALL), claim("b", SMALL), claim("c", SMALL, tiny)]
    assert karpenter.consolidate(empty, POOL) == [karpenter.Disruption(name="a", reason="empty")]
    wide = msgspec.structs.replace(POOL, disruption_budget=0.5)
    assert [each.name for each in karpenter.consolidate(empty, wide)] == ["a", "b"]
    none = msgspec.structs.replace(POOL, disruption_budget=0.0)
    assert karpenter.consolidate(empty, none) == []
    assert karpenter.consolidate(empty[2:], none) == []
    full = [claim("a", SMALL, PodShape(cpu_m=800), PodShape(cpu_m=800)), claim("b", SMALL, PodShape(cpu_m=900))]
    assert karpenter.consolidate(full, msgspec.structs.replace(POOL, types=(SMALL,))) == []
    pair = [claim("a", LARGE, tiny), claim("b", SMALL, tiny)]
    assert karpenter.consolidate(pair, POOL) == [karpenter.Disruption(name="a", reason="underutilized")]
    lone = [claim("a", LARGE, tiny)]
    assert karpenter.consolidate(lone, POOL) == [
        karpenter.Disruption(name="a", reason="underutilized", replacement=SMALL)
    ]
    assert karpenter.consolidate([claim("a", SMALL, tiny)], POOL) == []
    dear = msgspec.structs.replace(SPOT, name="dear", usd_h=0.05)
    spots = karpenter.Pool(types=(SPOT,))
    assert karpenter.consolidate([claim("a", dear, tiny)], spots) == []
    assert karpenter.consolidate([claim("a", SMALL, tiny)], spots)[0].replacement == SPOT


def test_karpenter_starts_a_replacement_when_a_spot_node_is_to_go() -> None:
    tiny = PodShape(cpu_m=1500)
    there = [karpenter.Claim(name=name, type=SPOT, pods=(tiny,)) for name in "ab"]
    pool = karpenter.Pool(types=(SPOT, SMALL))
    assert [each.name for each in karpenter.interrupted("a", there, pool)] == ["spot"]
    roomy = [there[0], karpenter.Claim(name="c", type=LARGE)]
    assert karpenter.interrupted("a", roomy, pool) == []
    with pytest.raises(StopIteration):
        karpenter.interrupted("x", there, pool)


def test_the_flags_have_the_defaults_of_the_cluster_autoscaler() -> None:
    assert msgspec.structs.asdict(Settings()) == {
        "scan_interval_s": 10.0,
        "expanders": ("least-waste",),
        "priorities": {},
        "utilization_threshold": 0.5,
        "gpu_utilization_threshold": 0.5,
        "unneeded_time_s": 600.0,
        "unready_time_s": 1200.0,
        "delay_after_add_s": 600.0,
        "delay_after_delete_s": 0.0,
        "delay_after_failure_s": 180.0,
        "max_provision_time_s": 900.0,
        "max_nodes_per_scale_up": 1000,
        "max_nodes_total": None,
        "max_gpus_total": None,
        "max_removals": 10,
        "max_drains": 1,
        "first_backoff_s": 300.0,
        "max_backoff_s": 1800.0,
        "backoff_reset_s": 10_800.0,
        "expendable_priority": -10,
        "ignore_daemonsets": False,
    }
    bare = NodeGroup(name="a", shape=SHAPE)
    assert (bare.smallest, bare.largest, bare.target) == (0, 10, 0)
    there = Node(name="a", group=None, shape=SHAPE)
    assert (there.ready, there.disabled, there.being_deleted) == (True, False, False)
    assert (Resident(shape=HALF).daemonset, Resident(shape=HALF).mirror, Resident(shape=HALF).movable) == (
        False,
        False,
        True,
    )
    assert (Decision(memory=Memory()).add, Decision(memory=Memory()).waiting) == (0, 0)
    assert (karpenter.Pool(types=()).disruption_budget, SMALL.spot) == (0.1, False)
