"""``native.engine: auto``: the fastest engine with Paddle's scores, measured once, kept where something can be written."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from client_calls import sync_batch
from rights import without_rights
from running import ROOT, configuration, serving

from service.config import Config
from service.engines import VENDORS, choice, gpu, kept_choice, open_engine, precision
from service.engines import measure as measuring
from service.engines.gpu import Gpu
from service.engines.measure import measure
from service.errors import ConfigError
from service.ops.model import load_model

FOUND = {
    "images": 8,
    "rates": {"paddle": 100.0, "onnxruntime": 120.0, "openvino": 150.0},
    "differences": {"paddle": 0.0, "onnxruntime": 1e-6, "openvino": 1e-6},
    "refused": {},
}


@pytest.fixture
def folder(digits_model, tmp_path):
    """A copy of the digits model, for a choice to be kept in."""
    # Without a choice that a service of another test may have kept there.
    return shutil.copytree(
        digits_model.parent, tmp_path / "digits", ignore=shutil.ignore_patterns(kept_choice.CHOICE_FILE)
    )


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/regnetx-serving"


@pytest.fixture
def measured(monkeypatch):
    """How often it was measured; the figures are FOUND's."""
    calls = []

    def once_more(config, threads):
        calls.append(threads)
        return FOUND

    monkeypatch.setattr(choice, "_measure", once_more)
    return calls


def chosen(folder, op=None, **local):
    config = configuration(folder, native={"engine": "auto"}, op=op or {}, local=local)
    return choice.in_force(Config.model_validate(config), load_model(folder)).native.engine


def rates(**changes):
    return FOUND | {"rates": FOUND["rates"] | changes}


def differences(**changes):
    return FOUND | {"differences": FOUND["differences"] | changes}


# --- which one -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "engine"),
    [
        (FOUND, "openvino"),
        (rates(onnxruntime=151.0), "onnxruntime"),
        (rates(paddle=200.0), "paddle"),
        (rates(paddle=143.0), "paddle"),  # within 5 %
        (rates(paddle=142.0), "openvino"),
        (differences(openvino=2e-4), "onnxruntime"),
        (differences(openvino=float("nan")), "onnxruntime"),
        (differences(openvino=2e-4, onnxruntime=1.0), "paddle"),
        (differences(**dict.fromkeys(VENDORS, float("nan"))), "paddle"),
        (FOUND | {"rates": {"paddle": 1.0}, "differences": {"paddle": 0.0}}, "paddle"),
    ],
)
def test_the_fastest_with_paddles_scores_is_taken_and_paddle_when_it_hardly_matters(found, engine):
    assert choice.fastest(found, "fp32") == engine


def test_bfloat16_may_differ_by_more():
    assert choice.fastest(differences(openvino=0.04), "bf16") == "openvino"
    assert choice.fastest(differences(openvino=0.06), "bf16") == "onnxruntime"


def test_float16_and_tf32_have_tolerances_of_their_own():
    assert [choice.fastest(differences(openvino=0.009), one) for one in ("fp16", "tf32")] == ["openvino"] * 2
    assert [choice.fastest(differences(openvino=0.011), one) for one in ("fp16", "tf32")] == ["onnxruntime"] * 2


def test_where_paddle_cannot_serve_the_fastest_of_the_others_is_taken():
    found = rates()
    del found["rates"]["paddle"]
    found["refused"] = {"paddle": "Paddle is built without TensorRT"}
    assert choice.fastest(found, "fp32") == "openvino"
    assert choice.fastest(found | {"differences": {"onnxruntime": 1e-6, "openvino": 1e-3}}, "fp32") == "onnxruntime"
    for judged in ({}, {"onnxruntime": 1.0, "openvino": 1.0}):
        with pytest.raises(ConfigError, match=r"^Paddle is built without TensorRT$"):
            choice.fastest(found | {"differences": judged}, "fp32")


