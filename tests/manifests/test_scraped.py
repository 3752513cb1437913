"""A real Prometheus scrapes a real service, as compose has it: the rules load, and what is asked of it has answers."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from real_prometheus import SECONDS, Prometheus, prometheus
from real_service import DIGITS, digits_service
from rendering import ROOT
from running import Service, wait_for

MONITORING = ROOT / "docker/monitoring"
RULES = [rule for group in yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"] for rule in group["rules"]]
RECORDED = [rule["record"] for rule in RULES if "record" in rule]
DASHBOARD = json.loads((ROOT / "k8s/components/monitoring/regnetx-serving.json").read_text())
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
VARIABLES = {"$job": "regnetx", "$instance": ".*", "$__rate_interval": "1m"}
# What is there with TLS alone, with a GPU alone, when an alert fires.
MAY_BE_EMPTY = re.compile(r"regnetx_tls_|regnetx_gpu_|ALERTS\{")
FRONTENDS, ANSWERED, REFUSED = 2, 12, 3


def documented() -> list[str]:
    """The expressions of docs/metrics.md: a block is one, unless each of its lines is."""
    found = []
    for block in re.findall(r"```promql\n(.*?)```", (ROOT / "docs/metrics.md").read_text(), re.DOTALL):
        lines = block.splitlines()
        found += [block] if any(line.startswith(" ") for line in lines) else lines
    return found


def shown(target: dict[str, Any]) -> str:
    """A query of the dashboard, as Grafana sends it."""
    expression: str = target["expr"]
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two frontends and a model, in the environment that make sets up for the service."""
    folder = tmp_path_factory.mktemp("scraped")
    with digits_service(folder, build_dag_each_worker=True, worker_num=FRONTENDS) as running:
        yield running


@pytest.fixture(scope="module")
def watching(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """prometheus.yml with another address and less patience, after a few requests between two scrapes."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(MONITORING / "rules.yml")]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [service.admin]
    with prometheus(config, tmp_path_factory.mktemp("prometheus")) as running:
        wait_for(lambda: running.query("regnetx_ready"), SECONDS)
        ask(service)
        answered = 'sum(rate(regnetx_requests_total{outcome="answered"}[1m])) > 0'
        wait_for(lambda: running.query(answered), SECONDS)
        yield running


def ask(service: Service) -> None:
    """Good images and bad ones, each over a connection of its own, so that both frontends get some."""
    image = (DIGITS / "samples/seven.png").read_bytes()
    for body, status, times in ((image, 200, ANSWERED), (b"no image", 200, REFUSED)):
        for _ in range(times):
            headers = {"Content-Type": "application/octet-stream"}
            request = urllib.request.Request(service.prediction_url, body, headers)
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                assert answer.status == status


def test_the_target_is_up_and_the_frontends_are_counted_together(watching: Prometheus) -> None:
    assert [series["value"][1] for series in watching.query('up{job="regnetx"}')] == ["1"]
    for outcome, number in (("answered", ANSWERED), ("bad_image", REFUSED)):
        counted = f'sum(regnetx_requests_total{{outcome="{outcome}"}}) == {number}'
        wait_for(lambda counted=counted: watching.query(counted), SECONDS)
    names = {series["metric"]["process"] for series in watching.query("regnetx_process_resident_memory_bytes")}
    assert {f"frontend {number}" for number in range(FRONTENDS)} <= names


def test_the_rules_are_loaded_and_evaluated_without_an_error(watching: Prometheus) -> None:
    def rules() -> dict[str, str]:
        groups = watching.get("rules")["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}

    wait_for(lambda: "unknown" not in rules().values(), SECONDS)
    assert rules() == {rule.get("record", rule.get("alert")): "ok" for rule in RULES}
    assert [alert for alert in watching.get("alerts")["alerts"] if alert["state"] == "firing"] == []


@pytest.mark.parametrize("record", RECORDED)
def test_a_recorded_series_has_data(record: str, watching: Prometheus) -> None:
    wait_for(lambda: watching.query(record), SECONDS)


def test_the_expressions_of_the_documentation_are_found() -> None:
    assert len(documented()) >= 7


@pytest.mark.parametrize("expression", documented())
def test_an_expression_of_the_documentation_has_data(expression: str, watching: Prometheus) -> None:
    assert watching.query(expression)


@pytest.mark.parametrize("target", TARGETS, ids=[target["expr"] for target in TARGETS])
def test_a_query_of_the_dashboard_has_data_with_the_labels_that_it_shows(
    target: dict[str, Any], watching: Prometheus
) -> None:
    found = watching.query(shown(target))
    assert found or MAY_BE_EMPTY.search(target["expr"])
    for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
        assert all(label in series["metric"] for series in found)


def test_a_query_that_is_none_is_refused(watching: Prometheus) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        watching.query("sum by (door (regnetx_requests_total)")


def test_the_variables_of_the_dashboard_have_values(watching: Prometheus, service: Service) -> None:
    asked = [one["definition"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    values = []
    for definition in asked:
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", definition.replace("$job", "regnetx")).groups()
        values.append(watching.get(f"label/{label}/values", **{"match[]": selector}))
    assert values == [["regnetx"], [service.admin]]
