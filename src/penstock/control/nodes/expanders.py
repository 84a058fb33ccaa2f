"""Which of several node groups grows. Each filter keeps the best by one measure; a tie is broken by the next filter,
and at last by a seeded throw.

The rules are those of the Cluster Autoscaler's expanders (cluster-autoscaler/expander, 2026-07), where ``least-waste``
is the default."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

LOWEST_PRIORITY = -1
"""Where the search for the highest priority begins: what is below is never reached."""

Name = Literal["least-waste", "least-nodes", "most-pods", "price", "priority", "random"]


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One way to help the waiting pods: so many nodes of one group."""

    group: str
    nodes: int
    pods: int = 0
    """Pods that would find a place."""
    cpu_m: int = 0
    """Of one node: its whole capacity, as for memory."""
    memory_b: int = 0
    asked_cpu_m: int = 0
    """Of the pods that would find a place, together."""
    asked_memory_b: int = 0
    usd_h: float | None = None
    """What one node costs; None where it is not known."""


def choose(
    options: Sequence[Option],
    expanders: Sequence[Name],
    *,
    seed: int,
    priorities: Mapping[int, Sequence[str]] | None = None,
) -> Option | None:
    """The option that the filters leave, or one of those that they cannot tell apart; None without options."""
    filters: dict[Name, Callable[[Sequence[Option]], list[Option]]] = {
        "least-waste": least_waste,
        "least-nodes": least_nodes,
        "most-pods": most_pods,
        "price": cheapest,
        "priority": lambda given: by_priority(given, priorities or {}),
        "random": list,
    }
    left = list(options)
    for name in expanders:
        left = filters[name](left)
        if len(left) == 1:
            return left[0]
    return random.Random(seed).choice(sorted(left, key=lambda option: option.group)) if left else None


def waste(option: Option) -> float:
    """The share of the nodes' processors that stays free, and that of their memory, added. Devices do not count, which
    is why a pod without need of them may be given a node with some."""
    cpu, memory = option.cpu_m * option.nodes, option.memory_b * option.nodes
    free_cpu = (cpu - option.asked_cpu_m) / cpu if cpu else math.inf
    free_memory = (memory - option.asked_memory_b) / memory if memory else math.inf
    return free_cpu + free_memory


def least_waste(options: Sequence[Option]) -> list[Option]:
    """Those of which the least stays free."""
    return _smallest(options, waste)


def least_nodes(options: Sequence[Option]) -> list[Option]:
    """Those with the fewest nodes; an option without nodes is none."""
    return _smallest([option for option in options if option.nodes > 0], lambda option: option.nodes)


def most_pods(options: Sequence[Option]) -> list[Option]:
    """Those that help the most pods."""
    return _smallest(options, lambda option: -option.pods)


def cheapest(options: Sequence[Option]) -> list[Option]:
    """Those that cost the least for what is asked of them; where no price is known, all."""
    priced = {option.group: option.usd_h for option in options if option.usd_h is not None}
    known = [option for option in options if option.group in priced]
    return _smallest(known, lambda each: each.nodes * priced[each.group] / max(each.pods, 1)) or list(options)


def by_priority(options: Sequence[Option], priorities: Mapping[int, Sequence[str]]) -> list[Option]:
    """Those whose group matches a pattern of the highest priority that any matches; where none does, all."""
    reached = [
        rank
        for rank, patterns in priorities.items()
        if rank >= LOWEST_PRIORITY and any(_matches(option, patterns) for option in options)
    ]
    return [option for option in options if _matches(option, priorities[max(reached)])] if reached else list(options)


def _matches(option: Option, patterns: Sequence[str]) -> bool:
    return any(re.search(pattern, option.group) for pattern in patterns)


def _smallest(options: Sequence[Option], measure: Callable[[Option], float]) -> list[Option]:
    lowest = min(map(measure, options), default=None)
    return [option for option in options if measure(option) == lowest]