@pytest.mark.parametrize(
    ("local", "tf32", "judged_as"),
    [
        ({"device_type": 1}, True, "tf32"),
        ({"device_type": 1}, False, "fp32"),
        ({"device_type": 2, "precision": "fp16"}, True, "fp16"),
        ({"device_type": 0}, True, "fp32"),
    ],
)
def test_float32_on_a_gpu_may_differ_by_more_where_tf32_was_asked_for(local, tf32, judged_as, folder):
    config = configuration(folder, native={"engine": "auto", "tf32": tf32}, local=local)
    assert choice._tolerated(Config.model_validate(config)) == judged_as


def test_what_not_even_paddle_can_serve_is_refused_in_its_words():
    found = {"images": 1, "rates": {}, "differences": {}, "refused": {"paddle": "precision: int8 is not built in"}}
    with pytest.raises(ConfigError, match=r"^precision: int8 is not built in$"):
        choice.fastest(found, "int8")


def test_an_engine_that_is_named_is_not_measured(folder, measured):
    config = Config.model_validate(configuration(folder, native={"engine": "onnxruntime"}))
    assert choice.in_force(config, load_model(folder)) == config
    assert not measured


def test_a_model_without_an_onnx_file_leaves_nothing_to_measure(folder, measured):
    config = Config.model_validate(configuration(folder, native={"engine": "auto"}))
    model = dataclasses.replace(load_model(folder), onnx=None)
    assert choice.in_force(config, model).native.engine == "paddle"
    assert not measured


# --- measuring -----------------------------------------------------------------------------------


def test_an_engine_that_cannot_read_the_model_leaves_the_others(folder):
    (folder / "serving_server/inference.onnx").write_bytes(b"damaged")
    found = measure(Config.model_validate(configuration(folder)), load_model(folder), threads=1)
    assert list(found.rates) == list(found.differences) == ["paddle"]
    assert "ONNX Runtime cannot load it" in found.refused["onnxruntime"]
    assert "OpenVINO cannot load it" in found.refused["openvino"]


def test_scores_are_compared_with_paddles_in_float32_where_paddle_cannot_serve(folder, monkeypatch):
    """A GPU for which only ONNX Runtime is built; here it computes on the CPU."""

    def open_here(config, model, **named):
        settings = config.regnet.local_service_conf
        if config.native.engine == "paddle" and settings.on_gpu:
            raise ConfigError("Paddle is the CPU build")
        local = settings.model_copy(update={"device_type": 0})
        op = config.regnet.model_copy(update={"local_service_conf": local})
        return open_engine(config.model_copy(update={"op": {"regnet": op}}), model, **named)

    monkeypatch.setattr(measuring, "open_engine", open_here)
    config = Config.model_validate(configuration(folder, local={"device_type": 1, "precision": "fp32"}))
    found = measure(config, load_model(folder), threads=1)
    assert found.refused == {"paddle": "Paddle is the CPU build"}
    assert set(found.rates) == set(found.differences) == {"onnxruntime", "openvino"}
    assert all(0 < difference < 1e-4 for difference in found.differences.values())


@pytest.mark.parametrize(("device_type", "seconds"), [(0, 120), (1, 120), (2, 1320)])
def test_measuring_has_time_to_build_for_tensorrt(device_type, seconds, folder, monkeypatch):
    given = []

    def run(*_, timeout, **__):
        given.append(timeout)
        raise OSError("not now")

    monkeypatch.setattr(subprocess, "run", run)
    assert chosen(folder, device_type=device_type) == "paddle"
    assert given == [seconds]


