"""Two implementations of the autoscaler's rules, over random clusters that lean towards the edges of every rule."""

from __future__ import annotations

import random
from typing import Any

import autoscale_reference as reference
import msgspec
import pytest

from penstock.control.autoscale import horizontal, limits
from penstock.control.autoscale.interface import Settings
from penstock.control.autoscale.pods import Container, Pod, Sample

World = dict[str, Any]


def pod(rng: random.Random, index: int, now: float) -> World:
    start = rng.choice([None, now - rng.choice([0, 5, 119, 120, 121, 200, 600])])
    moved = None if start is None else rng.choice([start, start + 9, start + 10, start + 11, now - 60, now - 30])
    ready = rng.choice([True, True, True, True, False, None])
    containers = {name: rng.choice([100, 100, 200, 250, 0, 1000]) for name in ("a", "b")[: rng.choice([1, 2, 2])]}
    if rng.random() < 0.01:
        containers["a"] = None  # type: ignore[assignment]
    return {
        "name": f"p{index}",
        "phase": rng.choice(["Running"] * 12 + ["Pending", "Failed", "Succeeded", "Unknown"]),
        "ready": None if moved is None else ready,
        "start": start,
        "moved": moved,
        "deleted": rng.random() < 0.05,
        "containers": containers,
        "sidecars": {"s": rng.choice([10, 50])} if rng.random() < 0.1 else {},
        "whole": rng.choice([300, 400]) if rng.random() < 0.05 else None,
    }


