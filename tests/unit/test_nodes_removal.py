"""Which nodes may go, and why the others stay."""

from __future__ import annotations

import pytest

from penstock.control.nodes import removal
from penstock.control.nodes.removal import Candidate, Resident, ResourceUnknown, Usage

NODE = Usage(cpu_m=2000, memory_b=2000)
POD = Resident(cpu_m=100, memory_b=200)
DAEMON = Resident(cpu_m=100, memory_b=200, daemonset=True)
MIRROR = Resident(cpu_m=100, memory_b=200, mirror=True)


def test_the_larger_share_counts() -> None:
    assert removal.utilization(NODE, [POD, POD]) == 0.2
    assert removal.utilization(NODE, [Resident(cpu_m=500, memory_b=200)]) == 0.25
    assert removal.cpu_share(NODE, [POD, POD, Resident(cpu_m=900, long_terminating=True)]) == 0.1
    assert removal.utilization(NODE, []) == 0.0


def test_what_is_left_out_makes_the_node_smaller() -> None:
    assert removal.utilization(NODE, [POD, POD, DAEMON, DAEMON], ignore_daemonsets=True) == 0.25
    assert removal.utilization(NODE, [POD, DAEMON]) == 0.2
    assert removal.utilization(NODE, [POD, POD, MIRROR], ignore_mirrors=True) == pytest.approx(2 / 9)
    assert removal.utilization(NODE, [POD, MIRROR]) == 0.2
    assert removal.utilization(NODE, [POD, MIRROR, DAEMON], ignore_daemonsets=True, ignore_mirrors=True) == 0.125
    assert removal.utilization(NODE, [POD, MIRROR], ignore_daemonsets=True) == 0.2
    assert removal.utilization(NODE, [POD, DAEMON], ignore_mirrors=True) == 0.2
    whole = Resident(cpu_m=2000, memory_b=2000, daemonset=True)
    assert removal.utilization(NODE, [whole], ignore_daemonsets=True) == 0.0
    assert removal.utilization(NODE, [whole, POD], ignore_daemonsets=True) == float("inf")


def test_of_a_node_with_devices_only_they_count() -> None:
    node = Usage(cpu_m=2000, memory_b=2000, gpu=4)
    assert removal.utilization(node, [POD, Resident(cpu_m=1900, gpu=1)]) == 0.25
    waiting = Usage(cpu_m=2000, memory_b=2000, is_labelled_for_devices=True)
    assert removal.utilization(waiting, [POD, POD]) == 0.0
    marked = Usage(cpu_m=2000, memory_b=2000, gpu=2, is_labelled_for_devices=True)
    assert removal.utilization(marked, [Resident(gpu=1)]) == 0.5
    daemon = Resident(gpu=1, daemonset=True)
    assert removal.utilization(node, [daemon, Resident(gpu=1)], ignore_daemonsets=True) == pytest.approx(1 / 3)


def test_a_pod_that_has_been_ending_for_long_does_not_count() -> None:
    ending = Resident(cpu_m=1000, memory_b=1000, gpu=1, long_terminating=True)
    assert removal.utilization(NODE, [POD, ending]) == 0.1
    assert removal.utilization(Usage(cpu_m=1, memory_b=1, gpu=1), [ending]) == 0.0


@pytest.mark.parametrize(
    "node", [Usage(cpu_m=None, memory_b=1), Usage(cpu_m=1, memory_b=None), Usage(cpu_m=0, memory_b=1)]
)
def test_nothing_is_said_of_a_node_that_says_nothing(node: Usage) -> None:
    with pytest.raises(ResourceUnknown):
        removal.utilization(node, [])


def test_who_is_no_candidate() -> None:
    assert removal.eligible(0.5) is None
    assert removal.eligible(0.51) == "NotUnderutilized"
    assert removal.eligible(0.6, threshold=0.6) is None
    assert removal.eligible(0.0, being_deleted=True, disabled=True) == "CurrentlyBeingDeleted"
    assert removal.eligible(0.9, disabled=True, ready=False) == "ScaleDownDisabledAnnotation"
    assert removal.eligible(0.9, ready=False, scale_down_unready=False) == "ScaleDownUnreadyDisabled"
    assert removal.eligible(0.1, ready=False) is None
    assert removal.eligible(0.1, scale_down_unready=False) is None


def test_the_clock_starts_again_when_a_node_was_needed() -> None:
    assert removal.since({"a": 1.0, "b": 2.0}, ["b", "c"], 9.0) == {"b": 2.0, "c": 9.0}


def candidate(**more: object) -> Candidate:
    given = {"unneeded_for_s": 601.0, "group_size": 2, "smallest": 1, **more}
    return Candidate(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (candidate(), None),
        (candidate(disabled=True, in_group=False), "ScaleDownDisabledAnnotation"),
        (candidate(in_group=False, unneeded_time_s=None), "NotAutoscaled"),
        (candidate(unneeded_time_s=None), "UnexpectedError"),
        (candidate(ready=False, unready_time_s=None), "UnexpectedError"),
        (candidate(unneeded_for_s=600.0), "NotUnneededLongEnough"),
        (candidate(unneeded_for_s=600.5), None),
        (candidate(ready=False, unneeded_for_s=1200.0), "NotUnreadyLongEnough"),
        (candidate(ready=False, unneeded_for_s=1200.5), None),
        (candidate(group_size=1), "NodeGroupMinSizeReached"),
        (candidate(nodes_left=3, cluster_size=3), "MinimalResourceLimitExceeded"),
        (candidate(nodes_left=3, cluster_size=4), None),
        (candidate(group_size=1, nodes_left=3, cluster_size=3), "NodeGroupMinSizeReached"),
    ],
)
def test_why_a_candidate_stays(node: Candidate, why: str | None) -> None:
    assert removal.blocked(node) == why


@pytest.mark.parametrize(
    ("empty", "drain", "size", "in_progress", "expected"),
    [(3, 2, 10, 2, (3, 2)), (3, 5, 10, 2, (3, 4)), (3, 5, 5, 2, (2, 0)), (1, 1, 1, 0, (0, 0)), (1, 1, 2, 2, (0, 0))],
)
def test_empty_nodes_go_first(empty: int, drain: int, size: int, in_progress: int, expected: tuple[int, int]) -> None:
    assert removal.removable(empty, drain, smallest=1, size=size, in_progress=in_progress) == expected


def test_defaults() -> None:
    assert (Candidate(unneeded_for_s=0.0, group_size=1).unneeded_time_s, Resident().cpu_m) == (600.0, 0)
    plain = Candidate(unneeded_for_s=0.0, group_size=1)
    assert (plain.unready_time_s, plain.ready, plain.disabled, plain.in_group) == (1200.0, True, False, True)
    assert (plain.smallest, plain.cluster_size) == (0, 0)
    pod = Resident()
    assert (pod.memory_b, pod.gpu, pod.daemonset, pod.mirror, pod.long_terminating) == (0, 0, False, False, False)
    assert not Usage(cpu_m=1, memory_b=1).is_labelled_for_devices
