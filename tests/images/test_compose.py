"""compose.yaml, as `docker compose up` runs it, with other names for the images and free ports."""

from __future__ import annotations

import configparser
import contextlib
import http.client
import json
import shutil
import socket
import uuid
from urllib.parse import quote

import pytest
import yaml
from command import run
from compose_plugin import compose_of
from containers import BODY, LABEL, ROOT, wait_for
from monitors import GRAFANA, grafana_image, prometheus_image

WEIGHTS = "RegNetX_200MF_digits.pdparams"
UP_SECONDS = 600


class Project:
    """A folder with a compose.yaml, and the command line that works on it."""

    def __init__(self, docker, folder, images, arguments):
        self.docker, self.folder = docker, folder
        self.name = f"{LABEL}-{uuid.uuid4().hex[:8]}"
        self.ports = _free_ports(
            "HTTP_PORT", "RPC_PORT", "STOCK_HTTP_PORT", "STOCK_RPC_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT"
        )
        self.environment = {**docker.environment, **arguments, **{name: str(port) for name, port in self.ports.items()}}
        others = {"services": {service: {"image": image} for service, image in images.items()}}
        self.override = folder / f"{self.name}.yaml"
        self.override.write_text(yaml.safe_dump(others))

    def compose(self, *arguments, seconds=UP_SECONDS, **environment):
        files = ("--file", self.folder / "compose.yaml", "--file", self.override)
        command = (*compose_of(self.docker), "--project-name", self.name, "--project-directory", self.folder, *files)
        return run(*command, *arguments, seconds=seconds, env={**self.environment, **environment}, cwd=self.folder)

    def label(self, port):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=60)
        connection.request("POST", "/regnet/prediction", BODY)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer["value"][0]

    def get(self, port, path):
        """Status and JSON of what a published port answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def left(self):
        """Containers, networks and volumes of it."""
        mine = ("--quiet", "--filter", f"label=com.docker.compose.project={self.name}")
        return self.docker.docker("ps", "--all", *mine) + "".join(
            self.docker.docker(kind, "ls", *mine) for kind in ("network", "volume")
        )

    def facts(self, service):
        return json.loads(
            self.docker.docker("inspect", self.compose("--profile", "*", "ps", "--quiet", service).strip())
        )[0]

    def hurry(self):
        """Let Prometheus scrape once a second, so that nobody waits for it."""
        file = self.folder / "docker/monitoring/prometheus.yml"
        file.write_text(file.read_text().replace("15s", "1s"))


def _free_ports(*names):
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in names]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return {name: probe.getsockname()[1] for name, probe in zip(names, probes, strict=True)}


@pytest.fixture
def project(docker, images, cpu, tmp_path):
    """A project in a folder of its own, whose images are built already."""
    shutil.copy(ROOT / "compose.yaml", tmp_path)
    shutil.copy(ROOT / "config.yml", tmp_path)
    (tmp_path / "config.yml").chmod(0o644)
    for folder in ("docker/monitoring", "k8s/components/monitoring"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "serving_models").mkdir()
    (tmp_path / "serving_models").chmod(0o777)
    project = Project(docker, tmp_path, {"regnetx": cpu, "export": images["export"]}, {})
    yield project
    project.compose("--profile", "*", "down", "--volumes", "--timeout", "10")


def test_up_builds_waits_and_answers_hardened_and_down_leaves_nothing(docker, images):
    project = Project(docker, ROOT, {"regnetx": f"{LABEL}/compose"}, images.base_arguments())
    try:
        project.compose("up", "--build", "--wait", "--detach", seconds=1800)
        assert project.label("HTTP_PORT") == "['seven']"
        facts = project.facts("regnetx")
        host = facts["HostConfig"]
        assert (host["ReadonlyRootfs"], host["CapDrop"], host["Memory"]) == (True, ["ALL"], 4 << 30)
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert {binding["HostIp"] for [binding] in host["PortBindings"].values()} == {"127.0.0.1"}
        assert {mount["RW"] for mount in facts["Mounts"]} == {False}
    finally:
        project.compose("down", "--volumes")
        project.override.unlink()
        docker.answers("image", "rm", f"{LABEL}/compose")
    assert project.left() == ""


def test_export_writes_into_serving_models_and_the_service_serves_it(project):
    weights = ROOT / "serving_models/bundled/digits" / WEIGHTS
    shutil.copy(weights, project.folder / "serving_models")
    project.compose("run", "--rm", "export", "export", f"/models/{WEIGHTS}", "--name", "mine", "--to", "/models")
    project.compose("up", "--wait", "--detach", MODEL="/models/mine", REGNETX__OP__CONCURRENCY="1")
    assert "ready: mine (" in project.compose("logs", "regnetx")
    assert "REGNETX__OP__CONCURRENCY=1" in project.facts("regnetx")["Config"]["Env"]


def test_the_stock_runtime_comes_up_beside_it_by_its_profile(project, stock_image):
    others = yaml.safe_load(project.override.read_text())
    others["services"]["paddle-serving"] = {"image": stock_image}
    project.override.write_text(yaml.safe_dump(others))
    project.compose("up", "--wait", "--detach", "paddle-serving")
    assert project.label("STOCK_HTTP_PORT") == "['seven']"


def test_every_profile_is_a_valid_configuration_and_the_gpu_is_asked_for(project):
    config = yaml.safe_load(project.compose("--profile", "*", "config"))
    assert config["services"].keys() == {"regnetx", "gpu", "paddle-serving", "export", "prometheus", "grafana"}
    [device] = config["services"]["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert yaml.safe_load(project.compose("config"))["services"].keys() == {"regnetx"}
    watched = yaml.safe_load(project.compose("--profile", "monitoring", "config"))
    assert watched["services"].keys() == {"regnetx", "prometheus", "grafana"}


def test_no_two_services_publish_the_same_port_and_none_beyond_this_machine(project):
    config = yaml.safe_load(project.compose("--profile", "*", "config"))
    ports = [port for service in config["services"].values() for port in service.get("ports", [])]
    assert len({port["published"] for port in ports}) == len(ports) == 8
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    opened = yaml.safe_load(project.compose("--profile", "*", "config", LISTEN="0.0.0.0"))["services"]
    addresses = {name: {port["host_ip"] for port in one.get("ports", [])} for name, one in opened.items()}
    assert addresses["regnetx"] == {"0.0.0.0"}
    assert addresses["prometheus"] == addresses["grafana"] == {"127.0.0.1"}


def test_every_service_is_hardened_and_bounded(project):
    config = yaml.safe_load(project.compose("--profile", "*", "config"))
    for name, one in config["services"].items():
        assert (one["read_only"], one["cap_drop"]) == (True, ["ALL"]), name
        assert one["security_opt"] == ["no-new-privileges:true"] and one["pids_limit"], name
        assert "mem_limit" in one or name == "export"
        assert one.get("user", "the image's own").split(":")[0] not in ("0", "root")


def test_grafana_has_an_administrator_only_where_a_password_is_given(project):
    def environment(**given):
        config = yaml.safe_load(project.compose("--profile", "monitoring", "config", **given))
        return config["services"]["grafana"]["environment"]

    switch, password = "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION", "GF_SECURITY_ADMIN_PASSWORD"
    without, with_one = environment(), environment(GRAFANA_ADMIN_PASSWORD="a long one")
    assert (without[switch], without[password]) == ("", "")
    assert (with_one[switch], with_one[password]) == ("false", "a long one")
    settings = configparser.ConfigParser()
    settings.read(project.folder / "docker/monitoring/grafana/grafana.ini")
    assert settings["security"]["disable_initial_admin_creation"] == "true"
    assert settings["auth.anonymous"]["org_role"] == "Viewer"


def test_settings_of_tracing_are_passed_on_where_they_are_set(project):
    def environment(**given):
        return yaml.safe_load(project.compose("config", **given))["services"]["regnetx"]["environment"]

    name = "OTEL_EXPORTER_OTLP_ENDPOINT"
    assert environment().get(name) is None
    assert environment(**{name: "http://collector:4317"})[name] == "http://collector:4317"


def test_prometheus_comes_up_connected_to_the_service(docker, images, project):
    """With the image that compose.yaml names where it can be pulled, and otherwise with Debian's program in one."""
    project.hurry()
    image = prometheus_image(docker, images)
    watching = ("regnetx", "prometheus")
    project.compose("--profile", "monitoring", "up", "--wait", "--detach", *watching, PROMETHEUS_IMAGE=image)
    project.label("HTTP_PORT")

    def value(expression):
        status, answer = project.get("PROMETHEUS_PORT", f"/api/v1/query?query={quote(expression)}")
        assert status == 200
        return [series["value"][1] for series in answer["data"]["result"]]

    wait_for(lambda: value('up{job="regnetx",instance="regnetx:19393"}') == ["1"])
    wait_for(lambda: value('sum(regnetx_requests_total{outcome="answered"})') == ["1"])
    _, rules = project.get("PROMETHEUS_PORT", "/api/v1/rules")
    assert {group["name"] for group in rules["data"]["groups"]} == {"regnetx-recorded", "regnetx-alerts"}
    facts = project.facts("prometheus")
    host = facts["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Memory"]) == (True, ["ALL"], 512 << 20)
    assert facts["Config"]["User"] == "65534:65534"
    assert {mount["Destination"] for mount in facts["Mounts"] if mount["RW"]} == {"/prometheus"}
    assert "19393/tcp" not in project.facts("regnetx")["HostConfig"]["PortBindings"]


def test_grafana_shows_the_dashboard_to_whoever_comes_and_asks_prometheus(docker, images, project):
    project.hurry()
    named = {"PROMETHEUS_IMAGE": prometheus_image(docker, images), "GRAFANA_IMAGE": grafana_image(docker)}
    project.compose("--profile", "monitoring", "up", "--wait", "--detach", **named)
    status, found = project.get("GRAFANA_PORT", "/api/dashboards/uid/regnetx-serving")
    assert (status, found["dashboard"]["title"], found["meta"]["canEdit"]) == (200, "RegNetX Serving", False)
    query = f"/api/datasources/proxy/uid/prometheus/api/v1/query?query={quote('up')}"
    wait_for(lambda: project.get("GRAFANA_PORT", query)[1]["data"]["result"])
    assert GRAFANA.rpartition(":")[2].startswith(project.get("GRAFANA_PORT", "/api/health")[1]["version"])


def test_the_grace_of_compose_is_longer_than_the_drain_of_the_configuration():
    native = yaml.safe_load((ROOT / "config.yml").read_text())["native"]
    grace = yaml.safe_load((ROOT / "compose.yaml").read_text())["x-server"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) >= (native["drain_delay_ms"] + native["drain_timeout_ms"]) / 1000 + 10
