"""`bench` prints the tables of PaddleClas's model pages; what fails costs its own figures and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from running import ROOT, children_of, command_line, is_alive, wait_for

from service.engines import VENDORS
from service.ops.model import load_model
from serving_models import conversation, latency
from serving_models.__main__ import main
from serving_models.conversation import BrokenError, RefusedError, converse
from serving_models.engine_config import Device, engine_config
from serving_models.latency import Figure, Findings, Missing, Plan, Subject
from serving_models.latency_tables import as_json, as_markdown, command
from serving_models.variants import VARIANTS

SECONDS = 120  # a bound for a busy machine
PROCESS = "serving_models.latency_process"


@contextlib.contextmanager
def started(tmp_path: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """The command with those words, whose temporary files go into a folder of their own."""
    scratch, elsewhere = tmp_path / "scratch", tmp_path / "elsewhere"
    scratch.mkdir()
    elsewhere.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch), "XDG_CACHE_HOME": str(elsewhere), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "serving_models", "bench", *words],
        cwd=elsewhere,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
    assert list(scratch.iterdir()) == list(elsewhere.iterdir()) == []


def measuring(process: subprocess.Popen[str]) -> list[int]:
    return [pid for pid in children_of(process.pid) if PROCESS in command_line(pid)]


@pytest.fixture
def digits(digits_model: Path, tmp_path: Path) -> Path:
    """A copy of the digits model; its files, to see that nothing is added."""
    folder = tmp_path / "models/digits"
    shutil.copytree(digits_model.parent, folder, ignore=shutil.ignore_patterns("engine.json"))
    return folder


def plan(*names: str, **changes: object) -> Plan:
    asked = {
        "subjects": [Subject(name) for name in names],
        "engines": ["paddle"],
        "precisions": ["fp32"],
        "batches": [1, 4, 8],
        "device": Device(),
        "threads": 2,
        "image_size": 224,
        "resize_short": 256,
        "seconds": 3.0,
    }
    return Plan(**(asked | changes))


def figure(model: str, batch: int, *, engine: str = "paddle", taken: str = "paddle", precision: str = "fp32") -> Figure:
    return Figure(model, engine, taken, precision, batch, runs=100 + batch, median_ms=batch * 1.5, p99_ms=batch * 2.5)


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its rule."""
    section = text.split(f"## {heading}", 1)[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    assert len({len(row) for row in rows}) == 1
    return rows


def test_official_and_serving_models_are_measured_and_nothing_is_left_behind(digits: Path, tmp_path: Path):
    before = sorted(tmp_path.rglob("*"))
    words = ["regnetx_200mf", str(digits), "--engine", "onnxruntime", "--precision", "fp32,bf16"]
    words += ["--batch", "1,2", "--image-size", "32", "--resize-short", "40", "--repeats", "2", "--threads", "1"]
    with started(tmp_path, *words, "--json") as process:
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    found = json.loads(out)

    assert [(model["name"], model["crop_size"], model["resize_short"]) for model in found["models"]] == [
        ("RegNetX_200MF", [32, 32], 40),
        (str(digits), [32, 32], 32),
    ]
    assert [model["weights"] for model in found["models"]] == ["random", str(digits)]
    measured = [(one["model"], one["taken"], one["precision"], one["batch"], one["runs"]) for one in found["figures"]]
    both = ("RegNetX_200MF", str(digits))
    assert measured == [(model, "onnxruntime", "fp32", batch, 2) for model in both for batch in (1, 2)]
    assert all(0 < one["median_ms"] <= one["p99_ms"] for one in found["figures"])
    assert [(one["model"], one["precision"], one["broke"]) for one in found["missing"]] == [
        (model, "bf16", False) for model in both
    ]
    assert "bf16 is not built in with native.engine: onnxruntime" in found["missing"][0]["reason"]
    assert found["machine"]["cores"] == len(os.sched_getaffinity(0)) and "paddlepaddle" in found["versions"]
    assert len(err.splitlines()) == 4  # a line for each model, engine and precision
    assert left_behind(before, tmp_path) == []


def test_auto_measures_the_engine_that_it_takes_and_keeps_nothing(digits: Path, tmp_path: Path):
    before = sorted(tmp_path.rglob("*"))
    with started(tmp_path, str(digits), "--batch", "1", "--repeats", "2", "--json") as process:
        out, err = process.communicate(timeout=SECONDS)

    assert process.returncode == 0, err
    [found] = json.loads(out)["figures"]
    assert found["engine"] == "auto" and found["taken"] in VENDORS
    assert left_behind(before, tmp_path) == []


def left_behind(before: list[Path], folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path not in before and path.name not in ("scratch", "elsewhere")]


def test_what_kills_one_model_costs_only_its_row(digits: Path, tmp_path: Path):
    other = digits.with_name("other")
    shutil.copytree(digits, other)
    options = ["--engine", "onnxruntime", "--batch", "1", "--repeats", "3"]
    with started(tmp_path, str(digits), str(other), *options) as process:
        wait_for(lambda: measuring(process) or process.poll() is not None, SECONDS)
        os.kill(measuring(process)[0], signal.SIGKILL)  # as the kernel does where memory ends
        out, err = process.communicate(timeout=SECONDS)

    assert process.returncode == 1, err
    _, first, second = table(out, "Latency: engine onnxruntime")
    assert first[0] == str(digits) and first[-1] == "- [1]"
    assert second[0] == str(other) and float(second[-1]) > 0
    assert "[1] onnxruntime fp32: was killed (signal 9), which is what happens where memory ends" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_bench_ends_with_the_rows_so_far(number: int, digits: Path, tmp_path: Path):
    options = ["--engine", "onnxruntime", "--batch", "1", "--repeats", "3"]
    # The other is a large one: its export takes longer than the signal.
    with started(tmp_path, str(digits), "RegNetX_32GF", *options) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(f"{digits}, onnxruntime fp32: ")
        wait_for(lambda: measuring(process) or process.poll() is not None, SECONDS)
        children = measuring(process)
        process.send_signal(number)
        out, err = process.communicate(timeout=SECONDS)

    assert (process.returncode, err) == (130, "")
    _, first, second = table(out, "Latency: engine onnxruntime")
    assert float(first[-1]) > 0 and second == ["RegNetX_32GF", "224", "256", "-"]
    assert "Interrupted: " in out
    assert children and not any(map(is_alive, children))


def test_the_tables_have_the_columns_of_the_page():
    names = list(VARIANTS)
    findings = Findings(plan(*names, precisions=["fp32", "bf16"]), machine={"cores": 2, "cpu": "a CPU", "gpu": None})
    findings.figures = [
        figure(name, batch, precision=precision)
        for name in names
        for precision in ("fp32", "bf16")
        for batch in (1, 4, 8)
    ]
    text = as_markdown(findings)

    headings, *rows = table(text, "Latency: engine paddle, cpu, 2 threads")
    batches = [f"{precision}<br>Batch Size={batch}<br>(ms)" for precision in ("FP32", "BF16") for batch in (1, 4, 8)]
    assert headings == ["Models", "Crop Size", "Resize Short Size", *batches]
    assert rows == [[name, "224", "256", *["1.50", "6.00", "12.00"] * 2] for name in names]
    _, slowest, *_ = table(text, "Latency, 99th percentile: engine paddle")
    assert slowest[3:6] == ["2.50", "10.00", "20.00"]
    headings, *rows = table(text, "Accuracy, FLOPs and Parameters")
    assert headings == ["Models", "Top1", "Top5", "FLOPs<br>(G)", "Params<br>(M)"]
    assert rows[names.index("RegNetX_4GF")] == ["RegNetX_4GF", "0.7850", "0.9416", "3.99", "22.19"]
    assert "over 101 to 108 runs" in text and "on 2 cores of a CPU" in text
    assert f"Random weights, which are enough to measure time: {', '.join(names)}." in text


def test_a_serving_model_has_its_own_size_and_no_published_accuracy(digits: Path):
    findings = Findings(plan(subjects=[Subject("mine|2", digits)]), models={"mine|2": load_model(digits)})
    [_, row] = table(as_markdown(findings), "Accuracy")

    assert row == ["mine\\|2", "-", "-", "0.0041", "2.34"]
    assert table(as_markdown(findings), "Latency: ")[1][:3] == ["mine\\|2", "32", "32"]
    assert "Random weights" not in as_markdown(findings)


def test_each_reason_stands_once_below_the_tables():
    findings = Findings(plan("RegNetX_200MF", "RegNetX_4GF", "RegNetX_8GF", precisions=["fp32", "bf16"]))
    findings.figures = [figure("RegNetX_200MF", 1)]
    findings.missing = [
        Missing("crashed (signal 11)", True, "RegNetX_200MF", "paddle", "fp32"),
        Missing("no such CPU", False, "RegNetX_200MF", "paddle", "bf16"),
        Missing("no such CPU", False, "RegNetX_4GF", "paddle", "bf16"),
        Missing("the disk is full", True, "RegNetX_8GF"),
    ]
    text = as_markdown(findings)

    assert [row[3:] for row in table(text, "Latency: ")[1:]] == [
        ["1.50", "- [1]", "- [1]", "- [2]", "- [2]", "- [2]"],
        ["-", "-", "-", "- [2]", "- [2]", "- [2]"],
        ["- [3]"] * 6,
    ]
    assert text.splitlines()[-3:] == [
        "* [1] paddle fp32: crashed (signal 11)",
        "* [2] paddle bf16: no such CPU",
        "* [3] the disk is full",
    ]
    assert findings.failed and json.loads(as_json(findings))["missing"][3]["engine"] is None


def test_what_auto_took_is_told():
    findings = Findings(plan("RegNetX_200MF", "RegNetX_4GF", engines=["auto"]))
    findings.figures = [
        figure(name, batch, engine="auto", taken=taken)
        for name, taken in (("RegNetX_200MF", "openvino"), ("RegNetX_4GF", "paddle"))
        for batch in (1, 4)
    ]

    assert "auto took openvino for RegNetX_200MF fp32; paddle for RegNetX_4GF fp32." in as_markdown(findings)


def test_the_command_that_is_printed_asks_for_the_same(monkeypatch: pytest.MonkeyPatch):
    asked = plan("RegNetX_200MF", "RegNetX_4GF", device=Device("gpu", 1), repeats=7, batches=[2])
    plans: list[Plan] = []
    monkeypatch.setattr(latency, "bench", lambda again, _: plans.append(again) or Findings(again))
    main(command(Findings(asked)).split()[3:])

    assert plans == [asked]


def test_all_are_the_twelve(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    plans: list[Plan] = []
    monkeypatch.setattr(latency, "bench", lambda asked, _: plans.append(asked) or Findings(asked))

    assert main(["bench", "--all", "regnetx_4gf"]) == 1  # nothing was found

    assert [subject.name for subject in plans[0].subjects] == list(VARIANTS)
    assert (plans[0].batches, plans[0].image_size, plans[0].resize_short) == ([1, 4, 8], 224, 256)
    assert f", {date.today()}" in capsys.readouterr().out


def test_an_official_name_as_written_is_random_though_a_model_has_that_name(digits: Path):
    digits.rename(digits.with_name("regnetx_200mf"))
    root = digits.parent

    assert latency.find("RegNetX_200MF", root) == Subject("RegNetX_200MF")
    assert latency.find("regnetx_200mf", root) == Subject("regnetx_200mf", root / "regnetx_200mf")
    assert latency.find("regnetx_4gf", root) == Subject("RegNetX_4GF")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no MODEL; accepted are official names, serving models, and --all"),
        (["regnet"], "'regnet': no model of that name in serving_models, no path and no official model"),
        ([""], "'': no model of that name"),
        (["tests"], "tests: no model.yml in it"),
        (["--all", "--engine", "paddle,tensorflow"], "--engine tensorflow: accepted are paddle, onnxruntime, openvino"),
        (["--all", "--precision", "fp32,"], "--precision '': accepted are fp32"),
        (["--all", "--device", "gpu:x"], "--device gpu:x: accepted are cpu, gpu:N and tensorrt:N"),
        (["--all", "--image-size", "300"], "--resize-short 256: accepted is the --image-size, 300, or more"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ROOT)

    assert main(["bench", *words]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    "words", [["--batch", "0"], ["--batch", "1,x"], ["--threads", "0"], ["--repeats", "0"], ["--seconds", "nan"]]
)
def test_a_number_out_of_range_is_told_with_the_range(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--all", *words])
    assert ended.value.code == 2
    assert re.search(rf"argument {words[0]}: '.*': accepted (is|are)", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.abort()", "crashed \\(signal 6\\)"),
        ("raise SystemExit('no room')", "ended with status 1: no room"),
        ("import os; os._exit(3)", "ended with status 3: it said nothing"),
        ("import signal; signal.pause()", "gave no sign of life for 0.2 s, and was ended"),
        ("""print('{"broke": "MemoryError: 8 GiB"}')""", "MemoryError: 8 GiB"),
    ],
)
def test_a_process_that_fails_is_one_sentence(
    program: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "failing.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(conversation, "MODULE", "failing")
    if "no sign" in message:
        monkeypatch.setattr(conversation, "SILENCE_SECONDS", 0.2)

    with pytest.raises(BrokenError, match=message):
        list(converse({}))


def test_a_model_that_does_not_load_is_refused_with_its_reason(digits: Path):
    (digits / "serving_server/inference.onnx").write_bytes(b"no model")
    config = engine_config(
        digits, engine="onnxruntime", precision="fp32", device=Device(), threads=1, batch_size=1
    ).model_dump_json(by_alias=True)

    with pytest.raises(RefusedError, match=r"inference\.onnx: ONNX Runtime cannot load it"):
        list(converse({"do": "measure_batches", "config": config, "batches": [1], "seconds": 1, "repeats": 1}))


def test_runs_go_on_for_the_seconds_asked_and_a_large_model_is_run_ten_times(digits: Path):
    config = engine_config(
        digits, engine="onnxruntime", precision="fp32", device=Device(), threads=1, batch_size=1
    ).model_dump_json(by_alias=True)

    def runs(seconds: float) -> int:
        order = {"do": "measure_batches", "config": config, "batches": [1], "seconds": seconds, "repeats": None}
        return next(answer["runs"] for answer in converse(order) if "runs" in answer)

    assert runs(1e-9) == 10
    assert runs(0.5) > 10
