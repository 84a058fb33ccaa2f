"""Pods as the autoscaler sees them: which are ready, which say nothing, and what they asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import msgspec

from penstock.control.autoscale.interface import MetricUnavailable, Settings

Phase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]


class Container(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One container of a pod and its request of the resource in question, in thousandths; None is no request."""

    name: str = ""
    request_m: int | None = None
    restart_always: bool = False
    """Of init containers: whether it goes on running beside the others, as a sidecar does."""


class Pod(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pod of the target. Times are seconds on the clock of the caller."""

    name: str
    phase: Phase = "Running"
    ready: bool | None = True
    """The state of its Ready condition; None where it has none yet."""
    start_t: float | None = None
    ready_transition_t: float | None = None
    """When the Ready condition changed last; None where the pod has no such condition."""
    deleted: bool = False
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    pod_request_m: int | None = None
    """A request of the pod as a whole, which hides those of its containers unless one of them is asked for by name."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What a pod used, in thousandths, averaged over the window that ended at ``t``."""

    value_m: int
    t: float = 0.0
    window_s: float = 60.0


class Groups(msgspec.Struct, frozen=True, kw_only=True):
    """The pods of a target, sorted."""

    ready: int
    unready: tuple[str, ...]
    missing: tuple[str, ...]
    """Without a sample."""
    ignored: tuple[str, ...]
    """Ended, or about to be deleted."""


def group(
    pods: Sequence[Pod], samples: Mapping[str, Sample], settings: Settings, *, is_cpu: bool, now: float
) -> Groups:
    """Sort the pods. Readiness counts for CPU alone: a pod that starts burns it without serving anybody."""
    ready, unready, missing, ignored = 0, [], [], []
    for pod in pods:
        if pod.deleted or pod.phase in ("Succeeded", "Failed"):
            ignored.append(pod.name)
        elif pod.phase == "Pending":
            unready.append(pod.name)
        elif pod.name not in samples:
            missing.append(pod.name)
        elif is_cpu and _is_starting(pod, samples[pod.name], settings, now):
            unready.append(pod.name)
        else:
            ready += 1
    return Groups(ready=ready, unready=tuple(unready), missing=tuple(missing), ignored=tuple(ignored))


def _is_starting(pod: Pod, sample: Sample, settings: Settings, now: float) -> bool:
    if pod.ready is None or pod.ready_transition_t is None or pod.start_t is None:
        return True
    if pod.start_t + settings.cpu_initialization_s > now:
        return not pod.ready or sample.t < pod.ready_transition_t + sample.window_s
    return not pod.ready and pod.start_t + settings.initial_readiness_delay_s > pod.ready_transition_t


def ready_count(pods: Collection[Pod]) -> int:
    """How many run and are ready, which is all that object and external metrics ask of pods."""
    if not pods:
        raise MetricUnavailable("no pods returned by selector while calculating replica count")
    return sum(pod.phase == "Running" and pod.ready is True for pod in pods)


def requests(pods: Sequence[Pod], resource: str, container: str | None) -> dict[str, int]:
    """What each pod asked for: one container's request, the pod's own, or the sum of its containers and sidecars."""
    return {pod.name: request(pod, resource, container) for pod in pods}


def request(pod: Pod, resource: str, container: str | None) -> int:
    """What one pod asked for; an error names the container without a request."""
    if pod.pod_request_m is not None and container is None:
        return pod.pod_request_m
    running = (*pod.containers, *(init for init in pod.init_containers if init.restart_always))
    if container is not None:
        running = tuple(each for each in running if each.name == container)[:1]
        if not running:
            raise MetricUnavailable(f"container {container} not found in Pod {pod.name}")
    total = 0
    for each in running:
        if each.request_m is None:
            raise MetricUnavailable(f"missing request for {resource} in container {each.name} of Pod {pod.name}")
        total += each.request_m
    return total
