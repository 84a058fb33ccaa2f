"""The rules of the Horizontal Pod Autoscaler and of KEDA, one fact at a time."""

from __future__ import annotations

import pytest

from penstock.control.autoscale import horizontal, keda, limits, replicas
from penstock.control.autoscale.arithmetic import INT32_MAX, INT32_MIN, INT64_MAX, ceiling, quotient, ratio
from penstock.control.autoscale.interface import MetricUnavailable, Settings, Tolerances
from penstock.control.autoscale.pods import Container, Pod, Sample, ready_count, request

NOW = 1000.0


def pods(count: int, request_m: int = 1000) -> tuple[Pod, ...]:
    return tuple(
        Pod(name=f"p{i}", start_t=0.0, ready_transition_t=0.0, containers=(Container("c", request_m),))
        for i in range(count)
    )


def cpu(target_pct: int, *used_m: int) -> horizontal.ResourceMetric:
    samples = {f"p{index}": Sample(value_m=value, t=NOW) for index, value in enumerate(used_m)}
    return horizontal.ResourceMetric(target_pct=target_pct, samples=samples)


def wanted(metric: horizontal.Metric, current: int, there: tuple[Pod, ...], **tolerance: float) -> int:
    target = horizontal.Target(replicas=current, pods=there)
    return horizontal.propose(metric, target, Tolerances(**tolerance), now=NOW, settings=Settings()).replicas


def test_doubles_are_part_of_the_rules() -> None:
    # 44/20 as a double is a little more than 2.2, so that 25 pods become 56 and not 55.
    assert wanted(cpu(20, *[440] * 25), 25, pods(25)) == 56
    up = limits.Rules(select="Max", policies=(limits.Policy(type="Percent", value=10, period_s=60),))
    assert limits.upper_limit(100, limits.Events(), up, NOW) == 111
    down = limits.Rules(select="Max", policies=(limits.Policy(type="Percent", value=90, period_s=60),))
    assert limits.lower_limit(100, limits.Events(), down, NOW) == 9


def test_quotients_lose_their_fraction_towards_zero_and_ratios_may_be_infinite() -> None:
    assert (quotient(7, 2), quotient(-7, 2), quotient(0, 3), quotient(-6, 3)) == (3, -3, 0, -2)
    assert (INT32_MAX, INT32_MIN, INT64_MAX) == (2147483647, -2147483648, 9223372036854775807)
    assert (ratio(1, 0.0), ratio(-1, 0.0)) == (float("inf"), float("-inf"))
    assert ratio(0, 0.0) != ratio(0, 0.0)
    assert (ceiling(2.0), ceiling(2.1), ceiling(float(INT32_MAX) + 1)) == (2, 3, INT32_MAX)


def test_the_bounds_of_the_tolerance_are_within_it() -> None:
    assert Tolerances(down=0.5, up=0.5).hold(1.5)
    assert Tolerances(down=0.5, up=0.5).hold(0.5)
    assert not Tolerances(down=0.5, up=0.25).hold(1.26)
    assert not Tolerances().hold(float("nan"))


def test_utilization_is_an_integer_percentage() -> None:
    # 559 of 1000 is 55 %, which of 50 % is within a tenth; 560 is 56 % and is not.
    assert wanted(cpu(50, 559), 1, pods(1)) == 1
    assert wanted(cpu(50, 560), 1, pods(1)) == 2


def test_who_is_silent_makes_every_change_smaller() -> None:
    assert wanted(cpu(50, 1000), 2, pods(2)) == 2  # taken for idle: 50 % on average
    assert wanted(cpu(50, 100), 2, pods(2)) == 2  # taken for busy: 55 %
    assert wanted(cpu(120, 100), 2, pods(2)) == 2  # and as busy as the target where that is above 100 %
    assert wanted(cpu(50, 4000), 2, pods(2)) == 8
    assert wanted(cpu(50, 500), 2, pods(2)) == 2  # exactly on target: nothing is guessed
    # Two silent ones of three at 100 % each are 66 % of a target of 67 %, and not 67 %.
    assert wanted(cpu(67, 0), 4, pods(3), down=0.0, up=0.0) == 3


