"""The OpenAPI 3.1 document of this server, made from its services' Specs."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import msgspec

from penstock.facts import KINDS
from penstock.publish.interface import Receipt
from penstock.publish.records.priced import Priced
from penstock.serve.answers import ClassAnswer, NumberAnswer, SetAnswer
from penstock.serve.forms import TEXT_MAX
from penstock.serve.frame import Status
from penstock.serve.problems import PROBLEM_TYPE, Problem
from penstock.spec import COUNT_MAX, NUMBER_TASKS, Feature, Spec

Json = dict[str, Any]

ARROW = "application/vnd.apache.arrow.stream"
NDJSON = "application/x-ndjson"
REF = "#/components/schemas/{name}"


def document(specs: Iterable[Spec]) -> Json:
    """The whole document, ready to be written as JSON."""
    _, schemas = msgspec.json.schema_components([Status, Receipt, Priced, Problem], ref_template=REF)
    schemas["Accepted"] = _object(
        {
            "accepted": {"type": "integer", "description": "Events that are durable now."},
            "duplicates": {"type": "integer", "description": "Events whose id was seen before."},
            "position": {
                "type": "object",
                "additionalProperties": {"type": "integer"},
                "description": "The offset after the last of these events, by partition.",
            },
            "set_aside": {
                "type": "integer",
                "description": "Those with a value that the service file calls impossible; absent where there is none.",
            },
            "why": {
                "type": "array",
                "items": _object({"event": {"type": "integer"}, "reason": {"type": "string"}}),
                "description": "Of the first ten of them: the place in the request, from 0, and the value.",
            },
        },
        ("accepted", "duplicates", "position"),
    )
    paths: Json = {
        "/v1": {"get": _get("services", "The services here", {"type": "object"})},
        "/health/live": {"get": _get("live", "Whether the process runs", {"type": "object"})},
        "/health/ready": {"get": _get("ready", "Whether every service answers", {"type": "object"}, not_ready=True)},
        "/metrics": {"get": _get("metrics", "Prometheus metrics", {"type": "string"}, media="text/plain")},
        "/openapi.json": {"get": _get("openapi", "This document", {"type": "object"})},
    }
    for spec in specs:
        schemas |= _schemas(spec)
        paths |= _paths(spec)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Penstock", "version": version("penstock"), "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def feature_schema(feature: Feature) -> Json:
    """The JSON schema of one feature's value; null, or leaving it out, is a missing value."""
    match feature.type:
        case "number":
            return {"type": ["number", "null"]}
        case "boolean":
            return {"type": ["boolean", "null"]}
        case "timestamp":
            return {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number"}, {"type": "null"}]}
        case "category":
            return {"type": ["string", "integer", "boolean", "null"]}
        case "text":
            return {"type": ["string", "null"]}
        case "vector":
            items: Json = {"type": "number"}
            return {"type": ["array", "null"], "items": items, "minItems": feature.width, "maxItems": feature.width}


def label_schema(spec: Spec) -> Json:
    """The JSON schema of a service's label."""
    if spec.task == "regression":
        return {"type": "number"}
    if spec.task == "counts":
        return {"type": "integer", "minimum": 0, "maximum": COUNT_MAX}
    any_class: Json = {"type": ["string", "integer", "boolean"], "minLength": 1, "maxLength": TEXT_MAX}
    if spec.task == "multiclass":
        return any_class
    if spec.task == "multilabel":
        return {"type": "array", "items": any_class}
    classes = [str(name) for name in spec.label.classes or ("0", "1")]
    if classes == ["0", "1"]:
        return {"enum": [*classes, 0, 1, False, True]}
    return {"enum": classes}


def incumbent_schema(spec: Spec) -> Json:
    """The JSON schema of what another system answered to an event."""
    told = "What the system that was there before (`gate.apprentice`) answered; leave it out where it did not."
    if spec.task in NUMBER_TASKS:
        return {"type": ["number", "null"], "description": told}
    any_class: Json = {"type": ["string", "integer", "boolean"], "minLength": 1, "maxLength": TEXT_MAX}
    if spec.task == "multilabel":
        return {"type": ["array", "null"], "items": any_class, "description": told}
    chances: Json = {
        "type": "object",
        "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1},
        "minProperties": 1,
        "description": "The chances of classes, which add up to 1 at most.",
    }
    return {"anyOf": [any_class, chances, {"type": "null"}], "description": told}


def _schemas(spec: Spec) -> Json:
    text: Json = {"type": "string", "minLength": 1, "maxLength": TEXT_MAX}
    common: Json = {
        "time": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number"}]},
        "source": text,
        "subject": {**text, "description": "Whose event it is: `penstock erase` removes what is of one subject."},
    }
    features: Json = {
        "type": "object",
        "properties": {name: feature_schema(feature) for name, feature in spec.features.items()},
        "additionalProperties": False,
    }
    own: Json = {"features": _ref(spec, "features"), "incumbent": _ref(spec, "incumbent"), "id": text, **common}
    of_classes = SetAnswer if spec.task == "multilabel" else ClassAnswer
    answer = NumberAnswer if spec.task in NUMBER_TASKS else of_classes
    _, (answers) = msgspec.json.schema_components([answer], ref_template=REF)
    return {
        _name(spec, "features"): features,
        _name(spec, "label"): label_schema(spec),
        _name(spec, "incumbent"): incumbent_schema(spec),
        _name(spec, "example"): _object({**own, "label": _ref(spec, "label")}, ("features", "label")),
        _name(spec, "instance"): _object(own, ("features",)),
        _name(spec, "feedback"): _feedback(spec, text, common),
        _name(spec, "answer"): answers[answer.__name__],
    }


def _feedback(spec: Spec, text: Json, common: Json) -> Json:
    retract: Json = {
        "const": True,
        "description": "Takes back the label that the event with this id has.",
    }
    described = "Of an earlier prediction, or of an example that was sent with an id."
    feedback = _object(
        {
            "id": {**text, "description": described},
            "label": _ref(spec, "label"),
            "incumbent": _ref(spec, "incumbent"),
            "retract": retract,
            **common,
        },
        ("id",),
    )
    return feedback | {"oneOf": [{"required": ["label"]}, {"required": ["retract"]}]}


def _paths(spec: Spec) -> Json:
    base = f"/v1/{spec.name}"
    answer = _ref(spec, "answer")
    many = _object({"predictions": {"type": "array", "items": answer}})
    listed: Json = _object({"instances": {"type": "array", "items": _ref(spec, "instance"), "minItems": 1}})
    asked = [_ref(spec, "instance"), listed]
    accepted: Json = {"$ref": REF.format(name="Accepted")}
    source: Json = {"name": "Penstock-Source", "in": "header", "schema": {"type": "string"}}
    before: Json = {"name": "before", "in": "query", "schema": {"type": "integer", "minimum": 1}}
    limit: Json = {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000}}
    number: Json = {"name": "version", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 1}}
    kind: Json = {"name": "kind", "in": "query", "schema": _array({"enum": list(KINDS)})}
    fact: Json = {"type": "object", "properties": {"fact": {"enum": list(KINDS)}, "at": {"type": "number"}}}
    facts = _array(fact | {"required": ["fact", "at", "service"]})
    receipt: Json = {"$ref": REF.format(name="Receipt")}
    versions = _get(f"versions-{spec.name}", "Newest versions first", _object({"versions": _array(receipt)}))
    history = _get(f"history-{spec.name}", "Refusals, orders, drifts ..., newest first", _object({"history": facts}))
    one_version = _get(f"version-{spec.name}", "Why a version exists", {"$ref": REF.format(name="Priced")})
    return {
        base: {"get": _get(f"status-{spec.name}", "How the service is", {"$ref": REF.format(name="Status")})},
        f"{base}/spec": {"get": _get(f"spec-{spec.name}", "The service file's settings", {"type": "object"})},
        f"{base}/examples": {
            "post": _post(spec, "examples", "Events to learn from", [_ref(spec, "example")], accepted, 201)
            | {"parameters": [source]}
        },
        f"{base}/feedback": {
            "post": _post(
                spec,
                "feedback",
                "Labels, corrections, retractions",
                [_ref(spec, "feedback")],
                accepted,
                201,
            )
            | {"parameters": [source]}
        },
        f"{base}/predict": {
            "post": _post(spec, "predict", "Ask the newest version", asked, {"anyOf": [answer, many]}, 200)
            | {"parameters": [source]}
        },
        f"{base}/versions": {"get": versions | {"parameters": [limit, before]}},
        f"{base}/history": {"get": history | {"parameters": [limit, kind]}},
        f"{base}/versions/{{version}}": {"get": one_version | {"parameters": [number]}},
    }


