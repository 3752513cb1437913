"""What no schema can see: whether the documents fit together, and fit the service. Each check yields sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from quantities import quantity
from rendering import Manifests

from service.errors import ConfigError

Complaints = Iterator[str]
CHECKS: list[Callable[[Manifests], Complaints]] = []

CLUSTER_SCOPED = {"Namespace", "PriorityClass"}
GPU = re.compile(r"nvidia\.com/(gpu|mig-\d+g\.\d+gb)")


def check(function: Callable[[Manifests], Complaints]) -> Callable[[Manifests], Complaints]:
    CHECKS.append(function)
    return function


def complaints(manifests: Manifests) -> list[str]:
    """The sentences of every check; a configuration that does not load is one, and what needs it is not asked."""
    try:
        assert manifests.config
    except (ConfigError, ValueError, KeyError) as error:
        return [
            f"configuration: {error}",
            *(text for one in CHECKS if one not in _NEED_CONFIG for text in one(manifests)),
        ]
    return [text for one in CHECKS for text in one(manifests)]


_NEED_CONFIG: list[Callable[[Manifests], Complaints]] = []


def check_with_config(function: Callable[[Manifests], Complaints]) -> Callable[[Manifests], Complaints]:
    _NEED_CONFIG.append(function)
    return check(function)


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a selector, of a Service or with matchLabels, chooses something with these labels."""
    wanted = selector.get("matchLabels", {}) if "matchLabels" in selector or not selector else selector
    return bool(wanted) and wanted.items() <= labels.items()


# --- names ---------------------------------------------------------------------------------------------------------


@check
def names_are_labels_and_stand_once(manifests: Manifests) -> Complaints:
    seen = set()
    for document in manifests.documents:
        name = document["metadata"]["name"]
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
            yield f"{document['kind']} {name!r}: not a DNS label"
        if (document["kind"], name) in seen:
            yield f"{document['kind']} {name}: stands twice"
        seen.add((document["kind"], name))


@check
def everything_is_in_the_one_namespace(manifests: Manifests) -> Complaints:
    names = [document["metadata"]["name"] for document in manifests.of("Namespace")]
    for document in manifests.documents:
        if document["kind"] not in CLUSTER_SCOPED and document["metadata"].get("namespace") not in names:
            yield f"{document['kind']} {document['metadata']['name']}: not in the namespace {names}"
    for document in manifests.of("Namespace"):
        for mode in ("enforce", "audit", "warn"):
            if document["metadata"].get("labels", {}).get(f"pod-security.kubernetes.io/{mode}") != "restricted":
                yield f"Namespace: the pod security standard is not to {mode} 'restricted'"


# --- references ----------------------------------------------------------------------------------------------------


@check
def selectors_find_the_pods(manifests: Manifests) -> Complaints:
    selectors = [("Deployment", manifests.deployment["spec"]["selector"])]
    selectors += [(f"Service {one['metadata']['name']}", one["spec"]["selector"]) for one in manifests.of("Service")]
    selectors += [("PodDisruptionBudget", one["spec"]["selector"]) for one in manifests.of("PodDisruptionBudget")]
    selectors += [
        (f"topologySpreadConstraint {one['topologyKey']}", one["labelSelector"])
        for one in manifests.pod.get("topologySpreadConstraints", [])
    ]
    selectors += [
        (f"NetworkPolicy {one['metadata']['name']}", one["spec"]["podSelector"])
        for one in manifests.of("NetworkPolicy")
        if one["spec"]["podSelector"]  # an empty one finds every pod
    ]
    for owner, selector in selectors:
        if not matches(selector, manifests.pod_labels):
            yield f"{owner}: the selector {selector} does not find the pods {manifests.pod_labels}"


@check
def what_is_mounted_is_there(manifests: Manifests) -> Complaints:
    mounted = set()
    for container in manifests.containers:
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        mounted |= {mount["name"] for mount in container.get("volumeMounts", [])}
        if len(paths) != len(set(paths)):
            yield f"container {container['name']}: two mounts at one path among {paths}"
    for name in mounted - set(manifests.volumes):
        yield f"volume {name}: mounted, but there is none"
    for name in set(manifests.volumes) - mounted:
        yield f"volume {name}: not mounted"


