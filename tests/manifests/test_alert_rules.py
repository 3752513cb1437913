"""The alert rules, by Prometheus's own promtool: they load, fire when they should, and not when they should not."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from real_prometheus import tools
from rendering import K8S, ROOT

MONITORING = ROOT / "docker/monitoring"
GROUPS = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
ALERTS: dict[str, dict[str, Any]] = {one["alert"]: one for group in GROUPS for one in group["rules"] if "alert" in one}
CASES = yaml.safe_load((MONITORING / "rules.test.yml").read_text())["tests"]


@pytest.fixture(scope="module")
def promtool() -> Path:
    return tools() / "promtool"


def run(promtool: Path, *arguments: str, folder: Path = MONITORING) -> subprocess.CompletedProcess[str]:
    command = [promtool, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_prometheus_loads_its_configuration_and_the_rules(promtool: Path) -> None:
    done = run(promtool, "check", "config", "prometheus.yml")
    assert done.returncode == 0 and f"{sum(len(group['rules']) for group in GROUPS)} rules found" in done.stdout, done


def test_every_alert_does_in_its_cases_what_it_should(promtool: Path) -> None:
    done = run(promtool, "test", "rules", "rules.test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    found = {(one["alertname"], bool(one["exp_alerts"])) for case in CASES for one in case["alert_rule_test"]}
    assert found == {(name, fires) for name in ALERTS for fires in (True, False)}


@pytest.mark.parametrize("name", ALERTS)
def test_the_cases_notice_an_alert_that_never_fires(name: str, promtool: Path, tmp_path: Path) -> None:
    groups = yaml.safe_load((MONITORING / "rules.yml").read_text())
    [alert] = [one for group in groups["groups"] for one in group["rules"] if one.get("alert") == name]
    alert["expr"] = "vector(1) < 0"
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(groups))
    (tmp_path / "rules.test.yml").write_text((MONITORING / "rules.test.yml").read_text())
    done = run(promtool, "test", "rules", "rules.test.yml", folder=tmp_path)
    assert done.returncode != 0 and f"alertname: {name}" in done.stdout + done.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_how_bad_it_is_and_where_the_documentation_of_it_is(name: str) -> None:
    alert = ALERTS[name]
    assert alert["for"] and alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    file, _, anchor = alert["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(), re.MULTILINE)
    assert anchor == name.lower() and name in headings


def test_kubernetes_has_the_same_rules_as_compose() -> None:
    rule = yaml.safe_load((K8S / "components/monitoring/prometheusrule.yaml").read_text())
    assert rule["spec"]["groups"] == GROUPS


def test_the_metrics_that_the_rules_ask_for_are_those_of_the_service() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "service/native").glob("*.py"))
    expressions = " ".join(one["expr"] for group in GROUPS for one in group["rules"])
    asked = set(re.findall(r"\bregnetx_\w+", expressions))
    assert len(asked) > 6
    assert [name for name in asked if f'"{re.sub("_(total|bucket)$", "", name)}"' not in sources] == []
