"""Every overlay, alone and with every combination of components, is what Kubernetes and the service accept."""

from __future__ import annotations

import json
from pathlib import Path

import policies
import pytest
import yaml
from complaints import aim, complaints
from rendering import CHOICES, K8S, OVERLAYS, Manifests, render
from schemas import NEWEST, VERSIONS, faults


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifests]:
    """Every choice, from a link to the repository's manifests, beside which overlays can be written."""
    k8s = tmp_path_factory.mktemp("rendered") / "k8s"
    k8s.symlink_to(K8S)
    return {str(choice): render(choice, k8s) for choice in CHOICES}


def test_the_overlays_are_those_of_the_documentation() -> None:
    assert {choice.overlay for choice in OVERLAYS} >= {"cpu", "gpu", "mig", "autoscale"}


def test_every_component_is_part_of_a_choice() -> None:
    components = {component for choice in CHOICES for component in choice.components}
    assert components == {path.name for path in (K8S / "components").iterdir()}


@pytest.mark.parametrize("choice", [str(choice) for choice in CHOICES])
def test_the_documents_fit_together_and_fit_the_service(choice: str, rendered: dict[str, Manifests]) -> None:
    assert complaints(rendered[choice]) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_every_document_is_valid_in_every_version(version: str, rendered: dict[str, Manifests]) -> None:
    different = {json.dumps(one, sort_keys=True): one for each in rendered.values() for one in each.documents}
    assert len(different) > 20
    assert [fault for one in different.values() for fault in faults(one, version)] == []


def test_three_versions_and_the_newest_are_asked() -> None:
    assert len(VERSIONS) >= 3 and NEWEST == VERSIONS[-1] >= "1.37"


def test_the_documents_of_an_overlay_are_those_it_should_have(rendered: dict[str, Manifests]) -> None:
    base = {
        "ConfigMap": 1,
        "Deployment": 1,
        "Namespace": 1,
        "NetworkPolicy": 2,
        "PodDisruptionBudget": 1,
        "PriorityClass": 1,
        "Service": 2,
        "ServiceAccount": 1,
    }
    more = {
        "autoscale": {"HorizontalPodAutoscaler": 1},
        "cpu+keda": {"ScaledObject": 1},
        "monitoring": {"ConfigMap": 2, "PrometheusRule": 1, "Service": 3, "ServiceMonitor": 1},
        "gpu+model-fetch": {"NetworkPolicy": 3, "ConfigMap": 2},
    }
    for choice in ("cpu", "gpu", "mig", *more):
        kinds = [one["kind"] for one in rendered[choice].documents]
        assert {kind: kinds.count(kind) for kind in kinds} == base | more.get(choice, {})


def test_the_gpu_overlays_give_the_engine_the_gpu(rendered: dict[str, Manifests]) -> None:
    for choice, resource in (("gpu", "nvidia.com/gpu"), ("mig", "nvidia.com/mig-1g.10gb")):
        local = rendered[choice].config.regnet.local_service_conf
        assert (local.device_type, local.devices) == (1, "0")
        assert rendered[choice].server["resources"]["limits"][resource] == "1"
    assert rendered["cpu"].config.regnet.local_service_conf.device_type == 0


def test_the_adapters_rule_makes_the_metric_that_the_autoscaler_asks_for(rendered: dict[str, Manifests]) -> None:
    values = yaml.safe_load((K8S / "components/hpa/prometheus-adapter.yaml").read_text())
    [rule] = values["rules"]["custom"]
    [autoscaler] = rendered["autoscale"].autoscalers

    assert rule["name"]["as"] == aim(autoscaler)[0]
    assert rule["seriesQuery"].startswith(f"{aim(autoscaler)[0]}{{")
    assert rule["resources"]["overrides"] == {label: {"resource": label} for label in ("namespace", "pod")}
    for part in ("<<.Series>>", "<<.LabelMatchers>>", "by (<<.GroupBy>>)"):
        assert part in rule["metricsQuery"]


def test_both_autoscalers_aim_at_the_same(rendered: dict[str, Manifests]) -> None:
    [hpa], [keda] = rendered["cpu+hpa"].autoscalers, rendered["cpu+keda"].autoscalers
    assert aim(hpa) == aim(keda)
    assert hpa["spec"]["behavior"] == keda["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert (hpa["spec"]["minReplicas"], hpa["spec"]["maxReplicas"]) == (
        keda["spec"]["minReplicaCount"],
        keda["spec"]["maxReplicaCount"],
    )
    [namespace] = rendered["cpu+keda"].of("Namespace")
    query = keda["spec"]["triggers"][0]["metadata"]["query"]
    assert f'namespace="{namespace["metadata"]["name"]}"' in query


def test_the_metrics_that_are_scaled_on_are_those_of_the_service(rendered: dict[str, Manifests]) -> None:
    sources = (K8S.parent / "service/native").glob("*.py")
    [autoscaler] = rendered["autoscale"].autoscalers
    assert any(aim(autoscaler)[0] in source.read_text() for source in sources)


def test_yamllint_has_nothing_to_say() -> None:
    assert policies.yamllint(K8S) == []


def test_checkov_has_nothing_to_say(rendered: dict[str, Manifests], tmp_path: Path) -> None:
    for choice, manifests in rendered.items():
        (tmp_path / f"{choice}.yaml").write_text(yaml.safe_dump_all(manifests.documents))

    failed, passed = policies.checkov(tmp_path)

    assert failed == {}
    assert passed > 50 * len(rendered)