def _post(spec: Spec, what: str, summary: str, forms: list[Json], answer: Json, status: int) -> Json:
    body: Json = {
        "application/json": {"schema": {"anyOf": [*forms, _array(forms[0]) | {"minItems": 1}]}},
        NDJSON: {"schema": {"type": "string", "description": "One JSON object a line."}},
        ARROW: {"schema": {"type": "string", "format": "binary", "description": "An Arrow IPC stream."}},
    }
    return {
        "operationId": f"{what}-{spec.name}",
        "summary": summary,
        "tags": [spec.name],
        "requestBody": {"required": True, "content": body},
        "responses": {
            str(status): {"description": "Done", "content": {"application/json": {"schema": answer}}},
            "default": _problem(),
        },
    }


def _get(name: str, summary: str, schema: Json, *, media: str = "application/json", not_ready: bool = False) -> Json:
    responses: Json = {"200": {"description": "As of now", "content": {media: {"schema": schema}}}}
    if not_ready:
        responses["503"] = {"description": "Not yet, or not any more", "content": {media: {"schema": schema}}}
    return {"operationId": name, "summary": summary, "responses": responses | {"default": _problem()}}


def _problem() -> Json:
    return {"description": "Refused", "content": {PROBLEM_TYPE: {"schema": {"$ref": REF.format(name="Problem")}}}}


def _object(properties: Json, required: tuple[str, ...] | None = None) -> Json:
    names = list(properties) if required is None else list(required)
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def _array(items: Json) -> Json:
    return {"type": "array", "items": items}


def _name(spec: Spec, what: str) -> str:
    return f"{spec.name}.{what}"


def _ref(spec: Spec, what: str) -> Json:
    return {"$ref": REF.format(name=_name(spec, what))}
