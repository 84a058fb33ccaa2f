"""From an object's text to what the deciders take: the file that is written is the file that is tried."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from penstock.control.autoscale import keda, limits
from penstock.control.autoscale.horizontal import Autoscaler
from penstock.control.simulate.scenario import Scaling
from penstock.deploy import objects
from penstock.errors import BadFile


def horizontal(text: str) -> Scaling:
    """What a HorizontalPodAutoscaler makes of the servers. Raises BadFile."""
    spec = objects.from_yaml(text, objects.HorizontalPodAutoscaler).spec
    (metric,) = spec.metrics
    return _scaling(spec.min_replicas, spec.max_replicas, spec.behavior, quantity(metric.external.target.average_value))


def scaled(text: str) -> Scaling:
    """What a ScaledObject with one Prometheus trigger makes of the servers: KEDA hands the count to a Horizontal Pod
    Autoscaler that it makes itself. Raises BadFile."""
    spec = objects.from_yaml(text, objects.ScaledObject).spec
    (trigger,) = spec.triggers
    behavior = objects.Behavior() if spec.advanced is None else spec.advanced.horizontal_pod_autoscaler_config.behavior
    return _scaling(spec.min_replica_count, spec.max_replica_count, behavior, quantity(_setting(trigger, "threshold")))


def waking(text: str) -> tuple[keda.Waking, int]:
    """When a ScaledObject wakes what it scales and lets it rest, and the most that there are. Raises BadFile."""
    spec = objects.from_yaml(text, objects.ScaledObject).spec
    found = keda.Waking(
        polling_s=float(spec.polling_interval),
        cooldown_s=float(spec.cooldown_period),
        smallest=spec.min_replica_count,
        idle=spec.idle_replica_count,
    )
    return found, spec.max_replica_count


def kafka(trigger: objects.Trigger) -> keda.Trigger:
    """A Kafka trigger's settings, as far as they decide."""
    return keda.Trigger(
        lag_threshold=int(quantity(_setting(trigger, "lagThreshold"))),
        activation_lag=int(quantity(_setting(trigger, "activationLagThreshold"))),
        allow_idle_consumers=_setting(trigger, "allowIdleConsumers") == "true",
        scale_to_zero_on_invalid_offset=_setting(trigger, "scaleToZeroOnInvalidOffset") == "true",
    )


def _setting(trigger: objects.Trigger, name: str) -> str:
    if name not in trigger.metadata:
        raise BadFile("ScaledObject", f"its {trigger.type} trigger has no {name!r}")
    return trigger.metadata[name]


def quantity(text: str) -> float:
    """A number as Kubernetes writes it, in thousandths or plainly."""
    digits, of = (text[:-1], Decimal(1000)) if text.endswith("m") else (text, Decimal(1))
    try:
        return float(Decimal(digits) / of)
    except InvalidOperation as error:
        raise BadFile("quantity", f"{text!r} is no number") from error


def _scaling(smallest: int, largest: int, behavior: objects.Behavior, target: float) -> Scaling:
    own = limits.Behavior(scale_up=_rules(behavior.scale_up), scale_down=_rules(behavior.scale_down))
    return Scaling(
        autoscaler=Autoscaler(smallest=smallest, largest=largest, behavior=own), metric="requests", target=target
    )


def _rules(rules: objects.Rules | None) -> limits.Rules | None:
    if rules is None:
        return None
    window_s, policies = rules.stabilization_window_seconds, rules.policies
    return limits.Rules(
        stabilization_s=None if window_s is None else float(window_s),
        select=rules.select_policy,
        policies=None
        if policies is None
        else tuple(
            limits.Policy(type=each.type, value=each.value, period_s=float(each.period_seconds)) for each in policies
        ),
        tolerance=None if rules.tolerance is None else quantity(rules.tolerance),
    )