def metric(rng: random.Random, pods: list[World], now: float) -> World:
    kind = rng.choice(["cpu", "cpu", "memory", "cpu_value", "pods", "object", "external"])
    found: World = {"kind": kind, "broken": rng.random() < 0.08, "pct": None, "avg": None, "whole": None}
    if kind in ("object", "external"):
        large = rng.random() < 0.05
        values = [
            rng.choice([0, 1, 899, 900, 901, 1000, 1099, 1100, 1101, 5000, 9000]) for _ in range(rng.randint(0, 3))
        ]
        values = [reference.MAX64 // rng.choice([1, 2, 3]) for _ in values] if large else values
        values = [-value for value in values] if rng.random() < 0.02 else values
        target = rng.choice([1, 100, 1000, 3000])
        found |= {"series": values if kind == "external" else None, "value": sum(values)}
        found |= rng.choice([{"whole": target}, {"avg": target}, {"whole": target, "avg": 500}])
        return found
    silence = rng.choice([0.0, 0.0, 0.1, 0.5])
    low, high = rng.choice([(0, 50), (50, 120), (80, 120), (150, 400), (0, 400)])
    samples = {}
    for each in [*pods, {"name": "stranger"}][: len(pods) + (rng.random() < 0.1)]:
        if rng.random() >= silence:
            at = {"t": now - rng.choice([0, 30, 60, 61]), "window": rng.choice([0, 30, 60])}
            samples[each["name"]] = {"value": rng.randint(low, high), **at}
    found |= {"samples": samples, "cpu": kind.startswith("cpu"), "container": None}
    if kind in ("cpu", "memory"):
        found |= {"pct": rng.choice([20, 50, 100, 120]), "container": rng.choice([None, None, None, "a", "b"])}
    else:
        found["avg"] = rng.choice([50, 100, 101])
    return found


def direction(rng: random.Random) -> World | None:
    if rng.random() < 0.2:
        return None
    policy = [("Pods", v) for v in (1, 2, 5)] + [("Percent", v) for v in (1, 10, 33, 50, 100, 200)]
    policies = [(*rng.choice(policy), rng.choice([15, 30, 60])) for _ in range(rng.randint(1, 2))]
    return {
        "window": rng.choice([None, 0, 30, 60, 300]),
        "select": rng.choice([None, "Max", "Min", "Disabled"]),
        "policies": rng.choice([None, policies, policies]),
        "tolerance": rng.choice([None, None, 0.0, 0.05, 0.5]),
    }


def world(rng: random.Random) -> World:
    now = 10_000.0
    pods = [pod(rng, index, now) for index in range(rng.choice([0, 1, 2, 3, 3, 4, 5, 8, 25]))]
    ages = [0, 14, 15, 16, 29, 30, 31, 59, 60, 61, 299, 300, 301]
    running = len(pods)
    current = max(0, running + rng.choice([0, 0, 0, 0, -1, 1, -running]))
    bounds = sorted((rng.choice([0, 1, 1, 2, 3, 5]), rng.choice([2, 3, 5, 10, 30, 100])))

    def events() -> list[World]:
        return [
            {"change": rng.randint(1, 5), "t": now - rng.choice(ages), "old": False} for _ in range(rng.randint(0, 3))
        ]

    return {
        "now": now,
        "pods": pods,
        "current": current,
        "status": current if rng.random() < 0.7 else max(0, current + rng.choice([-1, 1])),
        "min": bounds[0],
        "max": max(1, bounds[1]),
        "metrics": [metric(rng, pods, now) for _ in range(rng.choice([0, 1, 1, 1, 1, 2, 3]))],
        "behavior": None if rng.random() < 0.4 else {"up": direction(rng), "down": direction(rng)},
        "history": None
        if rng.random() < 0.2
        else [{"replicas": rng.randint(0, 12), "t": now - rng.choice(ages)} for _ in range(rng.randint(0, 4))],
        "events": {"up": events(), "down": events()},
        "zeroed": rng.random() < 0.5,
        "may_zero": rng.random() < 0.8,
        "tolerance": 0.1,
        "init_s": 120.0,
        "delay_s": 10.0,
        "down_s": 300.0,
    }


def ours(given: World) -> horizontal.Decision:
    def rules(side: World | None) -> limits.Rules | None:
        if side is None:
            return None
        policies = side["policies"] and tuple(
            limits.Policy(type=t, value=v, period_s=p) for t, v, p in side["policies"]
        )
        return limits.Rules(
            stabilization_s=side["window"], select=side["select"], policies=policies, tolerance=side["tolerance"]
        )

    def events(side: str) -> tuple[limits.Event, ...]:
        return tuple(limits.Event(each["change"], each["t"], each["old"]) for each in given["events"][side])

    behavior = given["behavior"] and limits.Behavior(
        scale_up=rules(given["behavior"]["up"]), scale_down=rules(given["behavior"]["down"])
    )
    history = given["history"]
    return horizontal.step(
        horizontal.Autoscaler(smallest=given["min"], largest=given["max"], behavior=behavior),
        horizontal.Target(
            replicas=given["current"], status_replicas=given["status"], pods=tuple(map(_pod, given["pods"]))
        ),
        [_metric(each) for each in given["metrics"]],
        horizontal.Memory(
            recommendations=None
            if history is None
            else tuple(limits.Recommendation(past["replicas"], past["t"]) for past in history),
            events=limits.Events(up=events("up"), down=events("down")),
            scaled_to_zero=given["zeroed"],
        ),
        now=given["now"],
        settings=Settings(
            tolerance=given["tolerance"],
            cpu_initialization_s=given["init_s"],
            initial_readiness_delay_s=given["delay_s"],
            downscale_stabilization_s=given["down_s"],
            scale_to_zero=given["may_zero"],
        ),
    )


def _pod(given: World) -> Pod:
    sidecars = [Container(name, request, restart_always=True) for name, request in given["sidecars"].items()]
    return Pod(
        name=given["name"],
        phase=given["phase"],
        ready=given["ready"],
        start_t=given["start"],
        ready_transition_t=given["moved"],
        deleted=given["deleted"],
        containers=tuple(Container(name, request) for name, request in given["containers"].items()),
        init_containers=(Container("once", 10_000), *sidecars),
        pod_request_m=given["whole"],
    )


def _metric(given: World) -> horizontal.Metric:
    failure = "unreadable" if given["broken"] else ""
    if given["kind"] == "object":
        return horizontal.ObjectMetric(
            failure=failure, value_m=given["value"], target_m=given["whole"], target_average_m=given["avg"]
        )
    if given["kind"] == "external":
        return horizontal.ExternalMetric(
            failure=failure, values_m=tuple(given["series"]), target_m=given["whole"], target_average_m=given["avg"]
        )
    samples = {
        name: Sample(value_m=each["value"], t=each["t"], window_s=each["window"])
        for name, each in given["samples"].items()
    }
    if given["kind"] == "pods":
        return horizontal.PodsMetric(failure=failure, target_average_m=given["avg"], samples=samples)
    return horizontal.ResourceMetric(
        failure=failure,
        resource="cpu" if given["cpu"] else "memory",
        container=given["container"],
        target_pct=given["pct"],
        target_average_m=given["avg"],
        samples=samples,
    )


def compare(seed: int, steps: int) -> dict[str, int]:
    rng = random.Random(seed)
    seen: dict[str, int] = {}
    for _ in range(steps):
        given = world(rng)
        decided = ours(given)
        before = msgspec.json.encode(given)
        count, why = reference.step(given)
        what = (seed, before.decode())
        assert decided.replicas == count, what
        assert decided.written == (count != given["current"]), what
        if why == "failed":
            assert decided.active.startswith("Failed") or not given["metrics"], what
        else:
            assert (decided.limited or "") == ("" if why == "disabled" else why), what
            assert (decided.active == "ScalingDisabled") == (why == "disabled"), what
        memory = decided.memory
        past = [(each.replicas, each.t) for each in memory.recommendations or ()]
        assert past == [(each["replicas"], each["t"]) for each in given["history"]], what
        for side in ("up", "down"):
            kept = [(each.change, each.t, each.outdated) for each in getattr(memory.events, side)]
            assert kept == [(each["change"], each["t"], each["old"]) for each in given["events"][side]], what
        assert memory.scaled_to_zero == given["zeroed"], what
        seen[why] = seen.get(why, 0) + 1
    return seen


@pytest.mark.parametrize("seed", range(8))
def test_both_implementations_decide_the_same(seed: int) -> None:
    seen = compare(seed, 500)
    assert seen["DesiredWithinRange"] > 50
    assert seen["failed"] > 10


@pytest.mark.long
@pytest.mark.timeout(900)
def test_both_implementations_decide_the_same_in_a_hundred_thousand_steps() -> None:
    seen = compare(1_000_003, 100_000)
    reasons = {"DesiredWithinRange", "TooFewReplicas", "TooManyReplicas", "ScaleUpLimit", "ScaleDownLimit"}
    assert reasons | {"", "failed", "disabled"} == set(seen)
