"""What watches the service fits it: dashboard, rules and compose ask for what is there; certificates and GPUs are told."""

from __future__ import annotations

import contextlib
import ctypes
import json
import re
import shutil
import ssl
import subprocess
import threading
from types import SimpleNamespace
from uuid import UUID

import pytest
import yaml
from certificates import authority, signed
from prometheus_client import CollectorRegistry, generate_latest
from running import ROOT, configuration, quick, serving, wait_for
from scraping import ADMIN, Scrape

from service.config import Config
from service.native import gpu_memory
from service.native.collector import ServiceCollector
from service.native.condition import Condition
from service.native.generation import Generation
from service.native.gpu_memory import GpuMemory, Memory
from service.native.versions import Versions
from service.ops.model import load_model

MONITORING = ROOT / "docker/monitoring"
DASHBOARD = json.loads((ROOT / "k8s/components/monitoring/regnetx-serving.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [target for panel in PANELS for target in panel["targets"]]
RULES = [rule for group in yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule["expr"] for rule in RULES if "alert" in rule}
EXPIRY = "regnetx_tls_certificate_expiry_timestamp_seconds"
GPUS = {"regnetx_gpu_memory_used_bytes", "regnetx_gpu_memory_total_bytes"}


# --- the files -------------------------------------------------------------------------------------------------------


def test_panels_have_numbers_and_places_of_their_own():
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    places = [
        (x, y)
        for grid in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(set(places)) == len(places)
    assert {x for x, _ in places} == set(range(24))


def test_every_query_asks_the_chosen_prometheus_for_the_chosen_instances():
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert all(one["datasource"] == chosen for one in (*PANELS, *TARGETS))
    for target in TARGETS:
        selectors = re.findall(r"\bregnetx_\w+\{([^}]*)\}", target["expr"])
        assert selectors or target["expr"].startswith("ALERTS{")
        assert all(one.startswith('job="$job",instance=~"$instance"') for one in selectors)
        assert len(selectors) == len(re.findall(r"\bregnetx_\w+", target["expr"]))
    assert [one["name"] for one in DASHBOARD["templating"]["list"]] == ["datasource", "job", "instance"]


def test_the_dashboard_changes_colour_where_the_alert_that_it_names_fires():
    named = [(alert, panel) for panel in PANELS for alert in re.findall(r"\(alert (\w+)\)", panel["description"])]
    assert len({alert for alert, _ in named}) >= 6
    for alert, panel in named:
        [bound] = re.findall(r"[<>] ([\d. *]+)$", ALERTS[alert])
        steps = [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
        number, *factors = (float(part) for part in bound.split("*"))
        assert number * (factors[0] if factors else 1) in steps, alert


def test_the_job_the_uid_and_the_places_are_the_same_in_all_files():
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    [scrape] = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    [target] = scrape["static_configs"][0]["targets"]
    [source] = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/regnetx.yml").read_text())["datasources"]
    [provider] = yaml.safe_load((MONITORING / "grafana/provisioning/dashboards/regnetx.yml").read_text())["providers"]
    mounts = dict(reversed(volume.split(":")[:2]) for volume in compose["services"]["grafana"]["volumes"])
    host, port = target.split(":")
    assert compose["services"][host]["environment"]["REGNETX__DAG__PROMETHEUS_PORT"] == int(port)
    assert scrape["job_name"] == DASHBOARD["templating"]["list"][1]["current"]["value"] == "regnetx"
    assert source["url"] == "http://prometheus:9090" and "prometheus" in compose["services"]
    assert (
        source["jsonData"]["timeInterval"]
        == yaml.safe_load((MONITORING / "prometheus.yml").read_text())["global"]["scrape_interval"]
    )
    [shown] = [inside for inside, outside in mounts.items() if outside.endswith("regnetx-serving.json")]
    assert shown.startswith(f"{provider['options']['path']}/")
    assert f"default_home_dashboard_path = {shown}\n" in (MONITORING / "grafana/grafana.ini").read_text()
    assert all((ROOT / outside).exists() for outside in mounts.values() if outside.startswith("./"))


# --- a service with TLS ------------------------------------------------------------------------------------------------


class Certified:
    """A service with two frontends that shows a certificate, and the files of it."""

    def __init__(self, folder):
        self.folder = folder
        self.authority = authority(folder, "authority")
        self.native = {"tls_certificate": str(folder / "tls.crt"), "tls_key": str(folder / "tls.key")}
        self.expires = 0.0
        self.service = None

    def renew(self, days):
        """Put another certificate in place, as a whole."""
        made = signed(self.folder, f"server{days}", self.authority, days=days)
        shutil.copy(made.key, self.folder / "tls.key")
        shutil.copy(made.certificate, self.folder / "tls.crt")
        shown = ["openssl", "x509", "-noout", "-enddate", "-in", made.certificate]
        text = subprocess.run(shown, capture_output=True, text=True, check=True, timeout=30).stdout
        self.expires = ssl.cert_time_to_seconds(text.strip().removeprefix("notAfter="))


@pytest.fixture(scope="module")
def certified(digits_model, tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed here")
    made = Certified(tmp_path_factory.mktemp("certified"))
    made.renew(days=2)
    shape = {"build_dag_each_worker": True, "worker_num": 2}
    config = quick(digits_model, native=made.native, dag=ADMIN, **shape)
    with serving(made.folder, config) as made.service:
        yield made


def test_every_metric_that_dashboard_and_rules_ask_for_is_in_a_scrape(certified):
    found = Scrape(certified.service)
    known = {sample.name for family in found.families for sample in family.samples}
    assert GPUS & known == set()
    assert {family.name for family in found.families} >= GPUS
    text = " ".join([*(target["expr"] for target in TARGETS), *(rule["expr"] for rule in RULES)])
    asked = set(re.findall(r"\bregnetx_\w+", text))
    assert len(asked) > 15
    assert asked - known == GPUS


def test_when_the_certificate_in_force_expires_is_told_and_told_anew_when_it_is_renewed(certified):
    assert Scrape(certified.service)(EXPIRY) == certified.expires
    before = certified.expires
    certified.renew(days=30)
    assert certified.expires - before > 20 * 86400
    wait_for(lambda: Scrape(certified.service)(EXPIRY) == certified.expires)


# --- GPU memory, by a driver that is not there ---------------------------------------------------------------------------


WHOLE, PART = UUID(int=7), UUID(int=9)
HANDLES = {f"GPU-{WHOLE}".encode(): 70, f"MIG-{PART}".encode(): 90}


class Cuda:
    """libcuda, with a GPU 0 and an instance of MIG as 1."""

    def __init__(self):
        self.lost = False

    def cuInit(self, flags):
        return 0

    def cuDeviceGet(self, device, number):
        device._obj.value = number
        return 999 if self.lost else 0

    def cuDeviceGetUuid_v2(self, uuid, device):
        uuid._obj[:] = (WHOLE, PART)[device.value].bytes
        return 0


class Nvml:
    """libnvidia-ml, which counts otherwise."""

    def nvmlInit_v2(self):
        return 0

    def nvmlDeviceGetHandleByUUID(self, name, handle):
        handle._obj.value = HANDLES.get(name)
        return 0 if name in HANDLES else 6

    def nvmlDeviceGetMemoryInfo(self, handle, memory):
        memory._obj.total, memory._obj.free, memory._obj.used = 100 * handle.value, 1, 2 * handle.value
        return 0


@pytest.fixture
def driver(monkeypatch):
    """Both libraries; asked a hundred times a second."""
    cuda = Cuda()
    monkeypatch.setattr(gpu_memory, "ASK_SECONDS", 0.01)
    monkeypatch.setattr(ctypes, "CDLL", {"libcuda.so.1": cuda, "libnvidia-ml.so.1": Nvml()}.__getitem__)
    return cuda


def test_memory_is_told_by_the_numbers_of_the_configuration(driver, digits_model):
    local = {"device_type": 1, "devices": "1,0"}
    config = Config.model_validate(configuration(digits_model, local=local, op={"concurrency": 2}))
    registry = CollectorRegistry()
    with contextlib.closing(Generation(0, config, load_model(digits_model))) as generation:
        versions = Versions(generation)
        registry.register(ServiceCollector(config, versions, Condition(versions, [])))
        wait_for(lambda: b"regnetx_gpu_memory_used_bytes{" in generate_latest(registry))
        lines = generate_latest(registry).decode().splitlines()
    assert [line for line in lines if line.startswith("regnetx_gpu")] == [
        'regnetx_gpu_memory_used_bytes{device="0"} 140.0', 'regnetx_gpu_memory_used_bytes{device="1"} 180.0',
        'regnetx_gpu_memory_total_bytes{device="0"} 7000.0', 'regnetx_gpu_memory_total_bytes{device="1"} 9000.0',
    ]  # fmt: skip


def test_a_gpu_that_is_lost_is_said_once_no_longer_told_and_told_again(driver, caplog, monkeypatch):
    memory = GpuMemory((0,))
    wait_for(lambda: memory.last() == {0: Memory(140, 7000)})
    driver.lost = True
    wait_for(lambda: caplog.messages == ["the memory of the GPUs is not told: cuDeviceGet answers 999"])
    monkeypatch.setattr(gpu_memory, "STALE_SECONDS", 0.0)
    assert memory.last() == {}
    monkeypatch.setattr(gpu_memory, "STALE_SECONDS", 30.0)
    driver.lost = False
    wait_for(lambda: memory.last() == {0: Memory(140, 7000)})
    assert len(caplog.messages) == 1


def test_a_driver_that_never_answers_keeps_nobody_waiting():
    asked, ends = threading.Event(), threading.Event()

    def hang():
        asked.set()
        ends.wait(30)
        return SimpleNamespace(memory=lambda number: Memory(1, 2))

    memory = GpuMemory((0,), hang)
    assert asked.wait(30)
    assert memory.last() == {}
    ends.set()
    wait_for(lambda: memory.last() == {0: Memory(1, 2)})


def test_without_a_driver_or_without_a_gpu_in_the_configuration_there_is_nothing(caplog, monkeypatch):
    def absent(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    memory = GpuMemory((0,))
    wait_for(lambda: caplog.messages)
    assert memory.last() == {}
    assert caplog.messages == ["the memory of the GPUs is not told: libcuda.so.1: cannot open shared object file"]
    before = set(threading.enumerate())
    assert GpuMemory(()).last() == {}
    assert set(threading.enumerate()) <= before
