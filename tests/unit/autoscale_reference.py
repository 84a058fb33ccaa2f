"""The rules of the Horizontal Pod Autoscaler once more, written apart from the product's: plain dicts, one long step.

It is slow and says nothing of why. It is here so that the product has something to be compared with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

MAX32, MAX64 = 2147483647, 9223372036854775807
World = dict[str, Any]


class Unreadable(Exception):
    """A metric without a count."""


def cut(a: int, b: int) -> int:
    return int(math.copysign(1, a) * (abs(a) // b)) if a else 0


def fraction(a: int, b: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.float64(a) / np.float64(b))


def up(x: float) -> int:
    return MAX32 if x > MAX32 else int(np.ceil(x))


def within(r: float, tol: tuple[float, float]) -> bool:
    return not (r < 1.0 - tol[0] or r > 1.0 + tol[1] or r != r)


def count_for_pods(metric: World, world: World, tol: tuple[float, float]) -> int:
    if not world["pods"]:
        raise Unreadable
    values: dict[str, int] = {}
    silent, asleep, awake = [], [], 0
    for pod in world["pods"]:
        name = pod["name"]
        sample = metric["samples"].get(name)
        if pod["deleted"] or pod["phase"] in {"Failed", "Succeeded"}:
            continue
        if pod["phase"] == "Pending":
            asleep.append(name)
            continue
        if sample is None:
            silent.append(name)
            continue
        if metric["cpu"]:
            if pod["ready"] is None or pod["start"] is None:
                starting = True
            elif world["now"] - pod["start"] < world["init_s"]:
                starting = pod["ready"] is False or sample["t"] - pod["moved"] < sample["window"]
            else:
                starting = pod["ready"] is False and pod["moved"] - pod["start"] < world["delay_s"]
            if starting:
                asleep.append(name)
                continue
        awake += 1
        values[name] = sample["value"]
    known = {pod["name"] for pod in world["pods"]}
    strangers = {name: s["value"] for name, s in metric["samples"].items() if name not in known}
    values |= strangers
    if not values:
        raise Unreadable
    asked = {}
    if metric["pct"] is not None:
        for pod in world["pods"]:
            if metric["container"] is None and pod["whole"] is not None:
                asked[pod["name"]] = pod["whole"]
                continue
            boxes = list(pod["containers"].items()) + list(pod["sidecars"].items())
            if metric["container"] is not None:
                boxes = [box for box in boxes if box[0] == metric["container"]]
                if not boxes:
                    raise Unreadable
            if any(request is None for _, request in boxes):
                raise Unreadable
            asked[pod["name"]] = sum(request for _, request in boxes)

    def usage(of: dict[str, int]) -> float:
        if metric["pct"] is None:
            return fraction(cut(sum(of.values()), len(of)), metric["avg"])
        top = sum(value for name, value in of.items() if name in asked)
        bottom = sum(request for name, request in asked.items() if name in of)
        if bottom == 0:
            raise Unreadable
        return fraction(cut(100 * top, bottom), metric["pct"])

    first = usage(values)
    if not silent and (first <= 1 or not asleep):
        return world["current"] if within(first, tol) else up(first * awake)
    if first < 1:
        for name in silent:
            if metric["pct"] is None:
                values[name] = metric["avg"]
            else:
                values[name] = cut(asked[name] * (max(100, metric["pct"])), 100)
    if first > 1:
        for name in silent + asleep:
            values[name] = 0
    second = usage(values)
    if within(second, tol) or (first - 1) * (second - 1) < 0:
        return int(world["current"])
    wanted = up(second * len(values))
    if (second < 1 and wanted > world["current"]) or (second > 1 and wanted < world["current"]):
        return int(world["current"])
    return wanted


def count_for_whole(metric: World, world: World, tol: tuple[float, float]) -> int:
    if metric["series"] is None:
        total = metric["value"]
    elif not metric["series"]:
        raise Unreadable
    else:
        total = 0
        for value in metric["series"]:
            total += value
            if total > MAX64 or (metric["avg"] is not None and total < 0):
                total = MAX64
                break
    if metric["avg"] is not None and (metric["series"] is not None or metric["whole"] is None):
        change = fraction(total, float(metric["avg"]) * float(world["status"]))
        return int(world["status"]) if within(change, tol) else up(fraction(total, metric["avg"]))
    change = fraction(total, metric["whole"])
    if world["current"] == 0:
        return up(change)
    if within(change, tol):
        return int(world["current"])
    if not world["pods"]:
        raise Unreadable
    return up(change * len([p for p in world["pods"] if p["phase"] == "Running" and p["ready"] is True]))


def rules(given: World | None, direction: str, world: World) -> World:
    default = {
        "up": {"window": 0, "select": "Max", "policies": [("Pods", 4, 15), ("Percent", 100, 15)]},
        "down": {"window": world["down_s"], "select": "Max", "policies": [("Percent", 100, 15)]},
    }[direction]
    return {key: value if given is None or given[key] is None else given[key] for key, value in default.items()}


def edge(world: World, rule: World, sign: int) -> int:
    if rule["select"] == "Disabled":
        return int(world["current"])
    found = []
    for kind, value, period in rule["policies"]:

        def moved(direction: str, period: float = period) -> int:
            return sum(e["change"] for e in world["events"][direction] if world["now"] - e["t"] < period)

        start = world["current"] - moved("up") + moved("down")
        if kind == "Pods":
            found.append(start + sign * value)
        elif sign > 0:
            found.append(up(start * (1 + value / 100)))
        else:
            found.append(int(start * (1 - value / 100)))
    if not found:
        return (-1 if (sign > 0) == (rule["select"] == "Max") else 1) * (MAX32 + 1)
    farthest = rule["select"] == "Max"
    return max(found) if farthest == (sign > 0) else min(found)


def put(entries: list[World], old: list[bool], entry: World) -> None:
    for place in reversed(range(len(old))):
        if old[place]:
            entries[place] = entry
            return
    entries.append(entry)


def step(world: World) -> tuple[int, str]:
    """One step: changes the world's history and events; the count, and what held it back."""
    now, current = world["now"], world["current"]
    behavior = world["behavior"]
    tol = [world["tolerance"], world["tolerance"]]
    for place, direction in enumerate(("down", "up")):
        given = behavior and behavior[direction]
        if given and given["tolerance"] is not None:
            tol[place] = given["tolerance"]
    if world["history"] is None:
        world["history"] = [{"replicas": current, "t": now}]
    whole = [m for m in world["metrics"] if m["kind"] in {"object", "external"}]
    limited = ""
    zero_before = world["zeroed"] and world["may_zero"]
    if current == 0 and not (zero_before and (world["min"] != 0 or whole)):
        return 0, "disabled"
    if current > world["max"]:
        count = world["max"]
    elif 0 < current < world["min"]:
        count = world["min"]
    else:
        proposals, broken = [0], 0
        for metric in world["metrics"]:
            try:
                if metric["broken"]:
                    raise Unreadable
                counter = count_for_whole if metric in whole else count_for_pods
                proposals.append(counter(metric, world, (tol[0], tol[1])))
            except Unreadable:
                broken += 1
        wanted = max(proposals)
        if broken == len(world["metrics"]) or (broken and wanted < current):
            return current, "failed"
        if behavior is None:
            ages = [now - past["t"] for past in world["history"]]
            inside = [p["replicas"] for p, age in zip(world["history"], ages, strict=True) if age <= world["down_s"]]
            put(world["history"], [age > world["down_s"] for age in ages], {"replicas": wanted, "t": now})
            steady = max([wanted, *inside])
            reach = max(4, current + current)
            count, limited = steady, "DesiredWithinRange"
            if steady > reach or steady > world["max"]:
                count = min(reach, world["max"])
                limited = "ScaleUpLimit" if world["max"] > reach else "TooManyReplicas"
            if steady < world["min"]:
                count, limited = world["min"], "TooFewReplicas"
        else:
            rise, fall = rules(behavior["up"], "up", world), rules(behavior["down"], "down", world)
            ages = [now - past["t"] for past in world["history"]]
            counts = [past["replicas"] for past in world["history"]]
            floor = min([wanted, *(c for c, age in zip(counts, ages, strict=True) if age < rise["window"])])
            roof = max([wanted, *(c for c, age in zip(counts, ages, strict=True) if age < fall["window"])])
            steady = max(current, floor)
            steady = min(steady, roof)
            longest = max(rise["window"], fall["window"])
            put(world["history"], [age > longest for age in ages], {"replicas": wanted, "t": now})
            count, limited = steady, "DesiredWithinRange"
            if steady > current:
                reach = edge(world, rise, 1)
                reach = max(reach, current)
                if steady > reach or steady > world["max"]:
                    count = min(reach, world["max"])
                    limited = "ScaleUpLimit" if reach < world["max"] else "TooManyReplicas"
            if steady < current:
                reach = edge(world, fall, -1)
                reach = min(reach, current)
                if steady < reach or steady < world["min"]:
                    count = max(reach, world["min"])
                    limited = "ScaleDownLimit" if reach > world["min"] else "TooFewReplicas"
        if current == 0 and world["zeroed"]:
            count = max(count, world["min"])
    if count != current:
        world["zeroed"] = bool(world["may_zero"] and count == 0 and world["min"] == 0 and whole)
        if behavior is not None:
            direction = "up" if count > current else "down"
            rule = rules(behavior[direction], direction, world)
            longest = max([period for _, _, period in rule["policies"]], default=0)
            events = world["events"][direction]
            for event in events:
                event["old"] = event["old"] or now - event["t"] > longest
            put(events, [e["old"] for e in events], {"change": abs(count - current), "t": now, "old": False})
    return count, limited