@check
def config_maps_and_secrets_are_there(manifests: Manifests) -> Complaints:
    for volume in manifests.volumes.values():
        if "configMap" in volume and not manifests.has("ConfigMap", volume["configMap"]["name"]):
            yield f"ConfigMap {volume['configMap']['name']}: mounted, but there is none"
    keys = {one["metadata"]["name"]: set(one.get("data", {})) for one in manifests.of("ConfigMap")}
    for container in manifests.containers:
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            if "configMapKeyRef" in source:
                name, key = source["configMapKeyRef"]["name"], source["configMapKeyRef"]["key"]
                if key not in keys.get(name, ()):
                    yield f"{variable['name']}: no key {key} in a ConfigMap {name}"
            if "secretKeyRef" in source and not source["secretKeyRef"].get("optional"):
                yield f"{variable['name']}: a Secret that is not ours must be optional"


@check
def config_maps_roll_out(manifests: Manifests) -> Complaints:
    for one in manifests.of("ConfigMap"):
        if not is_dashboard(one) and not re.search(r"-[a-z0-9]{10}$", one["metadata"]["name"]):
            yield f"ConfigMap {one['metadata']['name']}: without a hash a change of it does not roll out"


def is_dashboard(document: dict[str, Any]) -> bool:
    """Whether Grafana's sidecar takes it for one."""
    return bool(document["metadata"].get("labels", {}).get("grafana_dashboard") == "1")


@check
def account_and_priority_are_there(manifests: Manifests) -> Complaints:
    account = manifests.pod.get("serviceAccountName", "default")
    if not manifests.has("ServiceAccount", account):
        yield f"ServiceAccount {account}: there is none"
    if not manifests.has("PriorityClass", manifests.pod.get("priorityClassName", "none")):
        yield f"PriorityClass {manifests.pod.get('priorityClassName')}: there is none"
    for document in (*manifests.of("ServiceAccount"), manifests.pod):
        if document.get("automountServiceAccountToken") is not False:
            yield "automountServiceAccountToken: must be false, nothing here asks the API"
    if manifests.pod.get("enableServiceLinks") is not False:
        yield "enableServiceLinks: must be false, a service link may be an unknown REGNETX__ variable"


# --- ports and probes ----------------------------------------------------------------------------------------------


@check_with_config
def container_ports_are_those_of_the_configuration(manifests: Manifests) -> Complaints:
    config = manifests.config
    wanted = {"http": config.http_port, "grpc": config.rpc_port, "admin": config.admin_port}
    found = {port.get("name"): port["containerPort"] for port in manifests.server.get("ports", [])}
    if found != wanted:
        yield f"ports: the container has {found}, the configuration {wanted}"