def test_errors_name_what_is_missing() -> None:
    with pytest.raises(MetricUnavailable, match="missing request for cpu in container c of Pod p0"):
        wanted(cpu(50, 100), 1, (Pod(name="p0", start_t=0, ready_transition_t=0, containers=(Container("c"),)),))
    with pytest.raises(MetricUnavailable, match="container x not found in Pod p0"):
        request(pods(1)[0], "cpu", "x")
    with pytest.raises(MetricUnavailable, match="no metrics returned from resource metrics API"):
        wanted(cpu(50), 1, pods(1))
    with pytest.raises(MetricUnavailable, match="did not receive metrics for targeted pods"):
        wanted(cpu(50, 100), 1, (Pod(name="p0", phase="Pending"),))
    with pytest.raises(MetricUnavailable, match="no metrics returned matched known pods"):
        wanted(cpu(50, 100), 1, (Pod(name="other", containers=(Container("c", 1),)),))
    with pytest.raises(MetricUnavailable, match="no pods returned by selector"):
        wanted(cpu(50, 100), 1, ())
    with pytest.raises(MetricUnavailable, match="no pods returned by selector"):
        ready_count(())
    with pytest.raises(MetricUnavailable, match="no metrics returned from custom metrics API"):
        wanted(horizontal.PodsMetric(target_average_m=1), 1, pods(1))
    with pytest.raises(MetricUnavailable, match="no metrics returned from external metrics API"):
        wanted(horizontal.ExternalMetric(target_average_m=1), 1, pods(1))
    no_target = horizontal.ResourceMetric(samples=cpu(1, 1).samples)
    for metric in (no_target, horizontal.ObjectMetric(), horizontal.ExternalMetric(values_m=(1,))):
        with pytest.raises(MetricUnavailable, match="neither a value target nor an average value target"):
            wanted(metric, 1, pods(1))
    with pytest.raises(MetricUnavailable, match="unknown metric source type"):
        wanted(horizontal.UnknownMetric(), 1, pods(1))
    with pytest.raises(MetricUnavailable, match="broken"):
        wanted(horizontal.UnknownMetric(failure="broken"), 1, pods(1))


def test_sums_and_averages_end_at_the_largest_integer() -> None:
    assert replicas.sum_of_series([INT64_MAX, 1]) == INT64_MAX
    assert replicas.sum_of_series([INT64_MAX - 1, 1]) == INT64_MAX
    assert replicas.sum_of_series([5, -7]) == -2
    assert replicas.sum_of_series_per_replica([5, -7]) == INT64_MAX
    assert replicas.sum_of_series_per_replica([0]) == 0
    assert replicas.per_replica(INT64_MAX, 3) == INT64_MAX
    assert replicas.per_replica(1000, 3) == 334
    assert replicas.per_replica(1000, 0) == 0


def test_a_status_shows_what_was_used() -> None:
    target = horizontal.Target(replicas=2, pods=pods(2))

    def proposed(metric: horizontal.Metric) -> tuple[int, int]:
        found = horizontal.propose(metric, target, Tolerances(), now=NOW, settings=Settings())
        return found.usage, found.average_m

    assert proposed(cpu(50, 300, 501)) == (40, 400)
    assert proposed(cpu(50, 300)) == (30, 300)
    samples = {"p0": Sample(value_m=3), "p1": Sample(value_m=4)}
    assert proposed(horizontal.PodsMetric(target_average_m=1, samples=samples)) == (3, 0)
    assert proposed(horizontal.PodsMetric(target_average_m=1, samples={"p0": Sample(value_m=3)})) == (3, 0)
    assert proposed(horizontal.ObjectMetric(value_m=7, target_m=7)) == (7, 0)
    assert proposed(horizontal.ObjectMetric(value_m=70, target_m=7)) == (70, 0)
    assert proposed(horizontal.ObjectMetric(value_m=7, target_average_m=7)) == (4, 0)
    assert proposed(horizontal.ExternalMetric(values_m=(3, 4), target_m=7)) == (7, 0)
    gone = horizontal.Target(replicas=0)
    assert horizontal.propose(
        horizontal.ObjectMetric(value_m=15, target_m=7), gone, Tolerances(), now=NOW, settings=Settings()
    ) == horizontal.Proposal(replicas=3, usage=15)


