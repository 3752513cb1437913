"""The schemas of several Kubernetes versions, and our own for what they do not know: KEDA, the Prometheus Operator."""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
from kubernetes_validate import utils

# Loaded once, not once a document: they are megabytes.
utils.schema_contents = cache(utils.schema_contents)

# The oldest in which image volumes can be switched on, and those since; the newest that the package knows.
VERSIONS = tuple(version for version in map(utils.major_minor, utils.all_versions()) if version >= "1.33")
NEWEST = VERSIONS[-1]

# Removed or deprecated, and what took their place. The schemas would pass over what they do not know.
OUTDATED = {
    "extensions/v1beta1": "apps/v1 or networking.k8s.io/v1",
    "apps/v1beta1": "apps/v1",
    "apps/v1beta2": "apps/v1",
    "autoscaling/v1": "autoscaling/v2",
    "autoscaling/v2beta1": "autoscaling/v2",
    "autoscaling/v2beta2": "autoscaling/v2",
    "policy/v1beta1": "policy/v1",
    "networking.k8s.io/v1beta1": "networking.k8s.io/v1",
    "scheduling.k8s.io/v1alpha1": "scheduling.k8s.io/v1",
    "scheduling.k8s.io/v1beta1": "scheduling.k8s.io/v1",
    "batch/v1beta1": "batch/v1",
}

_COUNT = {"type": "integer", "minimum": 0}


def _closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_TEXT = {"type": "string", "minLength": 1}
_POLICY = _closed(
    ["type", "value", "periodSeconds"], type={"enum": ["Percent", "Pods"]}, value=_COUNT, periodSeconds=_COUNT
)
_RULES = _closed(
    ["policies"],
    stabilizationWindowSeconds=_COUNT,
    selectPolicy={"enum": ["Max", "Min", "Disabled"]},
    policies={"type": "array", "items": _POLICY, "minItems": 1},
)
_NUMBER = {"type": "string", "pattern": r"^\d+(\.\d+)?$"}  # KEDA's metadata are strings, all of them
_PROMETHEUS = _closed(
    ["type", "metadata"],
    type={"const": "prometheus"},
    name=_TEXT,
    metricType={"enum": ["AverageValue", "Value"]},
    metadata=_closed(
        ["serverAddress", "query", "threshold"],
        serverAddress={"type": "string", "pattern": "^https?://"},
        query=_TEXT,
        threshold=_NUMBER,
        activationThreshold=_NUMBER,
        namespace=_TEXT,
    ),
)
# The part of keda.sh/v1alpha1 that is used here, after KEDA's documentation; whatever else stands there is a fault.
SCALED_OBJECT = _closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "keda.sh/v1alpha1"},
    kind={"const": "ScaledObject"},
    metadata={"type": "object", "required": ["name", "namespace"]},
    spec=_closed(
        ["scaleTargetRef", "triggers", "minReplicaCount", "maxReplicaCount", "fallback"],
        scaleTargetRef=_closed(["name"], apiVersion=_TEXT, kind=_TEXT, name=_TEXT),
        pollingInterval=_COUNT,
        minReplicaCount={"type": "integer", "minimum": 1},
        maxReplicaCount=_COUNT,
        fallback=_closed(["failureThreshold", "replicas"], failureThreshold=_COUNT, replicas=_COUNT),
        advanced=_closed(
            ["horizontalPodAutoscalerConfig"],
            horizontalPodAutoscalerConfig=_closed(["behavior"], behavior=_closed([], scaleUp=_RULES, scaleDown=_RULES)),
        ),
        triggers={"type": "array", "items": _PROMETHEUS, "minItems": 1},
    ),
)

_DURATION = {"type": "string", "pattern": r"^(\d+(ms|s|m|h|d|w|y))+$"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_NAMED = {"type": "object", "required": ["name", "namespace", "labels"]}
# The parts of monitoring.coreos.com/v1 that are used here, not compared with the operator's own schemas.
SERVICE_MONITOR = _closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "monitoring.coreos.com/v1"},
    kind={"const": "ServiceMonitor"},
    metadata=_NAMED,
    spec=_closed(
        ["selector", "endpoints"],
        jobLabel=_TEXT,
        selector=_closed(["matchLabels"], matchLabels=_TEXTS),
        endpoints={
            "type": "array",
            "minItems": 1,
            "items": _closed(["port"], port=_TEXT, path=_TEXT, interval=_DURATION, scrapeTimeout=_DURATION),
        },
    ),
)
_RECORD = _closed(["record", "expr"], record={"type": "string", "pattern": "^[a-zA-Z_:][a-zA-Z0-9_:]*$"}, expr=_TEXT)
_ALERT = _closed(
    ["alert", "expr", "for", "labels", "annotations"],
    alert=_TEXT, expr=_TEXT, **{"for": _DURATION}, labels=_TEXTS, annotations=_TEXTS,
)  # fmt: skip
PROMETHEUS_RULE = _closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "monitoring.coreos.com/v1"},
    kind={"const": "PrometheusRule"},
    metadata=_NAMED,
    spec=_closed(
        ["groups"],
        groups={
            "type": "array",
            "minItems": 1,
            "items": _closed(
                ["name", "rules"],
                name=_TEXT,
                rules={"type": "array", "minItems": 1, "items": {"anyOf": [_RECORD, _ALERT]}},
            ),
        },
    ),
)
OURS = {"ScaledObject": SCALED_OBJECT, "ServiceMonitor": SERVICE_MONITOR, "PrometheusRule": PROMETHEUS_RULE}


def faults(document: dict[str, Any], version: str) -> list[str]:
    """What the schema of a Kubernetes version says against a document; a kind that has none is a fault too."""
    what = f"{document.get('apiVersion')} {document.get('kind')}"
    if document.get("apiVersion") in OUTDATED:
        return [f"{what}: outdated; accepted: {OUTDATED[document['apiVersion']]}"]
    try:
        if document.get("kind") in OURS:
            found = jsonschema.Draft202012Validator(OURS[document["kind"]]).iter_errors(document)
            return [_sentence(what, error) for error in found]
        validated = kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return [f"{what}: Kubernetes {version} knows no such kind"]
    except jsonschema.ValidationError as error:
        return [_sentence(what, error)]
    return [] if validated == version else [f"{what}: validated against {validated}, not {version}"]


def _sentence(what: str, error: jsonschema.ValidationError) -> str:
    return f"{what}: {'.'.join(str(part) for part in error.absolute_path)}: {error.message}"
