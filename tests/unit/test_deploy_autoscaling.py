"""The policy as objects of Kubernetes and KEDA: what is written is what was meant, and names what there is."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import metrics
from penstock.control.autoscale import keda
from penstock.control.autoscale.horizontal import Autoscaler
from penstock.control.autoscale.limits import Behavior, Policy, Rules
from penstock.control.foresight.decide import Settings
from penstock.control.foresight.express import express, run, saying
from penstock.control.simulate import traffic
from penstock.control.simulate.scenario import Scaling
from penstock.deploy import autoscaling, objects, reading
from penstock.deploy.autoscaling import Kafka
from penstock.errors import BadFile
from penstock.serve.readings import readings
from penstock.specfile.reader import loads

SPEC = loads("name: Orders_2\ntask: binary\nfeatures: {price: number}\n")
SETTINGS = Settings(concurrency=4, start_s=120.0, largest=40)
PROMETHEUS = "http://prometheus:9090"
FOUND = ("Found on the requests of a test.",)


def files(form: autoscaling.As, kafka: Kafka | None = None) -> dict[str, str]:
    return autoscaling.files(
        SPEC, saying(8, 3.2, 60.0, SETTINGS), form, prometheus=PROMETHEUS, kafka=kafka, found=FOUND
    )


@pytest.mark.parametrize("form", ["hpa", "keda"])
def test_files_are_what_they_were(form: autoscaling.As, golden: Callable[[str, str], None]) -> None:
    for name, text in files(form).items():
        golden(name, text)


def test_the_learner_may_be_woken_by_a_topic(golden: Callable[[str, str], None]) -> None:
    text = files("keda", Kafka("kafka:9092", "orders", "learner"))["orders-2-learner-scaledobject.yaml"]
    golden("orders-2-learner-scaledobject-kafka.yaml", text)
    (trigger,) = objects.from_yaml(text, objects.ScaledObject).spec.triggers
    assert reading.kafka(trigger) == keda.Trigger(lag_threshold=autoscaling.LAG_THRESHOLD)


rules = st.one_of(
    st.none(),
    st.builds(
        Rules,
        stabilization_s=st.one_of(st.none(), st.integers(0, 3600).map(float)),
        select=st.sampled_from([None, "Max", "Min", "Disabled"]),
        policies=st.one_of(
            st.none(),
            st.lists(
                st.builds(
                    Policy,
                    type=st.sampled_from(["Pods", "Percent"]),
                    value=st.integers(1, 5000),
                    period_s=st.integers(1, 1800).map(float),
                ),
                min_size=1,
                max_size=3,
            ).map(tuple),
        ),
        tolerance=st.one_of(st.none(), st.integers(0, 2000).map(lambda thousandths: thousandths / 1000.0)),
    ),
)
scalings = st.builds(
    lambda smallest, more, up, down, target_m: Scaling(
        autoscaler=Autoscaler(
            smallest=smallest, largest=smallest + more, behavior=Behavior(scale_up=up, scale_down=down)
        ),
        metric="requests",
        target=target_m / 1000.0,
    ),
    st.integers(1, 500),
    st.integers(0, 500),
    rules,
    rules,
    st.integers(1, 10**7),
)


@given(scalings)
@settings(max_examples=25)
def test_what_is_read_back_is_what_was_written(scaling: Scaling) -> None:
    assert reading.horizontal(autoscaling.servers_hpa("orders", scaling)) == scaling
    assert reading.scaled(autoscaling.servers_scaled("orders", scaling, PROMETHEUS)) == scaling


def test_every_name_that_is_asked_of_prometheus_is_one_that_servers_tell() -> None:
    metrics.ServiceMetrics("orders")
    told = metrics.text(readings(())).decode()
    texts = (
        autoscaling.servers_scaled("orders", saying(8, 3.2, 60.0, SETTINGS), PROMETHEUS),
        autoscaling.learner_scaled("orders", PROMETHEUS, None),
        autoscaling.adapter_rules(60.0),
    )
    asked = {name for text in texts for name in re.findall(r"penstock_\w+(?=\{)", text)}
    assert asked == {autoscaling.ANSWERS, autoscaling.LAG}
    assert f'{autoscaling.ANSWERS}{{service="orders"}}' in told
    assert f"# TYPE {autoscaling.LAG} gauge" in told


def test_the_plain_autoscaler_asks_for_the_metric_that_the_adapter_gives() -> None:
    hpa, rules = (yaml.safe_load(text) for text in files("hpa").values())
    asked = hpa["spec"]["metrics"][0]["external"]["metric"]
    assert asked["name"] == rules["externalRules"][0]["name"]["as"]
    assert asked["selector"]["matchLabels"] == {"service": SPEC.name}


def test_the_learner_rests_while_nothing_waits_and_is_one_otherwise() -> None:
    waking, most = reading.waking(files("keda")["orders-2-learner-scaledobject.yaml"])
    assert most == 1
    assert keda.wake(1, False, 0.0, waking, 300.0) == 1
    assert keda.wake(1, False, 0.0, waking, 300.1) == 0
    assert keda.wake(0, True, 400.0, waking, 400.0) == 1
    assert keda.wake(1, True, 401.0, waking, 401.0) == 1


def test_servers_never_rest() -> None:
    spec = objects.from_yaml(files("keda")["orders-2-servers-scaledobject.yaml"], objects.ScaledObject).spec
    assert spec.idle_replica_count is None
    assert spec.min_replica_count >= 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("maxReplicas", "maximumReplicas"), "maximumReplicas"),
        (("autoscaling/v2", "autoscaling/v1"), "autoscaling/v1"),
        (("AverageValue", "Value"), "Value"),
        (("3200m", "many"), "'many' is no number"),
        (("  minReplicas: 8\n", ""), "minReplicas"),
    ],
)
def test_an_object_that_would_mean_something_else_is_refused(change: tuple[str, str], said: str) -> None:
    text = files("hpa")["orders-2-servers-hpa.yaml"]
    assert change[0] in text
    with pytest.raises(BadFile, match=said):
        reading.horizontal(text.replace(*change))


@settings(max_examples=25)
@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", fullmatch=True))
def test_names_are_names_of_kubernetes(service: str) -> None:
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", autoscaling.object_name(service))


def busy_after_calm() -> tuple[Any, Any]:
    """An hour: forty calm minutes, and twenty with four times as many requests, which take 2 s."""
    rng = np.random.default_rng(4)
    arrivals = np.concatenate([traffic.steady(2.0, 2400.0, rng), 2400.0 + traffic.steady(8.0, 1200.0, rng)])
    return arrivals, traffic.services(len(arrivals), 2.0, rng, shape=4.0)


def test_the_floor_is_the_least_with_which_the_promise_was_kept() -> None:
    arrivals, services = busy_after_calm()
    own = Settings(concurrency=1, start_s=20.0, largest=60, late_max=0.02)
    found = express(arrivals, services, 3600.0, own)
    bounds, target = found.scaling.autoscaler, found.scaling.target
    assert found.kept
    assert bounds.smallest < bounds.largest
    assert found.way.late <= own.late_max
    assert found.way.replicas < found.fixed.replicas
    assert bounds.behavior is not None
    assert bounds.behavior.scale_down is not None
    hold_s = bounds.behavior.scale_down.stabilization_s or 0.0
    fewer = saying(bounds.smallest - 1, target, hold_s, own)
    assert run(arrivals, services, 3600.0, own, bounds.smallest - 1, fewer).late > own.late_max


def test_the_floor_is_the_fixed_count_where_following_saves_nothing() -> None:
    rng = np.random.default_rng(5)
    arrivals = traffic.steady(4.0, 3600.0, rng)
    services = traffic.services(len(arrivals), 2.0, rng, shape=4.0)
    found = express(arrivals, services, 3600.0, Settings(concurrency=1, start_s=600.0, largest=60))
    bounds = found.scaling.autoscaler
    assert (bounds.smallest, bounds.largest) == (found.fixed.replicas, 60)
    # More are there for what was not foreseen, and hardly any come for what was.
    assert found.fixed.replicas <= found.way.replicas < 1.05 * found.fixed.replicas


def test_a_promise_that_nothing_keeps_is_told() -> None:
    arrivals, services = busy_after_calm()
    found = express(arrivals, services, 3600.0, Settings(concurrency=1, start_s=20.0, largest=5))
    assert not found.kept
    assert found.scaling.autoscaler.smallest == 5