def test_reasons_name_the_first_metric_that_failed() -> None:
    named = {
        "FailedGetResourceMetric": horizontal.ResourceMetric(failure="x"),
        "FailedGetContainerResourceMetric": horizontal.ResourceMetric(container="c", failure="x"),
        "FailedGetPodsMetric": horizontal.PodsMetric(target_average_m=1, failure="x"),
        "FailedGetObjectMetric": horizontal.ObjectMetric(failure="x"),
        "FailedGetExternalMetric": horizontal.ExternalMetric(failure="x"),
        "InvalidMetricSourceType": horizontal.UnknownMetric(),
    }
    autoscaler, target = horizontal.Autoscaler(largest=9), horizontal.Target(replicas=3, pods=pods(3))
    for reason, metric in named.items():
        last = horizontal.PodsMetric(target_average_m=1, failure="y")
        decision = horizontal.step(autoscaler, target, [metric, last], horizontal.Memory(), now=NOW)
        assert (decision.active, decision.replicas, decision.written) == (reason, 3, False)
        assert len(decision.failures) == 2


def test_a_metric_that_fails_keeps_the_count_from_falling_and_not_from_rising() -> None:
    autoscaler, target = horizontal.Autoscaler(largest=9), horizontal.Target(replicas=2, pods=pods(2))
    broken = horizontal.ExternalMetric(failure="x")
    memory = horizontal.Memory(recommendations=())
    down = horizontal.step(autoscaler, target, [broken, cpu(50, 100, 100)], memory, now=NOW)
    assert (down.replicas, down.active, down.wanted) == (2, "FailedGetExternalMetric", None)
    up = horizontal.step(autoscaler, target, [broken, cpu(50, 1000, 1000)], memory, now=NOW)
    assert (up.replicas, up.active, up.failures, up.wanted) == (4, "ValidMetricFound", ("x",), 4)


def test_a_new_controller_holds_for_its_window() -> None:
    autoscaler, target = horizontal.Autoscaler(largest=9), horizontal.Target(replicas=4, pods=pods(4))
    idle = cpu(50, 0, 0, 0, 0)
    memory, counts = horizontal.Memory(), []
    for late_s in (0.0, 15.0, 300.0, 300.5):
        decision = horizontal.step(autoscaler, target, [idle], memory, now=NOW + late_s)
        counts.append(decision.replicas)
        memory = decision.memory
    assert counts == [4, 4, 4, 1]


def test_zero_is_left_alone_unless_the_autoscaler_itself_went_there() -> None:
    autoscaler = horizontal.Autoscaler(smallest=0, largest=9)
    queue = horizontal.ExternalMetric(values_m=(0,), target_average_m=1000)
    one = horizontal.Target(replicas=1, pods=pods(1))
    down = horizontal.step(autoscaler, one, [queue], horizontal.Memory(recommendations=()), now=NOW)
    assert (down.replicas, down.memory.scaled_to_zero) == (0, True)
    busy = horizontal.ExternalMetric(values_m=(2500,), target_average_m=1000)
    asleep = horizontal.Target(replicas=0)
    assert horizontal.step(autoscaler, asleep, [busy], down.memory, now=NOW).replicas == 3
    foreign = horizontal.step(autoscaler, asleep, [busy], horizontal.Memory(), now=NOW)
    assert (foreign.replicas, foreign.written, foreign.active) == (0, False, "ScalingDisabled")
    off = horizontal.step(autoscaler, asleep, [busy], down.memory, now=NOW, settings=Settings(scale_to_zero=False))
    assert off.active == "ScalingDisabled"
    raised = horizontal.Autoscaler(smallest=2, largest=9)
    assert horizontal.step(raised, asleep, [queue], down.memory, now=NOW).replicas == 2
    # Resource metrics say nothing without pods, so such a target sleeps on.
    assert horizontal.step(autoscaler, asleep, [cpu(50)], down.memory, now=NOW).active == "ScalingDisabled"


