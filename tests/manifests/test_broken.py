"""The checks can fail: each manifest that is broken here, in a copy, is named by one of them."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import policies
import pytest
import yaml
from complaints import complaints
from rendering import K8S, Choice, render
from schemas import NEWEST, faults

CPU, GPU, MIG = Choice("cpu"), Choice("gpu"), Choice("mig")
HPA, KEDA, FETCH = Choice("autoscale"), Choice("cpu", ("keda",)), Choice("cpu", ("model-fetch",))

DEPLOYMENT, CONFIG = "base/deployment.yaml", "base/config.yml"
SERVICES, NETWORK = "base/services.yaml", "base/networkpolicies.yaml"
SCALER, SCALED = "components/hpa/horizontalpodautoscaler.yaml", "components/keda/scaledobject.yaml"
MONITOR, WATCHED = "components/monitoring/servicemonitor.yaml", Choice("monitoring")
ON_GPU, FETCHED = "overlays/gpu/deployment.yaml", "components/model-fetch/deployment.yaml"


@dataclass(frozen=True)
class Broken:
    """A text of a file replaced by another one, and what is then said of the choice that it belongs to."""

    file: str
    old: str
    new: str
    named: str
    choice: Choice = CPU


BROKEN = {
    # by kustomize
    "a file that is not there": Broken("base/kustomization.yaml", "services.yaml", "service.yaml", "service.yaml"),
    "an unknown key of kustomize": Broken("overlays/cpu/kustomization.yaml", "images:", "image:", "unknown field"),
    "a patch of nothing": Broken(ON_GPU, "name: regnetx\nspec", "name: regnet\nspec", "no matches for Id", GPU),
    # by yamllint
    "a key that stands twice": Broken(
        DEPLOYMENT, "replicas: 2", "replicas: 3\n  replicas: 2", 'duplication of key "replicas"'
    ),
    # by the schemas
    "an API that is gone": Broken(SCALER, "autoscaling/v2", "autoscaling/v2beta2", "v2beta2 .*: outdated", HPA),
    "an API that never was": Broken(DEPLOYMENT, "apps/v1", "apps/v9", "knows no such kind"),
    "an unknown field": Broken(DEPLOYMENT, "minReadySeconds", "minReadySecond", "'minReadySecond' was unexpected"),
    "a wrong type": Broken(DEPLOYMENT, "replicas: 2", 'replicas: "2"', "'2' is not of type 'integer'"),
    "a missing field": Broken(SERVICES, "port: 9993\n", "nodePort: 9993\n", "'port' is a required property"),
    "an unknown field of KEDA": Broken(SCALED, "minReplicaCount", "minReplicas", "'minReplicas' was unexpected", KEDA),
    "a number where KEDA wants a string": Broken(SCALED, '"32"', "32", "32 is not of type 'string'", KEDA),
    # by what no schema sees: references
    "a selector of other pods": Broken(
        "base/poddisruptionbudget.yaml", "name: regnetx\n", "name: regnet\n", "PodDisruptionBudget: the selector"
    ),
    "a service of other pods": Broken(
        SERVICES,
        "regnetx\n  ports:\n    - name: http",
        "x\n  ports:\n    - name: http",
        "Service regnetx: the selector",
    ),
    "a deployment of other pods": Broken(
        DEPLOYMENT,
        "    metadata:\n      labels:\n        app.kubernetes.io/name: regnetx",
        "    metadata:\n      labels:\n        app.kubernetes.io/name: other",
        "Deployment: the selector",
    ),
    "a volume that is not there": Broken(
        DEPLOYMENT, "        - name: tmp\n", "        - name: temp\n", "volume tmp: mounted"
    ),
    "a ConfigMap that is not there": Broken(
        DEPLOYMENT,
        "            name: regnetx-config",
        "            name: regnetx-conf",
        "ConfigMap regnetx-conf: mounted",
    ),
    "a ConfigMap without a hash": Broken(
        "base/kustomization.yaml",
        "configMapGenerator:",
        "generatorOptions: {disableNameSuffixHash: true}\nconfigMapGenerator:",
        "without a hash",
    ),
    "an account that is not there": Broken(
        DEPLOYMENT, "serviceAccountName: regnetx", "serviceAccountName: other", "ServiceAccount other: there is none"
    ),
    "an autoscaler of something else": Broken(
        SCALER, "kind: Deployment\n    name: regnetx", "kind: Deployment\n    name: other", "there is no", HPA
    ),
    "a token of the API": Broken(
        DEPLOYMENT, "automountServiceAccountToken: false", "automountServiceAccountToken: true", "must be false"
    ),
    "service links": Broken(DEPLOYMENT, "enableServiceLinks: false", "enableServiceLinks: true", "enableServiceLinks"),
    "another namespace": Broken("base/namespace.yaml", "enforce: restricted", "enforce: baseline", "'restricted'"),
    "a component outside the namespace": Broken(
        SCALER, "namespace: regnetx", "namespace: other", "not in the namespace", HPA
    ),
    # ports and probes
    "a port that no container has": Broken(
        SERVICES, "targetPort: http", "targetPort: web", "targetPort web is no door"
    ),
    "metrics through a service": Broken(
        SERVICES, "targetPort: http", "targetPort: admin", "targetPort admin is no door"
    ),
    "gRPC as HTTP/1.1": Broken(
        SERVICES, "appProtocol: kubernetes.io/h2c  #", "appProtocol: http  #", "without appProtocol kubernetes.io/h2c"
    ),
    "a port of the configuration alone": Broken(
        CONFIG, "http_port: 18080", "http_port: 8080", "ports: the container has"
    ),
    "a missing probe": Broken(
        DEPLOYMENT,
        """            httpGet: {path: /readyz, port: admin}
            periodSeconds: 5
            timeoutSeconds: 2
            failureThreshold: 2