@pytest.mark.parametrize("does", ["kill -SEGV $$", "exit 1", "echo '{'", "exec sleep 60"])
def test_measuring_that_fails_leaves_paddle_and_keeps_nothing(does, folder, tmp_path, monkeypatch, caplog):
    (tmp_path / "python").write_text(f"#!/bin/sh\n{does}\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setattr(choice, "TIMEOUT_SECONDS", 0.5)
    assert chosen(folder) == "paddle"
    assert "auto takes paddle, because measuring failed" in caplog.text
    assert not (folder / "engine.json").exists()


# --- keeping -------------------------------------------------------------------------------------


def test_the_choice_is_kept_beside_the_model_with_figures_and_circumstances(folder, measured, cache):
    assert [chosen(folder) for _ in range(3)] == ["openvino"] * 3
    assert len(measured) == 1
    kept = json.loads((folder / "engine.json").read_text())
    assert kept["engine"] == "openvino"
    assert (kept["rates"], kept["images"]) == (FOUND["rates"], 8)
    assert kept["measured_with"]["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert set(kept["measured_with"]["versions"]) >= {"paddlepaddle", "onnxruntime", "openvino"}
    assert not cache.exists()
    assert not list(folder.glob(".engine*"))


def test_another_thread_count_precision_or_batch_size_is_measured_anew(folder, measured):
    for changes in ({}, {"thread_num": 2}, {"precision": "bf16"}, {"op": {"batch_size": 4}}, {"ir_optim": False}):
        chosen(folder, **changes)
    assert len(measured) == 5
    assert measured[:2] == [1, 2]


def test_threads_are_those_of_one_engine_among_several(folder, measured):
    chosen(folder, {"concurrency": 2}, thread_num=4)
    chosen(folder, {"concurrency": 4}, thread_num=2)
    assert measured == [2, 1]


def test_another_model_is_measured_anew(folder, measured):
    chosen(folder)
    facts = yaml.safe_load((folder / "model.yml").read_text())
    facts["sha256"]["onnx"] = "0" * 64
    (folder / "model.yml").write_text(yaml.safe_dump(facts))
    chosen(folder)
    assert len(measured) == 2


def test_another_machine_or_package_is_measured_anew(folder, measured, monkeypatch, tmp_path):
    chosen(folder)
    (tmp_path / "cpuinfo").write_text("model name\t: another\nflags\t: fpu\n")
    monkeypatch.setattr(kept_choice, "CPU_FACTS", tmp_path / "cpuinfo")
    chosen(folder)
    monkeypatch.setattr(precision, "CPU_FACTS", tmp_path / "cpuinfo")
    chosen(folder)
    monkeypatch.setattr(kept_choice, "version", lambda package: "0")
    chosen(folder)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3, 4})
    chosen(folder)
    assert len(measured) == 5


def test_another_gpu_driver_or_precision_of_float32_is_measured_anew(folder, measured, monkeypatch, tmp_path):
    def choose(*cards, driver="550", **native):
        (tmp_path / "version").write_text(driver)
        monkeypatch.setattr(gpu, "DRIVER_VERSION", tmp_path / "version")
        monkeypatch.setattr(kept_choice, "visible_gpus", lambda: cards)
        config = configuration(
            folder,
            native={"engine": "auto", **native},
            op={"concurrency": 2},
            local={"device_type": 1, "devices": "0,1"},
        )
        choice.in_force(Config.model_validate(config), load_model(folder))
        return len(measured)

    a100, t4 = Gpu("A100", "8.0", 40960), Gpu("T4", "7.5", 15360)
    assert [choose(a100, a100), choose(a100, a100)] == [1, 1]
    assert choose(a100, t4) == 2
    assert choose(a100, t4, driver="560") == 3
    assert choose(a100, t4, driver="560", tf32=True) == 4
    assert choose(a100) == 5  # the other has gone
    kept = json.loads((folder / "engine.json").read_text())["measured_with"]["gpu"]
    assert kept["cards"] == [{"name": "A100", "capability": "8.0", "memory_mb": 40960}, None]