def test_defaults_are_those_of_kubernetes() -> None:
    assert (Settings().sync_period_s, Settings().tolerance) == (15.0, 0.1)
    assert (Settings().cpu_initialization_s, Settings().initial_readiness_delay_s) == (300.0, 30.0)
    up, down = limits.Behavior().filled(300.0)
    assert (up.stabilization_s, up.select, down.stabilization_s, down.select) == (0.0, "Max", 300.0, "Max")
    assert [(p.type, p.value, p.period_s) for p in up.policies or ()] == [("Pods", 4, 15.0), ("Percent", 100, 15.0)]
    assert [(p.type, p.value, p.period_s) for p in down.policies or ()] == [("Percent", 100, 15.0)]
    _, shorter = limits.Behavior(scale_down=limits.Rules(stabilization_s=10.0)).filled(300.0)
    assert shorter.stabilization_s == 10.0
    assert (keda.Waking().polling_s, keda.Waking().cooldown_s, keda.Trigger().lag_threshold) == (30.0, 300.0, 10)


def test_tolerances_may_differ_by_direction() -> None:
    behavior = limits.Behavior(scale_up=limits.Rules(tolerance=0.0), scale_down=limits.Rules(tolerance=0.5))
    found = horizontal.tolerances(behavior, Settings())
    assert (found.up, found.down) == (0.0, 0.5)
    assert horizontal.tolerances(None, Settings(tolerance=0.2)) == Tolerances(up=0.2, down=0.2)
    assert horizontal.tolerances(limits.Behavior(), Settings(tolerance=0.2)) == Tolerances(up=0.2, down=0.2)


def test_a_policy_without_any_room_left_holds() -> None:
    none = limits.Rules(select="Max", policies=())
    assert limits.limit_rate(3, 9, 1, 10, none, none, limits.Events(), NOW) == (3, "ScaleUpLimit")
    assert limits.limit_rate(3, 1, 1, 10, none, none, limits.Events(), NOW) == (3, "ScaleDownLimit")


def test_keda_bounds_the_lag_by_the_partitions() -> None:
    trigger = keda.Trigger(lag_threshold=10)
    lagging = [keda.Partition(end=100, committed=0), keda.Partition(end=5, committed=5)]
    assert keda.total_lag(lagging, trigger) == (20, 100)
    assert keda.metric(lagging, trigger) == horizontal.ExternalMetric(values_m=(20_000,), target_average_m=10_000)
    assert keda.total_lag(lagging, keda.Trigger(allow_idle_consumers=True)) == (100, 100)
    assert keda.total_lag(lagging, keda.Trigger(only_partitions_with_lag=True)) == (10, 100)
    barely = [keda.Partition(end=100, committed=0), keda.Partition(end=5, committed=4)]
    assert keda.total_lag(barely, keda.Trigger(only_partitions_with_lag=True)) == (20, 101)
    # The quotient loses its fraction, as in KEDA: 29 of 10 on two partitions is not more than two.
    assert keda.total_lag([keda.Partition(end=29, committed=0), keda.Partition(end=0, committed=0)], trigger)[0] == 29


def test_keda_counts_what_has_no_committed_offset_as_one() -> None:
    assert keda.lag(keda.Partition(end=50), keda.Trigger()) == 1
    assert keda.lag(keda.Partition(end=50), keda.Trigger(scale_to_zero_on_invalid_offset=True)) == 0
    assert keda.lag(keda.Partition(end=5, committed=9), keda.Trigger()) == 0
    stuck = keda.Partition(end=50, committed=40, previous=40)
    assert keda.lag(stuck, keda.Trigger()) == 10
    assert keda.lag(stuck, keda.Trigger(exclude_persistent_lag=True)) == 0
    moving = keda.Partition(end=50, committed=40, previous=39)
    assert keda.lag(moving, keda.Trigger(exclude_persistent_lag=True)) == 10
    assert not keda.is_active([keda.Partition(end=5, committed=0)], keda.Trigger(activation_lag=5))
    assert keda.is_active([keda.Partition(end=6, committed=0)], keda.Trigger(activation_lag=5))