def _for_metrics(service: dict[str, Any]) -> bool:
    return bool(service["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "metrics")


def _doors(service: dict[str, Any], named: set[str]) -> set[str]:
    """The admin port is Prometheus's alone, and the doors are not."""
    return {"admin"} if _for_metrics(service) else named - {"admin"}


@check
def services_lead_to_ports(manifests: Manifests) -> Complaints:
    named = {port["name"] for port in manifests.server.get("ports", [])}
    for service in manifests.of("Service"):
        name = service["metadata"]["name"]
        for port in service["spec"]["ports"]:
            if port.get("targetPort") not in _doors(service, named):
                yield f"Service {name}: targetPort {port.get('targetPort')} is no door of the container ({named})"
            if port["name"] == "grpc" and port.get("appProtocol") != "kubernetes.io/h2c":
                yield f"Service {name}: gRPC without appProtocol kubernetes.io/h2c"
    kinds = [one["spec"].get("clusterIP") == "None" for one in manifests.of("Service") if not _for_metrics(one)]
    if sorted(kinds) != [False, True]:
        yield "Services: one with a ClusterIP and one without (headless) are needed"


@check_with_config
def probes_ask_the_admin_port(manifests: Manifests) -> Complaints:
    ports = {port["name"]: port["containerPort"] for port in manifests.server.get("ports", [])}
    for probe, path in (("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        get = manifests.server.get(probe, {}).get("httpGet")
        if get is None:
            yield f"{probe}: there is none that asks over HTTP"
            continue
        port = ports.get(get["port"], get["port"])
        if port != manifests.config.admin_port or get["path"] != path:
            yield f"{probe}: asks {port}{get['path']}, not {manifests.config.admin_port}{path}"


@check
def probes_have_patience(manifests: Manifests) -> Complaints:
    def seconds(name: str) -> int:
        probe = manifests.server.get(name, {})
        return int(probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3))

    if seconds("livenessProbe") < 60:
        yield f"livenessProbe: restarts after {seconds('livenessProbe')} s, less than a start takes"
    if not 5 <= seconds("readinessProbe") <= 15:
        yield f"readinessProbe: out of the endpoints after {seconds('readinessProbe')} s; accepted: 5 to 15"
    deadline = manifests.deployment["spec"].get("progressDeadlineSeconds", 600)
    if not 300 <= seconds("startupProbe") < deadline:
        yield f"startupProbe: {seconds('startupProbe')} s; accepted: 300 to progressDeadlineSeconds, {deadline}"


@check_with_config
def an_engine_has_as_long_to_load_again_as_at_the_start(manifests: Manifests) -> Complaints:
    probe = manifests.server.get("startupProbe", {})
    allowed = int(probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3))
    if manifests.config.native.load_timeout_ms != allowed * 1000:
        yield f"load_timeout_ms: {manifests.config.native.load_timeout_ms}, but the startupProbe allows {allowed} s"


@check_with_config
def network_policies_open_the_doors_and_nothing_else(manifests: Manifests) -> Complaints:
    config = manifests.config
    doors, admin = {config.http_port, config.rpc_port}, {config.admin_port}
    policies = {one["metadata"]["name"]: one["spec"] for one in manifests.of("NetworkPolicy")}
    deny = policies.pop("default-deny", {})
    if deny != {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}:
        yield f"NetworkPolicy default-deny: is {deny}, which does not deny everything"
    into = [rule for policy in policies.values() for rule in policy.get("ingress", [])]
    opened = [{port["port"] for port in rule.get("ports", [])} for rule in into]
    if opened != [doors, admin]:
        yield f"NetworkPolicy: opens {opened}, where the container's ports are {[doors, admin]}"
    if not all(rule.get("from") for rule in into):
        yield "NetworkPolicy: a rule lets everybody in"
    out = {port["port"] for policy in policies.values() for rule in policy.get("egress", []) for port in rule["ports"]}
    if out != ({53, 443} if "model-fetch" in manifests.choice.components else {53}):
        yield f"NetworkPolicy: lets out to the ports {out}"


# --- stopping and rolling out ----------------------------------------------------------------------------------------


@check_with_config
def stopping_adds_up(manifests: Manifests) -> Complaints:
    native, grace = manifests.config.native, manifests.pod.get("terminationGracePeriodSeconds", 30)
    needed = native.drain_delay_ms / 1000 + native.drain_timeout_ms / 1000 + 10
    if grace <= needed:
        yield f"terminationGracePeriodSeconds: {grace}, but draining and 10 s more take {needed:g}"
    if native.drain_delay_ms < 5000:
        yield f"drain_delay_ms: {native.drain_delay_ms}, but endpoints take 5 to 10 s to be forgotten"
    if native.drain_timeout_ms < manifests.config.timeout * 1000:
        yield f"drain_timeout_ms: {native.drain_timeout_ms}, but a request may take {manifests.config.timeout:g} s"
    if "lifecycle" in manifests.server:
        yield "lifecycle: the delay is in the process, a preStop would come on top of it"
    if not 30_000 <= native.max_connection_age_ms <= 300_000:
        yield f"max_connection_age_ms: {native.max_connection_age_ms}, so new pods get no traffic of old connections"


@check_with_config
def rollouts_can_go_on(manifests: Manifests) -> Complaints:
    rolling = manifests.deployment["spec"]["strategy"]["rollingUpdate"]
    found = (rolling["maxUnavailable"], rolling["maxSurge"])
    wanted = (1, 0) if manifests.config.regnet.local_service_conf.on_gpu else (0, 1)
    if found != wanted:
        yield f"rollingUpdate: maxUnavailable and maxSurge are {found}, not {wanted}"
    for key, least in (("minReadySeconds", 10), ("revisionHistoryLimit", 1)):
        if manifests.deployment["spec"].get(key, 0) < least:
            yield f"{key}: at least {least} is needed"
    for one in manifests.of("PodDisruptionBudget"):
        if one["spec"].get("maxUnavailable") != 1 or one["spec"].get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            yield "PodDisruptionBudget: a drain of a node could wait for ever"
    if not manifests.of("PodDisruptionBudget"):
        yield "PodDisruptionBudget: there is none"


@check
def pods_are_spread(manifests: Manifests) -> Complaints:
    spread = {one["topologyKey"]: one for one in manifests.pod.get("topologySpreadConstraints", [])}
    for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname"):
        if key not in spread:
            yield f"topologySpreadConstraints: none for {key}"
        elif spread[key].get("matchLabelKeys") != ["pod-template-hash"]:
            yield f"topologySpreadConstraints: {key} without matchLabelKeys counts the pods of the last rollout too"


# --- resources -----------------------------------------------------------------------------------------------------


@check
def resources_are_quantities_and_guaranteed(manifests: Manifests) -> Complaints:
    for container in manifests.containers:
        name, resources = container["name"], container.get("resources", {})
        try:
            requests, limits = (
                {key: quantity(value) for key, value in resources.get(side, {}).items()}
                for side in ("requests", "limits")
            )
        except ValueError as error:
            yield f"resources of {name}: {error}"
            continue
        if requests != limits or not {"cpu", "memory", "ephemeral-storage"} <= limits.keys():
            yield f"resources of {name}: requests {requests} are not limits {limits}, so the pod is not Guaranteed"
        if limits.get("cpu", 0) % 1:
            yield f"resources of {name}: {limits['cpu']} CPUs; whole ones can be pinned"


@check_with_config
def resources_fit_the_configuration(manifests: Manifests) -> Complaints:
    config, local = manifests.config, manifests.config.regnet.local_service_conf
    cpus = quantity(manifests.server["resources"]["limits"].get("cpu", 0))
    for key, value in (
        ("thread_num", local.thread_num),
        ("concurrency", config.regnet.concurrency),
        ("decode_threads", config.decode_threads if config.native.decode_threads else float("inf")),
    ):
        if value > cpus:
            yield f"{key}: {value} of {cpus} CPUs"
    busy = config.regnet.concurrency + config.frontends * config.decode_threads
    if local.on_gpu and busy > cpus:
        yield f"{busy} busy threads beside the GPU, of {cpus} CPUs"


@check_with_config
def the_device_is_the_one_of_the_configuration(manifests: Manifests) -> Complaints:
    on_gpu = manifests.config.regnet.local_service_conf.on_gpu
    limits = manifests.server["resources"]["limits"]
    gpus = {key: value for key, value in limits.items() if key.startswith("nvidia.com/")}
    if bool(gpus) != on_gpu:
        yield f"device: the configuration says GPU: {on_gpu}, the resources {gpus}"
    if any(not GPU.fullmatch(key) or value != "1" for key, value in gpus.items()) or len(gpus) > 1:
        yield f"device: {gpus}; accepted: one GPU or one MIG instance"
    if "mig" in manifests.choice.overlay and not any("mig-" in key for key in gpus):
        yield f"device: {gpus} is no MIG instance"
    tolerated = any(one.get("key") == "nvidia.com/gpu" for one in manifests.pod.get("tolerations", []))
    if tolerated != on_gpu:
        yield f"tolerations: GPU nodes are tolerated: {tolerated}, needed: {on_gpu}"
    images = {container["image"] for container in manifests.containers}
    if not all(image.endswith("-gpu" if on_gpu else "-cpu") for image in images):
        yield f"images: {images} for a configuration with GPU: {on_gpu}"
    variables = {one["name"]: one.get("value") for one in manifests.server["env"]}
    if on_gpu and variables.get("NVIDIA_DRIVER_CAPABILITIES") != "compute,utility":
        yield "NVIDIA_DRIVER_CAPABILITIES: must be compute,utility"


@check
def images_are_pinned(manifests: Manifests) -> Complaints:
    images = [container["image"] for container in manifests.containers]
    images += [volume["image"]["reference"] for volume in manifests.volumes.values() if "image" in volume]
    for image in images:
        if not re.search(r"(:(?!latest$)[\w.-]+|@sha256:[0-9a-f]{64})$", image):
            yield f"image {image}: neither a tag nor a digest"


@check
def folders_in_memory_or_on_disk_are_bounded(manifests: Manifests) -> Complaints:
    total = quantity(0)
    for name, volume in manifests.volumes.items():
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"volume {name}: an emptyDir without a sizeLimit"
        total += quantity(volume.get("emptyDir", {}).get("sizeLimit", 0))
    limit = quantity(manifests.server.get("resources", {}).get("limits", {}).get("ephemeral-storage", 0))
    if total > limit:
        yield f"ephemeral-storage: {limit}, less than the emptyDirs' {total}"


# --- security ------------------------------------------------------------------------------------------------------


@check
def pods_are_restricted(manifests: Manifests) -> Complaints:
    wanted = {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001}
    found = manifests.pod.get("securityContext", {})
    if not wanted.items() <= found.items() or found.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield f"securityContext of the pod: {found}"
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if manifests.pod.get(key):
            yield f"{key}: not for this pod"


@check
def containers_are_restricted(manifests: Manifests) -> Complaints:
    wanted = {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for container in manifests.containers:
        if container.get("securityContext") != wanted:
            yield f"securityContext of {container['name']}: {container.get('securityContext')}"
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        if writable - {"/tmp", "/models"} or (container is manifests.pod["containers"][0] and "/models" in writable):
            yield f"container {container['name']}: may write to {writable}"


# --- models --------------------------------------------------------------------------------------------------------


@check_with_config
def the_model_is_in_the_image_or_mounted(manifests: Manifests) -> Complaints:
    path = manifests.config.regnet.local_service_conf.model_config_
    mounts = [mount["mountPath"] for mount in manifests.server["volumeMounts"]]
    mounted = any(path.startswith(f"{mount}/") for mount in mounts)
    delivered = any(component.startswith("model-") for component in manifests.choice.components)
    if mounted != delivered:
        yield f"model_config: {path}, with mounts at {mounts}"


@check
def a_model_is_fetched_where_it_is_served(manifests: Manifests) -> Complaints:
    for fetch in manifests.pod.get("initContainers", []):
        arguments = fetch["args"]
        folder, name = (arguments[arguments.index(option) + 1] for option in ("--to", "--name"))
        served = {one["name"]: one.get("value") for one in manifests.server["env"]}
        if served.get("REGNETX__OP__LOCAL_SERVICE_CONF__MODEL_CONFIG") != f"{folder}/{name}/serving_server":
            yield f"the model is fetched to {folder}/{name}, but not served from there"
        places = [{mount["name"]: mount["mountPath"] for mount in one["volumeMounts"]} for one in manifests.containers]
        if any(place.get("models") != folder for place in places):
            yield f"the model is fetched to {folder}, which is not the volume: {places}"


# --- autoscaling -----------------------------------------------------------------------------------------------------


@check
def an_autoscaler_owns_the_replicas_alone(manifests: Manifests) -> Complaints:
    found = manifests.autoscalers
    if len(found) > 1:
        yield "autoscalers: KEDA makes an autoscaler of its own, two would fight"
    replicas = manifests.deployment["spec"].get("replicas")
    if bool(found) == (replicas is not None):
        yield f"replicas: {replicas}, with {len(found)} autoscalers"
    if not found and replicas < 2:
        yield "replicas: one pod cannot be lost"
    for one in found:
        target = one["spec"]["scaleTargetRef"]
        if (target.get("apiVersion"), target.get("kind"), target["name"]) != (
            manifests.deployment["apiVersion"],
            "Deployment",
            manifests.deployment["metadata"]["name"],
        ):
            yield f"{one['kind']}: there is no {target}"


@check
def an_autoscaler_has_bounds(manifests: Manifests) -> Complaints:
    for one in manifests.autoscalers:
        spec = one["spec"]
        least = spec.get("minReplicas", spec.get("minReplicaCount", 0))
        most = spec.get("maxReplicas", spec.get("maxReplicaCount", 0))
        if not 2 <= least < most:
            yield f"{one['kind']}: from {least} to {most} replicas"
        fallback = spec.get("fallback", {}).get("replicas", most)
        if not least <= fallback <= most:
            yield f"{one['kind']}: falls back to {fallback}, not within {least} to {most}"
        config = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", spec)
        up, down = (config.get("behavior", {}).get(side, {}) for side in ("scaleUp", "scaleDown"))
        if up.get("policies") != [{"type": "Percent", "value": 100, "periodSeconds": 30}]:
            yield f"{one['kind']}: scales up by {up.get('policies')}, not by 100 % in 30 s"
        if down.get("stabilizationWindowSeconds") != 300:
            yield f"{one['kind']}: scales down without waiting 300 s"


@check_with_config
def an_autoscaler_aims_at_two_batches_an_engine(manifests: Manifests) -> Complaints:
    if manifests.config.regnet.local_service_conf.on_gpu and manifests.choice.components:
        return  # a user's overlay sets it for another batch size, as docs/kubernetes.md says; tested there
    wanted = 2 * manifests.config.regnet.concurrency * manifests.config.regnet.batch_size
    for one in manifests.autoscalers:
        if aim(one) != ("regnetx_slots_in_use", wanted):
            yield f"{one['kind']}: aims at {aim(one)}, not at {wanted} regnetx_slots_in_use a pod"
        if wanted * 4 > manifests.config.slots * manifests.config.frontends:
            yield f"slots: {manifests.config.slots}, less than four times what the autoscaler aims at"


def aim(autoscaler: dict[str, Any]) -> tuple[str, int]:
    """The metric of an autoscaler, and its value for one pod."""
    if autoscaler["kind"] == "HorizontalPodAutoscaler":
        [metric] = autoscaler["spec"]["metrics"]
        pods = metric.get("pods", {"metric": {"name": metric["type"]}, "target": {}})
        return pods["metric"]["name"], int(quantity(pods["target"].get("averageValue", 0)))
    [trigger] = autoscaler["spec"]["triggers"]
    names = re.findall(r"regnetx_\w+", trigger["metadata"]["query"])
    return " ".join(names), int(trigger["metadata"]["threshold"])


# --- monitoring ------------------------------------------------------------------------------------------------------


@check
def monitors_find_the_admin_port(manifests: Manifests) -> Complaints:
    for monitor in manifests.of("ServiceMonitor"):
        spec = monitor["spec"]
        found = [one for one in manifests.of("Service") if matches(spec["selector"], one["metadata"].get("labels", {}))]
        names = [one["metadata"]["name"] for one in found]
        if len(found) != 1:
            yield f"ServiceMonitor: finds the Services {names}; accepted: one, or a pod is scraped twice"
            continue
        [service], [endpoint] = found, spec["endpoints"]
        if endpoint["port"] not in {port["name"] for port in service["spec"]["ports"] if port["targetPort"] == "admin"}:
            yield f"ServiceMonitor: its port {endpoint['port']} of {names} is not the admin port"
        if not service["spec"].get("publishNotReadyAddresses"):
            yield f"Service {names[0]}: a pod that is not ready would not be seen"
        if service["metadata"]["labels"].get(spec.get("jobLabel")) != "regnetx":
            yield "ServiceMonitor: jobLabel does not make the job regnetx, which the rules ask for"


@check
def an_operator_selects_monitors_and_rules(manifests: Manifests) -> Complaints:
    found = manifests.of("ServiceMonitor", "PrometheusRule")
    if len({one["metadata"]["labels"].get("release") for one in found}) > 1 or any(
        "release" not in one["metadata"]["labels"] for one in found
    ):
        yield "monitoring: the label release is not on ServiceMonitor and PrometheusRule alike"


@check
def grafana_finds_the_dashboard(manifests: Manifests) -> Complaints:
    found = [one for one in manifests.of("ConfigMap") if is_dashboard(one)]
    if len(found) != len(manifests.of("ServiceMonitor")):
        yield f"dashboards: {len(found)} ConfigMaps with the label grafana_dashboard, where pods are watched"
    for one in found:
        [text] = one["data"].values()
        if one["metadata"]["name"] != "regnetx-dashboard" or "uid" not in json.loads(text):
            yield f"ConfigMap {one['metadata']['name']}: another name, or another uid, is a second dashboard"
