"""The objects as Kubernetes and KEDA name their fields, to YAML and back.

Of `HorizontalPodAutoscaler` (autoscaling/v2) and `ScaledObject` (keda.sh/v1alpha1, 2.12 or later, where a trigger's
``metricName`` is gone) what Penstock writes; a file with anything else in it is refused, since it would be ignored."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec
import yaml

from penstock.control.autoscale import limits
from penstock.errors import BadFile

T = TypeVar("T")


class _Object(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True
):
    """What all of them have."""


class Metadata(_Object, frozen=True, kw_only=True):
    """Who it is."""

    name: str
    labels: dict[str, str] = {}


class TargetRef(_Object, frozen=True, kw_only=True, omit_defaults=False):
    """What is scaled."""

    api_version: str = "apps/v1"
    kind: Literal["Deployment", "StatefulSet"]
    name: str


class Policy(_Object, frozen=True, kw_only=True):
    """How much may change within a period."""

    type: Literal["Pods", "Percent"]
    value: int
    period_seconds: int


class Rules(_Object, frozen=True, kw_only=True):
    """One direction of ``behavior``."""

    stabilization_window_seconds: int | None = None
    select_policy: limits.Select | None = None
    policies: tuple[Policy, ...] | None = None
    tolerance: str | None = None


class Behavior(_Object, frozen=True, kw_only=True):
    """Both directions."""

    scale_up: Rules | None = None
    scale_down: Rules | None = None


class Selector(_Object, frozen=True, kw_only=True):
    """Which series of a metric."""

    match_labels: dict[str, str]


class MetricName(_Object, frozen=True, kw_only=True):
    """A metric from outside of the cluster."""

    name: str
    selector: Selector


class MetricTarget(_Object, frozen=True, kw_only=True):
    """So much of it for each replica."""

    type: Literal["AverageValue"]
    average_value: str


class External(_Object, frozen=True, kw_only=True):
    """The metric and its target."""

    metric: MetricName
    target: MetricTarget


class Metric(_Object, frozen=True, kw_only=True):
    """One of the metrics, of which the one that asks for the most counts."""

    type: Literal["External"]
    external: External


class HorizontalSpec(_Object, frozen=True, kw_only=True):
    """What the Horizontal Pod Autoscaler is told."""

    scale_target_ref: TargetRef
    min_replicas: int
    max_replicas: int
    metrics: tuple[Metric]
    behavior: Behavior


class HorizontalPodAutoscaler(_Object, frozen=True, kw_only=True, omit_defaults=False):
    """The whole object."""

    api_version: Literal["autoscaling/v2"] = "autoscaling/v2"
    kind: Literal["HorizontalPodAutoscaler"] = "HorizontalPodAutoscaler"
    metadata: Metadata
    spec: HorizontalSpec


class Trigger(_Object, frozen=True, kw_only=True):
    """What KEDA looks at; all its settings are text."""

    type: Literal["prometheus", "kafka"]
    name: str
    metric_type: Literal["AverageValue"]
    metadata: dict[str, str]


class HorizontalConfig(_Object, frozen=True, kw_only=True):
    """What KEDA hands on to the autoscaler that it makes."""

    behavior: Behavior


class Advanced(_Object, frozen=True, kw_only=True):
    """The same, as KEDA nests it."""

    horizontal_pod_autoscaler_config: HorizontalConfig


class ScaledSpec(_Object, frozen=True, kw_only=True):
    """What KEDA is told."""

    scale_target_ref: TargetRef
    polling_interval: int
    cooldown_period: int
    idle_replica_count: int | None = None
    min_replica_count: int
    max_replica_count: int
    advanced: Advanced | None = None
    triggers: tuple[Trigger]


class ScaledObject(_Object, frozen=True, kw_only=True, omit_defaults=False):
    """The whole object."""

    api_version: Literal["keda.sh/v1alpha1"] = "keda.sh/v1alpha1"
    kind: Literal["ScaledObject"] = "ScaledObject"
    metadata: Metadata
    spec: ScaledSpec


def to_yaml(value: object) -> str:
    """As YAML, fields in the order above."""
    text: str = yaml.safe_dump(msgspec.to_builtins(value), sort_keys=False, width=120)
    return text


def from_yaml(text: str, kind: type[T]) -> T:
    """The object in a text. Raises BadFile."""
    try:
        plain: Any = yaml.safe_load(text)
        return msgspec.convert(plain, kind)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise BadFile(kind.__name__, f"this is none that Penstock writes: {error}") from error
