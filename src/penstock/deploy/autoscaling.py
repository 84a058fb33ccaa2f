"""The autoscaling policy as files: a HorizontalPodAutoscaler or a ScaledObject for the servers, one for the learner.

Servers are scaled by how many requests are there, which is what the histogram of answer times gives to Prometheus: the
seconds that answers took, over the seconds in which they were given (Little, 1961). The learner is one process, since
the order of its steps is one; it rests while nothing waits to be learned."""

from __future__ import annotations

import math
import re
from typing import Literal, NamedTuple

from penstock.control.autoscale import limits
from penstock.control.simulate.scenario import Scaling
from penstock.deploy import objects
from penstock.spec import Spec

As = Literal["hpa", "keda"]

METRIC = "penstock_requests_there"
"""What the adapter is to call the metric of the plain autoscaler."""
ANSWERS, LAG = "penstock_predict_seconds_sum", "penstock_lag_events"
"""Names at `/metrics`."""
POLLING_S = 15
LAG_THRESHOLD = 1000
"""A target for each learner, of which there is one at most: it decides nothing but has to be there."""
REST_S = 300


class Kafka(NamedTuple):
    """Where the learner's events are, if they are in Kafka."""

    brokers: str
    topic: str
    group: str


def files(
    spec: Spec, scaling: Scaling, form: As, *, prometheus: str, kafka: Kafka | None, found: tuple[str, ...]
) -> dict[str, str]:
    """Texts by the names of their files. ``found`` says where the figures are from, and stands above them."""
    name = object_name(spec.name)
    if form == "hpa":
        return {
            f"{name}-servers-hpa.yaml": commented((*found, *SERVERS_NOT), servers_hpa(spec.name, scaling)),
            "prometheus-adapter-rules.yaml": commented(ADAPTER, adapter_rules(scaling.window_s)),
        }
    learner = learner_scaled(spec.name, prometheus, kafka)
    return {
        f"{name}-servers-scaledobject.yaml": commented(
            (*found, *SERVERS_NOT), servers_scaled(spec.name, scaling, prometheus)
        ),
        f"{name}-learner-scaledobject.yaml": commented(LEARNER, learner),
    }


SERVERS_NOT = (
    "",
    "What this object cannot say of Penstock's own policy (docs/design/control.md):",
    "- It does not look back: the floor is what the requests above needed. Where bursts change, find it again.",
    "- It does not weigh again whether following the requests is worth while: that was decided here, once.",
    "- It sees requests that have ended, averaged over the window of its query, and not those that are waiting now.",
    "- It puts nobody behind the others: who has waited too long is served in the order of arrival.",
    "If the metric cannot be read the count stays as it is. Prometheus has to keep our label: honorLabels: true.",
)
LEARNER = (
    "The learner: none while nothing waits to be learned, otherwise one. The servers tell its lag while it rests.",
    "After a rest the first event is learned when the learner has started and has read its checkpoint.",
    "What this object cannot say: to wake early for what is forecast, or to let what was spent decide.",
)
ADAPTER = (
    "For the Prometheus adapter's configuration (in its chart: rules.external): it gives the autoscaler its metric,",
    "with the namespace and the labels that the autoscaler asks for.",
)


def servers_hpa(service: str, scaling: Scaling) -> str:
    """The plain autoscaler."""
    selector = objects.Selector(match_labels={"service": service})
    metric = objects.External(
        metric=objects.MetricName(name=METRIC, selector=selector),
        target=objects.MetricTarget(type="AverageValue", average_value=thousandths(scaling.target)),
    )
    return objects.to_yaml(
        objects.HorizontalPodAutoscaler(
            metadata=_metadata(service, "servers"),
            spec=objects.HorizontalSpec(
                scale_target_ref=_servers(service),
                min_replicas=scaling.autoscaler.smallest,
                max_replicas=scaling.autoscaler.largest,
                metrics=(objects.Metric(type="External", external=metric),),
                behavior=_behavior(scaling.autoscaler.behavior),
            ),
        )
    )


def servers_scaled(service: str, scaling: Scaling, prometheus: str) -> str:
    """The same for KEDA, which reads Prometheus itself. Servers never rest: predictions never stop."""
    query = f'sum(rate({ANSWERS}{{service="{service}"}}[{window(scaling.window_s)}]))'
    config = objects.HorizontalConfig(behavior=_behavior(scaling.autoscaler.behavior))
    return objects.to_yaml(
        objects.ScaledObject(
            metadata=_metadata(service, "servers"),
            spec=objects.ScaledSpec(
                scale_target_ref=_servers(service),
                polling_interval=POLLING_S,
                cooldown_period=REST_S,
                min_replica_count=scaling.autoscaler.smallest,
                max_replica_count=scaling.autoscaler.largest,
                advanced=objects.Advanced(horizontal_pod_autoscaler_config=config),
                triggers=(_prometheus("requests", prometheus, query, plain(scaling.target)),),
            ),
        )
    )