def test_a_choice_for_the_cpu_does_not_depend_on_gpus(folder, measured, monkeypatch):
    for cards in ((), (Gpu("T4", "7.5", 15360),)):
        monkeypatch.setattr(kept_choice, "visible_gpus", lambda cards=cards: cards)
        chosen(folder)
    assert len(measured) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: "",
        lambda kept: "{",
        lambda kept: "[]",
        lambda kept: "[" * 100_000,
        lambda kept: json.dumps(kept | {"engine": "tensorrt"}),
        lambda kept: json.dumps(kept | {"rates": {"openvino": "fast"}}),
        lambda kept: json.dumps(kept | {"rates": []}),
        lambda kept: json.dumps(kept | {"differences": {}}),
        lambda kept: json.dumps({key: kept[key] for key in ("engine", "measured_with")}),
        lambda kept: json.dumps(kept | {"more": 1}),
    ],
)
def test_a_file_that_is_not_what_was_kept_is_replaced(change, folder, measured):
    chosen(folder)
    good = (folder / "engine.json").read_text()
    (folder / "engine.json").write_text(change(json.loads(good)))
    assert chosen(folder) == "openvino"
    assert len(measured) == 2
    assert (folder / "engine.json").read_text() == good


@pytest.mark.parametrize(("writable", "times"), [(True, 1), (False, 2)])
def test_a_model_that_cannot_be_written_to_has_its_choice_in_the_cache_or_nowhere(
    writable, times, digits_model, measured, monkeypatch, caplog
):
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        ignored = shutil.ignore_patterns(kept_choice.CHOICE_FILE)
        folder = shutil.copytree(digits_model.parent, Path(root) / "digits", ignore=ignored)
        cache = Path(root) / "cache"
        cache.mkdir()
        cache.chmod(0o777 if writable else 0o555)
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        caplog.set_level("INFO")
        with without_rights(folder):
            assert [chosen(folder) for _ in range(2)] == ["openvino"] * 2
        assert len(measured) == times
        assert not (folder / "engine.json").exists()
        assert len(list(cache.rglob("engine-*.json"))) == writable
        assert ("kept nowhere" in caplog.text) is not writable


def test_a_user_without_a_home_is_served(folder, measured, monkeypatch):
    def no_home(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "expanduser", no_home)
    (folder / "engine.json").mkdir()  # nothing can be written there
    assert chosen(folder) == "openvino"


# --- the whole -----------------------------------------------------------------------------------


def test_check_measures_every_engine_and_a_service_takes_what_was_kept(folder, tmp_path, capfd):
    config = configuration(folder, native={"engine": "auto"}, op={"concurrency": 2})
    (tmp_path / "check.yml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "service", "check", "--config", str(tmp_path / "check.yml")]
    check = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert check.returncode == 0, check.stderr
    kept = json.loads((folder / "engine.json").read_text())
    assert set(kept["rates"]) == set(VENDORS)
    assert all(difference < 1e-4 for difference in kept["differences"].values())
    assert f"auto takes {kept['engine']}: " in check.stderr
    assert f"32x32; engine {kept['engine']}, fp32\n" in check.stderr
    assert json.loads(check.stdout)["native"]["engine"] == kept["engine"]

    with serving(tmp_path, config) as service:
        image = (ROOT / "serving_models/bundled/digits/samples/seven.png").read_bytes()
        assert sync_batch(service.url, [image])[0][0].label == "seven"
        for process in service.children()["engine"]:
            assert f"/{kept['engine']}" in Path(f"/proc/{process}/maps").read_text()
        assert service.stop() == 0
    said = capfd.readouterr().err
    assert said.count(f"auto takes {kept['engine']}: ") == said.count("as measured before") == 1


@pytest.mark.parametrize(
    ("module", "loaded"),
    [
        ("choice", set()),
        ("paddle_inference", {"paddle", "numpy"}),
        ("onnx_runtime", {"onnxruntime", "numpy"}),
        ("openvino_runtime", {"openvino", "numpy"}),
    ],
)
def test_only_the_engine_that_is_named_is_loaded_and_the_choice_loads_none(module, loaded):
    program = f"import sys, service.engines.{module}; print(*(n for n, m in sys.modules.items() if m))"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    names = {"paddle", "onnxruntime", "openvino", "openvino_telemetry", "onnx", "numpy"}
    assert names & set(result.stdout.split()) == loaded
