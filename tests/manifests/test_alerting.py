"""A service breaks; a real Prometheus, with the rules, tells a real Alertmanager, and that tells people.

`for:` of each rule is a second here, and scrapes are half a second apart; nothing else of them is changed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from real_alertmanager import Alert, Notified, alertmanager
from real_prometheus import SECONDS, Prometheus, prometheus
from real_service import DIGITS, digits_service
from rendering import ROOT
from running import Service, is_alive, wait_for

MONITORING = ROOT / "docker/monitoring"
ENGINES = 2


def impatient() -> dict[str, Any]:
    """The rules as they are, but that they wait for a second only."""
    rules: dict[str, Any] = yaml.safe_load((MONITORING / "rules.yml").read_text())
    for group in rules["groups"]:
        group["rules"] = [one | ({"for": "1s"} if "alert" in one else {}) for one in group["rules"]]
    return rules


ALERTS = {one["alert"]: one for group in impatient()["groups"] for one in group["rules"] if "alert" in one}


@contextlib.contextmanager
def watched(target: str, told: Notified, folder: Path) -> Iterator[Prometheus]:
    """prometheus.yml with one address, less patience and an Alertmanager."""
    (folder / "rules.yml").write_text(yaml.safe_dump(impatient()))
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [told.address]}]}]}
    with prometheus(config, folder) as running:
        yield running


@dataclass(frozen=True)
class Watched:
    """A service, who scrapes it, and who is told."""

    service: Service
    prometheus: Prometheus
    told: Notified
    model: Path

    @contextlib.contextmanager
    def without_engines(self, number: int) -> Iterator[None]:
        """So many engine processes have died, and none can start until the end of the block."""
        away = self.model.with_name("away")
        self.model.rename(away)
        try:
            for engine in self.service.children()["engine"][:number]:
                os.kill(engine, signal.SIGKILL)
                wait_for(lambda engine=engine: not is_alive(engine), SECONDS)
            yield
        finally:
            away.rename(self.model)

    def ask(self) -> bytes:
        """The answer to a request with an image."""
        headers = {"Content-Type": "application/octet-stream"}
        image = (DIGITS / "samples/seven.png").read_bytes()
        request = urllib.request.Request(self.service.prediction_url, image, headers)
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return bytes(answer.read())


@pytest.fixture(scope="module")
def watching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A service with engines that start soon, all well, and a few scrapes of it."""
    folder = tmp_path_factory.mktemp("service")
    shape = {"op": {"concurrency": ENGINES}, "native": {"engine": "onnxruntime", "request_timeout_ms": 2000}}
    with (
        alertmanager(tmp_path_factory.mktemp("alertmanager")) as told,
        digits_service(folder, **shape) as service,
        watched(service.admin, told, tmp_path_factory.mktemp("prometheus")) as running,
    ):
        wait_for(lambda: running.query(f"count_over_time(regnetx_engine_up[1m]) > {ENGINES}"), SECONDS)
        yield Watched(service, running, told, folder / "digits/serving_server")


def check(alert: Alert, **labels: str) -> None:
    """It has these labels and no others, beside its name, job and severity, and says in words what its rule says."""
    rule = ALERTS[alert["labels"]["alertname"]]
    assert alert["labels"] == {"alertname": rule["alert"], "job": "regnetx", **rule["labels"], **labels}
    assert alert["annotations"].keys() == rule["annotations"].keys()
    for name, template in rule["annotations"].items():
        for label, value in labels.items():
            template = template.replace(f"{{{{ $labels.{label} }}}}", value)
        words = r"[\d.]+%?".join(re.escape(part) for part in re.split(r"\{\{.*?\}\}", template))
        assert re.fullmatch(words, alert["annotations"][name])


def test_while_all_is_well_nobody_is_told(watching: Watched) -> None:
    found = watching.prometheus.get("alertmanagers")["activeAlertmanagers"]
    assert [one["url"] for one in found] == [f"http://{watching.told.address}/api/v2/alerts"]
    assert b'"err_no":0' in watching.ask()
    wait_for(lambda: watching.prometheus.query("regnetx:errors:ratio5m == 0"), SECONDS)
    assert watching.prometheus.get("alerts")["alerts"] == [] and watching.told.told == []


def test_one_engine_that_does_not_come_back_is_told_and_then_that_it_has(watching: Watched) -> None:
    instance = watching.service.admin
    with watching.without_engines(1):
        alert = watching.told.wait("RegnetxEngineDown")
        check(alert, instance=instance, engine=alert["labels"]["engine"])
        assert b'"err_no":0' in watching.ask()  # of the other
        assert len(watching.told.of("RegnetxEngineDown")) == 1 and not watching.told.of("RegnetxNoReadyReplica")
    ended = watching.told.wait("RegnetxEngineDown", "resolved")
    assert ended["fingerprint"] == alert["fingerprint"] and ended["endsAt"] > ended["startsAt"]


def test_without_any_engine_somebody_is_woken(watching: Watched) -> None:
    with watching.without_engines(ENGINES):
        check(watching.told.wait("RegnetxNoReadyReplica"))
        check(watching.told.wait("RegnetxReplicaNotReady"), instance=watching.service.admin)
        assert b'"err_no":6000' in watching.ask()
        check(watching.told.wait("RegnetxErrors"))
        assert watching.told.wait("RegnetxErrors")["labels"]["severity"] == "critical"
    watching.told.wait("RegnetxNoReadyReplica", "resolved")
    watching.told.wait("RegnetxReplicaNotReady", "resolved")


def test_a_service_that_cannot_be_scraped_is_told_of(tmp_path: Path) -> None:
    for folder in ("alertmanager", "prometheus"):
        (tmp_path / folder).mkdir()
    nobody = "127.0.0.1:1"
    with alertmanager(tmp_path / "alertmanager") as told, watched(nobody, told, tmp_path / "prometheus"):
        check(told.wait("RegnetxTargetDown"), instance=nobody)
        check(told.wait("RegnetxNoReadyReplica"))
        assert {one["labels"]["alertname"] for one in told.told} == {"RegnetxTargetDown", "RegnetxNoReadyReplica"}