def learner_scaled(service: str, prometheus: str, kafka: Kafka | None) -> str:
    """The learner by its lag: that of a topic, or that which the servers tell."""
    query = f'max({LAG}{{service="{service}"}})'
    trigger = _prometheus("lag", prometheus, query, str(LAG_THRESHOLD)) if kafka is None else _kafka(kafka)
    name = object_name(service)
    return objects.to_yaml(
        objects.ScaledObject(
            metadata=_metadata(service, "learner"),
            spec=objects.ScaledSpec(
                scale_target_ref=objects.TargetRef(kind="StatefulSet", name=f"{name}-learner"),
                polling_interval=POLLING_S,
                cooldown_period=REST_S,
                idle_replica_count=0,
                min_replica_count=1,
                max_replica_count=1,
                triggers=(trigger,),
            ),
        )
    )


def adapter_rules(window_s: float) -> str:
    """What the Prometheus adapter is to be told."""
    rule = {
        "seriesQuery": f'{ANSWERS}{{namespace!="",service!=""}}',
        "resources": {"overrides": {"namespace": {"resource": "namespace"}}},
        "name": {"as": METRIC},
        "metricsQuery": f"sum(rate(<<.Series>>{{<<.LabelMatchers>>}}[{window(window_s)}]))",
    }
    return objects.to_yaml({"externalRules": [rule]})


def object_name(service: str) -> str:
    """A service's name as Kubernetes allows names: lower case, letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9-]", "-", service.lower()).strip("-")


def commented(lines: tuple[str, ...], text: str) -> str:
    """A text below comments."""
    return "".join(f"# {line}".rstrip() + "\n" for line in lines) + text


def thousandths(value: float) -> str:
    """A number as Kubernetes writes it."""
    whole = round(value * 1000.0)
    return f"{whole // 1000}" if whole % 1000 == 0 else f"{whole}m"


def plain(value: float) -> str:
    """The same number as KEDA reads it."""
    whole, part = divmod(round(value * 1000.0), 1000)
    return f"{whole}.{part:03d}".rstrip("0").rstrip(".")


def window(seconds: float) -> str:
    """A range of a query, in whole seconds."""
    return f"{math.ceil(seconds)}s"


def _metadata(service: str, role: str) -> objects.Metadata:
    name = object_name(service)
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/component": role}
    return objects.Metadata(name=f"{name}-{role}", labels=labels)


def _servers(service: str) -> objects.TargetRef:
    return objects.TargetRef(kind="Deployment", name=f"{object_name(service)}-servers")


def _prometheus(name: str, address: str, query: str, threshold: str) -> objects.Trigger:
    metadata = {
        "serverAddress": address,
        "query": query,
        "threshold": threshold,
        "activationThreshold": "0",
        # Without it no series would count as none: a Prometheus that lost its targets would let replicas go.
        "ignoreNullValues": "false",
    }
    return objects.Trigger(type="prometheus", name=name, metric_type="AverageValue", metadata=metadata)


def _kafka(kafka: Kafka) -> objects.Trigger:
    metadata = {
        "bootstrapServers": kafka.brokers,
        "consumerGroup": kafka.group,
        "topic": kafka.topic,
        "lagThreshold": str(LAG_THRESHOLD),
        "activationLagThreshold": "0",
        # A group that has committed nothing begins with the first event, as the learner does with its log.
        "offsetResetPolicy": "earliest",
        "allowIdleConsumers": "false",
        "scaleToZeroOnInvalidOffset": "false",
    }
    return objects.Trigger(type="kafka", name="lag", metric_type="AverageValue", metadata=metadata)


def _behavior(behavior: limits.Behavior | None) -> objects.Behavior:
    if behavior is None:
        return objects.Behavior()
    return objects.Behavior(scale_up=_rules(behavior.scale_up), scale_down=_rules(behavior.scale_down))


def _rules(rules: limits.Rules | None) -> objects.Rules | None:
    if rules is None:
        return None
    policies = rules.policies
    return objects.Rules(
        stabilization_window_seconds=None if rules.stabilization_s is None else round(rules.stabilization_s),
        select_policy=rules.select,
        policies=None
        if policies is None
        else tuple(
            objects.Policy(type=each.type, value=each.value, period_seconds=round(each.period_s)) for each in policies
        ),
        tolerance=None if rules.tolerance is None else thousandths(rules.tolerance),
    )
