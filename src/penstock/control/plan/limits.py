"""What no plan may break, each with its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from penstock.control.plan.options import Market, Option
from penstock.control.plan.queueing import LATE_MAX
from penstock.control.plan.result import Result
from penstock.control.plan.workload import Workload

FUNCTION_S, FUNCTION_MIB, IMAGE_MIB, INIT_S = 900.0, 10_240, 10_240, 10.0
"""AWS Lambda's quotas: one call, memory, a container image, and the start of a function."""
ONE_LEARNER_MAX = 1.0
"""Cores: one learner has one thread, since the order of steps is part of what makes a version repeatable."""

FUNCTIONS: tuple[Option, ...] = ("serverless", "hybrid")


class Limit(NamedTuple):
    """One hard limit."""

    name: str
    broken: Callable[[Option, Workload, Market], str | None]


def _state(option: Option, workload: Workload, market: Market) -> str | None:
    if option == "serverless" and workload.learns:
        return "the learner keeps its log and its state on disk, which functions do not have"
    if option == "hybrid" and not workload.learns:
        return "nothing learns, so there is nothing to put on a cluster: see serverless"
    return None


def _device(option: Option, workload: Workload, market: Market) -> str | None:
    if option in FUNCTIONS and workload.device == "serving":
        return "functions have no GPU"
    if option == "serverless" and workload.device == "learning":
        return "functions have no GPU to train on"
    if option == "kubernetes" and workload.device != "none":
        return f"{workload.device} needs a GPU, which this pool does not have"
    if option == "kubernetes gpu" and workload.device == "none":
        return "nothing here needs a GPU: see kubernetes"
    return None


def _duration(option: Option, workload: Workload, market: Market) -> str | None:
    longest = max(workload.service_s, workload.training_s if option == "serverless" else 0.0)
    if option in FUNCTIONS and longest > FUNCTION_S:
        return f"a call takes {longest / 60:,.0f} minutes, and functions end after 15"
    return None


def _image(option: Option, workload: Workload, market: Market) -> str | None:
    if option in FUNCTIONS and workload.image_mib > IMAGE_MIB:
        return f"the image has {workload.image_mib / 1024:,.1f} GiB, and a function's may have 10"
    return None


def _memory(option: Option, workload: Workload, market: Market) -> str | None:
    if option in FUNCTIONS and workload.server_mib > FUNCTION_MIB:
        return f"a server takes {workload.server_mib / 1024:,.1f} GiB, and a function has 10 at most"
    return None


def _machine(option: Option, workload: Workload, market: Market) -> str | None:
    if option == "one machine" and workload.survives_machine:
        return "predictions are to go on when a machine fails, and there is only one"
    return None


def _learner(option: Option, workload: Workload, market: Market) -> str | None:
    if workload.learner_load >= ONE_LEARNER_MAX:
        rate = 1.0 / workload.learn_s
        come = workload.traffic.mean_rps * workload.events_per_request
        return f"one learner takes {rate:,.0f} events a second, and {come:,.0f} come"
    return None


def _price(option: Option, workload: Workload, market: Market) -> str | None:
    if option in FUNCTIONS and market.rate("lambda memory") is None:
        return "the price list has no functions"
    if option in FUNCTIONS and "aws" not in market.clouds:
        return f"the price list has no functions of {', '.join(market.clouds)}"
    on_cluster = option in ("kubernetes", "kubernetes gpu", "kubernetes spot", "hybrid")
    if on_cluster and all(market.fee(cloud) is None for cloud in market.clouds):
        return f"the price list does not say what a cluster costs at {', '.join(market.clouds)}"
    if option == "kubernetes spot" and not any(
        market.machines(cloud, device=workload.device == "serving", accelerator=workload.accelerator, spot=True)
        for cloud in market.clouds
    ):
        return f"the price list has no such spot machines of {', '.join(market.clouds)}"
    return None


LIMITS = (
    Limit("state", _state),
    Limit("gpu", _device),
    Limit("15 minutes", _duration),
    Limit("image", _image),
    Limit("memory", _memory),
    Limit("machine failure", _machine),
    Limit("learner", _learner),
    Limit("price", _price),
)


def forbidden(option: Option, workload: Workload, market: Market) -> tuple[str, str] | None:
    """The first limit that this option breaks whatever its size, and why; None where it breaks none."""
    for limit in LIMITS:
        reason = limit.broken(option, workload, market)
        if reason is not None:
            return limit.name, reason
    return None


def broken(workload: Workload, result: Result) -> tuple[str, str] | None:
    """What this outcome breaks of what is wanted, and how; None where it is all right."""
    if workload.fresh_s is not None and result.fresh_p99_s is not None and result.fresh_p99_s > workload.fresh_s:
        return "freshness", f"events are seen after {seconds(result.fresh_p99_s)}, not {seconds(workload.fresh_s)}"
    if result.late_share > LATE_MAX:
        return "p99", f"99 of 100 answers take {seconds(result.p99_s)}, and {seconds(workload.p99_s)} are wanted"
    return None


def seconds(value: float) -> str:
    """A time as people say it."""
    if value == float("inf"):
        return "for ever longer"
    if value >= 120.0:
        return f"{value / 60:,.3g} min"
    return f"{value:,.3g} s" if value >= 1.0 else f"{value * 1000:,.3g} ms"