@pytest.mark.parametrize(
    ("replicas", "active", "idle_s", "waking", "expected"),
    [
        (0, True, 0.0, keda.Waking(), 1),
        (0, True, 0.0, keda.Waking(smallest=3, idle=0), 3),
        (2, True, 0.0, keda.Waking(smallest=3, idle=0), 3),
        (3, True, 0.0, keda.Waking(smallest=3, idle=0), 3),
        (2, True, 0.0, keda.Waking(smallest=3), 2),
        (7, True, 0.0, keda.Waking(), 7),
        (7, False, 300.0, keda.Waking(), 7),
        (7, False, 300.5, keda.Waking(), 0),
        (7, False, None, keda.Waking(), 0),
        (0, False, None, keda.Waking(), 0),
        (7, False, 301.0, keda.Waking(smallest=2, idle=1), 1),
        (1, False, 301.0, keda.Waking(smallest=2, idle=1), 1),
        (7, False, 301.0, keda.Waking(smallest=2), 7),
        (1, False, 301.0, keda.Waking(smallest=2), 2),
    ],
)
def test_keda_wakes_the_first_replica_and_ends_the_last(
    replicas: int, active: bool, idle_s: float | None, waking: keda.Waking, expected: int
) -> None:
    last_active_t = None if idle_s is None else NOW - idle_s
    assert keda.wake(replicas, active, last_active_t, waking, NOW) == expected


def test_tolerances_and_samples_have_their_defaults() -> None:
    assert (Tolerances().down, Tolerances().up) == (0.1, 0.1)
    assert (Settings().downscale_stabilization_s, Settings().scale_to_zero) == (300.0, True)
    assert (Sample(value_m=1).t, Sample(value_m=1).window_s) == (0.0, 60.0)
    assert horizontal.Autoscaler(largest=1).smallest == 1
    assert horizontal.ObjectMetric().value_m == 0
    plain = Pod(name="p")
    assert (plain.phase, plain.ready, plain.deleted, plain.start_t) == ("Running", True, False, None)
    assert not Container().restart_always
    assert horizontal.Memory() == horizontal.Memory(recommendations=None, scaled_to_zero=False)
    assert not horizontal.Memory().scaled_to_zero
    assert limits.Event(1, 0.0) == limits.Event(1, 0.0, outdated=False)
    trigger = keda.Trigger()
    flags = (trigger.allow_idle_consumers, trigger.only_partitions_with_lag, trigger.exclude_persistent_lag)
    assert flags == (False, False, False)
    assert (trigger.scale_to_zero_on_invalid_offset, trigger.activation_lag, keda.Waking().smallest) == (False, 0, 0)


def test_a_count_that_is_wanted_as_it_is_is_left_as_it_is() -> None:
    up, down = limits.Behavior().filled(300.0)
    assert limits.limit_rate(5, 5, 1, 3, up, down, limits.Events(), NOW) == (5, "DesiredWithinRange")
    assert limits.limit_rate(5, 5, 7, 9, up, down, limits.Events(), NOW) == (5, "DesiredWithinRange")
    assert limits.remember(3, 3, up, down, limits.Events(), NOW) == limits.Events(down=(limits.Event(0, NOW),))


def test_without_policies_every_older_event_is_outdated() -> None:
    none = limits.Rules(policies=())
    before = limits.Events(up=(limits.Event(7, NOW - 0.5),))
    assert limits.remember(1, 3, none, none, before, NOW).up == (limits.Event(2, NOW),)


def test_of_two_containers_of_one_name_the_first_counts() -> None:
    twin = Container("c", 50, restart_always=True)
    assert request(Pod(name="p", containers=(Container("c", 100),), init_containers=(twin,)), "cpu", "c") == 100
    assert request(Pod(name="p", containers=(Container("c", 100),), init_containers=(twin,)), "cpu", None) == 150