""",
        """            tcpSocket: {port: admin}
""",
        "readinessProbe: there is none that asks",
    ),
    "a probe at a busy door": Broken(
        DEPLOYMENT,
        "httpGet: {path: /healthz, port: admin}",
        "httpGet: {path: /healthz, port: http}",
        "livenessProbe: asks 18080",
    ),
    "a probe of the wrong path": Broken(
        DEPLOYMENT,
        "httpGet: {path: /healthz, port: admin}",
        "httpGet: {path: /readyz, port: admin}",
        "livenessProbe: asks",
    ),
    "an impatient probe": Broken(
        DEPLOYMENT, "failureThreshold: 6\n", "failureThreshold: 2\n", "livenessProbe: restarts after 20"
    ),
    "a start that is longer than the rollout": Broken(
        DEPLOYMENT, "progressDeadlineSeconds: 900", "progressDeadlineSeconds: 120", "startupProbe: 300 s"
    ),
    "an engine that may load for longer than a start": Broken(
        CONFIG, "load_timeout_ms: 300000", "load_timeout_ms: 3600000", "load_timeout_ms: 3600000, but .* allows 300 s"
    ),
    "a policy for another port": Broken(NETWORK, "port: 19393", "port: 9090", "where the container's ports are"),
    "a policy that lets everybody in": Broken(
        NETWORK,
        "    - from:\n        - namespaceSelector:\n            matchLabels:\n              kubernetes.io/metadata.name: monitoring\n      ports",
        "    - ports",
        "lets everybody in",
    ),
    "a policy that denies nothing": Broken(
        NETWORK,
        "  podSelector: {}\n  policyTypes: [Ingress, Egress]",
        "  podSelector: {}\n  policyTypes: [Ingress]",
        "does not deny everything",
    ),
    "a way out": Broken(NETWORK, "{protocol: TCP, port: 53}", "{protocol: TCP, port: 443}", "lets out"),
    # stopping and rolling out
    "a grace period that is too short": Broken(
        DEPLOYMENT, "terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: 50", "PeriodSeconds: 50, but"
    ),
    "a longer drain": Broken(CONFIG, "drain_timeout_ms: 30000", "drain_timeout_ms: 60000", "10 s more take 80"),
    "no time for endpoints": Broken(CONFIG, "drain_delay_ms: 10000", "drain_delay_ms: 0", "drain_delay_ms: 0, but"),
    "connections for ever": Broken(CONFIG, "age_ms: 60000", "age_ms: 0", "max_connection_age_ms: 0"),
    "a rollout without a GPU to spare": Broken(
        ON_GPU, "maxSurge: 0", "maxSurge: 1", "rollingUpdate: .*\\(1, 1\\)", GPU
    ),
    "a drain that waits for ever": Broken(
        "base/poddisruptionbudget.yaml", "maxUnavailable: 1", "minAvailable: 2", "could wait for ever"
    ),
    "pods on one node": Broken(
        DEPLOYMENT,
        "topologyKey: kubernetes.io/hostname",
        "topologyKey: kubernetes.io/os",
        "none for kubernetes.io/hostname",
    ),
    # resources
    "a limit below the request": Broken(
        ON_GPU, "limits: *resources", "limits: {cpu: 1, memory: 1Gi, nvidia.com/gpu: 1}", "are not limits", GPU
    ),
    "a quantity that is none": Broken(DEPLOYMENT, "memory: 4Gi", "memory: 2 GB", "'2 GB' is no quantity"),
    "half a CPU": Broken(DEPLOYMENT, 'cpu: "2"', "cpu: 1500m", "1.500 CPUs"),
    "fewer CPUs than threads": Broken(DEPLOYMENT, 'cpu: "2"', 'cpu: "1"', "thread_num: 2 of 1 CPUs"),
    "a thread for each core of the node": Broken(
        CONFIG, "  decode_threads: 2", "  # decode_threads: 2", "decode_threads: inf"
    ),
    "too few CPUs beside a GPU": Broken(ON_GPU, 'cpu: "6"', 'cpu: "4"', "5 busy threads beside the GPU, of 4", GPU),
    "a GPU that is not used": Broken(
        ON_GPU, 'DEVICE_TYPE\n              value: "1"', 'DEVICE_TYPE\n              value: "0"', "says GPU: False", GPU
    ),
    "a GPU that is not asked for": Broken(
        ON_GPU, '\n              nvidia.com/gpu: "1"', "\n             ", "says GPU: True", GPU
    ),
    "half a GPU": Broken(ON_GPU, 'nvidia.com/gpu: "1"', 'nvidia.com/gpu: "0.5"', "one GPU or one MIG instance", GPU),
    "both a GPU and a part of one": Broken(
        "overlays/mig/deployment.yaml",
        "nvidia.com/gpu: null",
        'nvidia.com/gpu: "1"',
        "one GPU or one MIG instance",
        MIG,
    ),
    "the CPU's image on a GPU": Broken("overlays/gpu/kustomization.yaml", "0.1.0-gpu", "0.1.0-cpu", "images: ", GPU),
    "the tag latest": Broken("overlays/cpu/kustomization.yaml", "0.1.0-cpu", "latest", "neither a tag nor a digest"),
    "a folder without an end": Broken(DEPLOYMENT, "sizeLimit: 64Mi", "medium: Memory", "without a sizeLimit"),
    "a folder beyond the limit": Broken(DEPLOYMENT, "sizeLimit: 64Mi", "sizeLimit: 1Gi", "less than the emptyDirs'"),
    # configuration
    "an unknown variable": Broken(
        DEPLOYMENT, "name: OPENBLAS_NUM_THREADS", "name: REGNETX__SLOTS", "REGNETX__SLOTS: unknown variable"
    ),
    "an unknown key": Broken(CONFIG, "slots: 128", "slot: 128", "native.slot: unknown key"),
    "a key that stands twice in the configuration": Broken(
        CONFIG, "rpc_port: 9993", "rpc_port: 9993\nhttp_port: 1", "http_port is written twice"
    ),
    "a model that is nowhere": Broken(CONFIG, "/app/serving_models", "/etc/regnetx", "model_config: /etc/regnetx"),
    "a model that is fetched elsewhere": Broken(
        FETCHED, "--name, served", "--name, other", "not served from there", FETCH
    ),
    "a ConfigMap without the key": Broken(FETCHED, "key: sha256", "key: md5", "no key md5 in a ConfigMap", FETCH),
    # security
    "a privileged container": Broken(DEPLOYMENT, "privileged: false", "privileged: true", "securityContext of regnetx"),
    "root": Broken(DEPLOYMENT, "runAsUser: 10001", "runAsUser: 0", "securityContext of the pod"),
    "no seccomp": Broken(DEPLOYMENT, "type: RuntimeDefault", "type: Unconfined", "securityContext of the pod"),
    "the node's network": Broken(
        DEPLOYMENT, "      enableServiceLinks", "      hostNetwork: true\n      enableServiceLinks", "hostNetwork"
    ),
    # autoscaling
    "an autoscaler with min above max": Broken(SCALER, "minReplicas: 2", "minReplicas: 20", "from 20 to 10", HPA),
    "KEDA with min above max": Broken(SCALED, "minReplicaCount: 2", "minReplicaCount: 20", "from 20 to 10", KEDA),
    "a fallback beyond max": Broken(SCALED, "replicas: 4", "replicas: 40", "falls back to 40", KEDA),
    "another metric": Broken(
        SCALER, "name: regnetx_slots_in_use", "name: queue_depth", "aims at \\('queue_depth'", HPA
    ),
    "another aim": Broken(SCALER, '"32"', '"8"', "not at 32 regnetx_slots_in_use", HPA),
    "a batch that the aim does not know": Broken(CONFIG, "batch_size: 8", "batch_size: 16", "not at 64", HPA),
    "an autoscaler in a hurry": Broken(SCALER, "Seconds: 300", "Seconds: 0", "scales down without waiting", HPA),
    # monitoring
    "a monitor that finds no service": Broken(
        MONITOR, "component: metrics", "component: web", "finds the Ser", WATCHED
    ),
    "a monitor of all services": Broken(
        "base/services.yaml",
        "metadata:\n  name: regnetx\n",
        "metadata:\n  name: regnetx\n  labels: {app.kubernetes.io/name: regnetx, app.kubernetes.io/component: metrics}\n",
        "finds the Services",
        WATCHED,
    ),
    "a port that the monitor does not find": Broken(MONITOR, "port: admin", "port: http", "is not the admin", WATCHED),
    "a job that no rule asks for": Broken(
        MONITOR, "jobLabel: app.kubernetes.io/name", "jobLabel: x", "jobLabel", WATCHED
    ),
    "metrics of ready pods alone": Broken(
        "components/monitoring/service.yaml",
        "Addresses: true",
        "Addresses: false",
        "not ready would not be seen",
        WATCHED,
    ),
    "a rule without a severity or a time": Broken(
        "components/monitoring/prometheusrule.yaml", "for: 1m", "fore: 1m", "PrometheusRule", WATCHED
    ),
    "rules that no Prometheus selects": Broken(
        "components/monitoring/kustomization.yaml",
        "{group: monitoring.coreos.com}",
        "{kind: ServiceMonitor}",
        "the label release",
        WATCHED,
    ),
    "a dashboard that Grafana does not find": Broken(
        "components/monitoring/kustomization.yaml", 'grafana_dashboard: "1"', 'dashboard: "1"', "dashboards: 0", WATCHED
    ),
    "a second dashboard with each change": Broken(
        "components/monitoring/kustomization.yaml",
        "disableNameSuffixHash: true",
        "disableNameSuffixHash: false",
        "is a second dashboard",
        WATCHED,
    ),
    "two that own the replicas": Broken(
        "components/hpa/kustomization.yaml",
        "- op: remove\n        path: /spec/replicas",
        "- op: test\n        path: /spec/replicas\n        value: 2",
        "replicas: 2, with 1",
        HPA,
    ),
}

# What checkov must notice by itself, and the id of its check.
INSECURE = {
    "privileged": Broken(DEPLOYMENT, "privileged: false", "privileged: true", "CKV_K8S_16"),
    "root": Broken(DEPLOYMENT, "runAsNonRoot: true\n        runAsUser: 10001", "runAsUser: 0", "CKV_K8S_23"),
    "escalation": Broken(DEPLOYMENT, "Escalation: false", "Escalation: true", "CKV_K8S_20"),
    "capabilities": Broken(DEPLOYMENT, "drop: [ALL]", "add: [SYS_ADMIN]", "CKV_K8S_39"),
    "writable": Broken(DEPLOYMENT, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "CKV_K8S_22"),
    "unlimited": Broken(DEPLOYMENT, "limits: *resources", "", "CKV_K8S_13"),
    "token": Broken(DEPLOYMENT, "automountServiceAccountToken: false", "", "CKV_K8S_38"),
    "latest": Broken("overlays/cpu/kustomization.yaml", "0.1.0-cpu", "latest", "CKV_K8S_14"),
}


def broken(fault: Broken, folder: Path) -> Path:
    """A copy of the manifests with that fault."""
    copy = folder / "k8s"
    shutil.copytree(K8S, copy)
    text = (copy / fault.file).read_text()
    assert fault.old in text, "this fault is out of date"
    (copy / fault.file).write_text(text.replace(fault.old, fault.new))
    return copy


def said(choice: Choice, k8s: Path) -> list[str]:
    """What every tool but checkov says; whether documents fit together is asked only of those that are valid."""
    heard = policies.yamllint(k8s)
    try:
        manifests = render(choice, k8s)
    except ValueError as error:
        return [*heard, str(error)]
    invalid = [text for document in manifests.documents for text in faults(document, NEWEST)]
    return [*heard, *(invalid or complaints(manifests))]


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
def test_a_broken_manifest_is_named(fault: Broken, tmp_path: Path) -> None:
    heard = said(fault.choice, broken(fault, tmp_path))
    assert any(re.search(fault.named, text) for text in heard), heard


def test_both_autoscalers_at_once_are_refused(tmp_path: Path) -> None:
    (tmp_path / "k8s").symlink_to(K8S)
    [heard] = said(Choice("cpu", ("hpa", "keda")), tmp_path / "k8s")
    assert "nonexistent key: replicas" in heard


def test_checkov_names_what_is_insecure(tmp_path: Path) -> None:
    for name, fault in INSECURE.items():
        documents = render(fault.choice, broken(fault, tmp_path / name)).documents
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump_all(documents))
        shutil.rmtree(tmp_path / name)

    failed, _ = policies.checkov(tmp_path)

    assert {name: fault.named in failed.get(name, ()) for name, fault in INSECURE.items()} == dict.fromkeys(
        INSECURE, True
    ), failed
