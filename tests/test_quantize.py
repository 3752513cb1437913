"""int8: made of a person's images, compared on others, never served without what was recorded, never half written."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import yaml
from client_calls import sync_batch
from running import ROOT, configuration, serving, wait_for

from service.config import Config
from service.engines import choice, open_engine, precision
from service.engines.graph import precision_told
from service.errors import ConfigError, ModelError
from service.ops.content import sha256_of
from service.ops.decode import Limits, decode
from service.ops.int8 import INT8_FILE, RECORD_FILE, Agreement, load_int8
from service.ops.model import load_model
from service.ops.preprocess import preprocess
from serving_models import quantize
from serving_models.__main__ import main
from serving_models.bundled.digits.held_out import held_out, training
from serving_models.sample_images import sample_images
from serving_models.workspace import workspace

ENGINES = ["openvino", "onnxruntime"]
LIMIT, HOLDOUT, COMPARED = 160, 0.75, 120
FACTS = "flags\t\t: fpu avx512f\n"  # of a CPU without instructions for int8

pytestmark = pytest.mark.skipif(not precision.cpu_has("int8"), reason="this CPU has no instructions for int8")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder as a person has it: digits in a folder for each class, and files that are none."""
    folder = tmp_path_factory.mktemp("images")
    digits = held_out()
    for number, (image, digit) in enumerate(zip(digits.images, digits.labels, strict=True)):
        (folder / str(digit)).mkdir(exist_ok=True)
        (folder / str(digit) / f"{number}.png").write_bytes(image)
    return folder


@pytest.fixture(scope="module")
def fresh(digits_model, tmp_path_factory):
    """A digits model that nobody has quantised; to be copied."""
    folder = tmp_path_factory.mktemp("fresh") / "digits"
    return shutil.copytree(digits_model.parent, folder, ignore=shutil.ignore_patterns("engine.json"))


@pytest.fixture(scope="module")
def quantised(fresh, images, tmp_path_factory):
    """The digits model after the command; to be left as it is."""
    folder = shutil.copytree(fresh, tmp_path_factory.mktemp("quantised") / "digits")
    arguments = ["quantize", str(folder), "--images", str(images), "--limit", str(LIMIT), "--holdout", str(HOLDOUT)]
    assert main(arguments) == 0
    return folder


@pytest.fixture
def folder(quantised, tmp_path):
    """A copy of the quantised model, to be spoilt."""
    return shutil.copytree(quantised, tmp_path / "digits")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def record_of(folder):
    return yaml.safe_load((folder / "serving_server" / RECORD_FILE).read_text())


def config_of(folder, engine, **local):
    local = {"precision": "int8", **local}
    return Config.model_validate(configuration(folder, native={"engine": engine}, local=local))


def inputs_of(model, paths):
    batch = np.empty((len(paths), 3, model.height, model.width), np.float32)
    for path, row in zip(paths, batch, strict=True):
        preprocess(decode(path.read_bytes(), Limits()), model, row)
    return batch


def raw_scores(engine, file, batch):
    """By the vendor's library and none of our code."""
    if engine == "onnxruntime":
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return session.run(None, {"x": batch})[0]
    hint = {"INFERENCE_PRECISION_HINT": openvino.Type.f32}
    return openvino.Core().compile_model(str(file), "CPU", hint)(batch)[0]


# --- what is written -----------------------------------------------------------------------------


def test_the_graph_is_a_valid_one_of_int8_with_the_same_doors(quantised):
    server = quantised / "serving_server"
    plain, int8 = (onnx.load(server / name) for name in ("inference.onnx", INT8_FILE))
    onnx.checker.check_model(int8, full_check=True)
    assert (int8.graph.input, int8.graph.output) == (plain.graph.input, plain.graph.output)
    assert (int8.opset_import, int8.ir_version) == (plain.opset_import, plain.ir_version)
    kinds = [node.op_type for node in int8.graph.node]
    assert kinds.count("Conv") == [node.op_type for node in plain.graph.node].count("Conv")
    float32 = [one.name for one in int8.graph.initializer if one.data_type == onnx.TensorProto.FLOAT and one.dims]
    assert not [name for name in float32 if name.endswith(".weight")]
    assert kinds[-1] == "Softmax"  # the answer is float32
    assert (server / INT8_FILE).stat().st_size < 0.3 * (server / "inference.onnx").stat().st_size
    assert str(quantised.parent).encode() not in (server / INT8_FILE).read_bytes()


def test_nothing_else_in_the_folder_is_touched(quantised, fresh):
    before, after = contents(fresh), contents(quantised)
    assert {str(path) for path in set(after) - set(before)} == {
        f"serving_server/{INT8_FILE}",
        f"serving_server/{RECORD_FILE}",
    }
    assert {path: after[path] for path in before} == before
    assert {path.stat().st_mode & 0o777 for path in (quantised / "serving_server").glob("*int8*")} == {0o644}
    assert not [path for path in quantised.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_recorded_agreement_is_a_count_over_images_that_were_not_calibrated_with(engine, quantised, images):
    model, record = load_model(quantised), record_of(quantised)
    sample = sample_images(images, model, limit=LIMIT, holdout=HOLDOUT)
    assert (len(sample.calibration), len(sample.comparison)) == (LIMIT - COMPARED, COMPARED)
    assert not {path.read_bytes() for path in sample.calibration} & {path.read_bytes() for path in sample.comparison}
    batch = inputs_of(model, sample.comparison)
    plain, int8 = (raw_scores(engine, model.onnx.with_name(name), batch) for name in (model.onnx.name, INT8_FILE))
    found = record["agreement"][engine]
    assert found["images"] == COMPARED
    assert found["same"] == sum(int(a.argmax() == b.argmax()) for a, b in zip(plain, int8, strict=True))
    assert found["same"] / COMPARED >= 0.97
    assert found["max_abs_diff"] == pytest.approx(np.abs(plain - int8).max(), abs=1e-3)
    assert found["mean_abs_diff"] == pytest.approx(np.abs(plain - int8).mean(), abs=1e-4)
    assert found["max_abs_diff"] > 1e-3  # it is not float32 under another name


def test_the_record_says_of_what_it_was_made_and_how(quantised):
    record, server = record_of(quantised), quantised / "serving_server"
    assert record["sha256"] == {"int8": sha256_of(server / INT8_FILE), "onnx": sha256_of(server / "inference.onnx")}
    calibration = record["calibration"]
    assert len(calibration.pop("images_sha256")) == 64
    assert calibration == {"method": "minmax", "per_channel": True, "images": LIMIT - COMPARED}
    assert list(record["agreement"]) == ENGINES
    assert set(record["versions"]) == {"regnetx_serving", "onnx", "onnxruntime", "openvino"}
    assert record["least_agreement"] == 0.99


def test_more_images_take_no_more_memory(quantised, tmp_path):
    """What the layers make of an image is half a MB; percentile looks at all of it."""
    program = f"""
from pathlib import Path
import numpy as np
from serving_models.calibration import quantise_graph

def batches(first, last):
    for number in range(first, last):
        yield np.random.default_rng(number % 8).normal(size=(1, 3, 32, 32)).astype(np.float32)

def peak(count):
    source, target = Path({str(quantised)!r}, "serving_server/inference.onnx"), Path({str(tmp_path)!r}, "int8.onnx")
    quantise_graph(source, target, batches, count, method="percentile", per_channel=True)
    # ru_maxrss would begin with the peak of the process that started this one.
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

few = peak(8)
print(peak(120) - few)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert int(done.stdout) < 40 << 10  # KiB; all at once would be 52 MiB
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_other_methods_give_other_scales_and_are_recorded(method, fresh, images, tmp_path):
    model = shutil.copytree(fresh, tmp_path / "digits")
    arguments = ["--images", str(images), "--limit", "8", "--method", method, "--no-per-channel"]
    assert main(["quantize", "digits", "--from", str(tmp_path), *arguments, "--least-agreement", "0"]) == 0
    assert record_of(model)["calibration"]["method"] == method
    assert record_of(model)["calibration"]["per_channel"] is False
    assert load_int8(load_model(model)).of("openvino").images == 4


# --- served --------------------------------------------------------------------------------------


def test_a_service_answers_in_int8_and_says_how_far_that_is_to_be_trusted(quantised, tmp_path, capfd):
    samples = sorted((ROOT / "serving_models/bundled/digits/samples").glob("*.png"))
    config = configuration(quantised, native={"engine": "openvino"}, local={"precision": "int8"})
    with serving(tmp_path, config) as service:
        answers = [best for [best] in sync_batch(service.url, [path.read_bytes() for path in samples])]
        assert service.stop() == 0
    assert [best.label for best in answers] == [path.stem for path in samples]
    model = load_model(quantised)
    batch = inputs_of(model, samples)
    scores = [raw_scores("openvino", model.onnx.with_name(name), batch).max(1) for name in (INT8_FILE, model.onnx.name)]
    np.testing.assert_allclose([best.prob for best in answers], scores[0], atol=1e-3)
    assert np.abs(scores[0] - scores[1]).max() > 2e-3
    same = record_of(quantised)["agreement"]["openvino"]["same"]
    assert f"precision int8 with openvino: {same} of {COMPARED} images" in capfd.readouterr().err


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_person_is_told_is_what_is_on_record(engine, quantised):
    model, found = load_model(quantised), record_of(quantised)["agreement"][engine]
    told = precision_told(config_of(quantised, engine), model)
    share = f"{found['same']} of {COMPARED} images ({found['same'] / COMPARED:.2%})"
    assert told == f"int8: {share} answered as in fp32, scores differ by {found['max_abs_diff']:.2g} at most"
    assert precision_told(config_of(quantised, engine, precision="bf16"), model) == "bf16"


@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        (INT8_FILE, lambda content: None, "there is no {}"),
        (RECORD_FILE, lambda content: None, "there is no {}"),
        (INT8_FILE, lambda content: content[:-1] + b"!", "{} is damaged"),
        (INT8_FILE, lambda content: b"", "{} is damaged"),
        (RECORD_FILE, lambda content: b"", "{}: NoneType at the top"),
        (RECORD_FILE, lambda content: b"[", "{}: not YAML"),
        (RECORD_FILE, lambda content: content.replace(b"same:", b"some:"), "agreement.openvino.same is missing"),
        (RECORD_FILE, lambda content: content.replace(b"  images: 120", b"  images: 3"), "accepted: at most images, 3"),
        (
            RECORD_FILE,
            lambda content: content.replace(b"max_abs_diff: 0", b"max_abs_diff: .nan #"),
            "max_abs_diff is nan",
        ),
    ],
)
def test_int8_that_is_missing_or_damaged_is_named_with_what_makes_it(engine, name, change, why, folder):
    file = folder / "serving_server" / name
    content = change(file.read_bytes())
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(ConfigError) as refusal:
        open_engine(config_of(folder, engine), load_model(folder))
    assert why.format(file) in str(refusal.value)
    assert str(refusal.value).endswith(
        f"; accepted: fp32, or make it with python -m serving_models quantize {folder} --images FOLDER"
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_int8_of_another_onnx_file_is_not_served(engine, folder):
    source = folder / "serving_server/inference.onnx"
    model = onnx.load(source)
    model.doc_string = "another"
    source.write_bytes(model.SerializeToString())
    facts = yaml.safe_load((folder / "model.yml").read_text())
    facts["sha256"]["onnx"] = sha256_of(source)
    (folder / "model.yml").write_text(yaml.safe_dump(facts))
    with pytest.raises(ConfigError, match="was made from another ONNX file than the model's; accepted: fp32, or make"):
        open_engine(config_of(folder, engine), load_model(folder))


def test_an_engine_that_nothing_was_compared_with_is_not_served(folder):
    record = record_of(folder)
    del record["agreement"]["openvino"]
    (folder / "serving_server" / RECORD_FILE).write_text(yaml.safe_dump(record))
    with pytest.raises(
        ConfigError, match=r"not compared with float32 on native\.engine: openvino; accepted: onnxruntime"
    ):
        open_engine(config_of(folder, "openvino"), load_model(folder))


def test_paddle_has_no_int8_on_a_cpu_and_says_what_it_has(quantised):
    with pytest.raises(ConfigError, match=r"int8 is not built in with native\.engine: paddle; accepted: fp32"):
        open_engine(config_of(quantised, "paddle"), load_model(quantised))


@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
def test_int8_is_refused_on_a_cpu_without_it(engine, quantised, monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text(FACTS)
    monkeypatch.setattr(precision, "CPU_FACTS", tmp_path / "cpuinfo")
    with pytest.raises(
        ConfigError, match=r"int8 needs a CPU with amx_int8 or avx512_vnni or avx_vnni; accepted: fp32$"
    ):
        open_engine(config_of(quantised, engine), load_model(quantised))


# --- auto ----------------------------------------------------------------------------------------


def test_auto_measures_the_engines_that_have_int8_and_takes_one(folder, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    caplog.set_level("INFO")
    engine = choice.in_force(config_of(folder, "auto"), load_model(folder)).native.engine
    assert engine in ENGINES
    assert f"auto takes {engine}: " in caplog.text
    kept = yaml.safe_load((folder / "engine.json").read_text())
    assert set(kept["rates"]) == set(ENGINES)
    assert kept["measured_with"]["int8"] == record_of(folder)["sha256"]["int8"]


def test_auto_takes_no_engine_whose_scores_differ_by_more_than_is_on_record():
    recorded = {"openvino": 0.3, "onnxruntime": 0.2}
    found = {"rates": {"openvino": 3.0, "onnxruntime": 2.0}, "refused": {"paddle": "no int8"}, "images": 8}
    for differences, engine in (((0.35, 0.25), "openvino"), ((0.45, 0.25), "onnxruntime")):
        judged = found | {"differences": dict(zip(recorded, differences, strict=True))}
        assert choice.fastest(judged, "int8", recorded) == engine
    with pytest.raises(ConfigError, match=r"more than is on record \(openvino 0\.5, onnxruntime nan\); accepted: fp32"):
        choice.fastest(found | {"differences": {"openvino": 0.5, "onnxruntime": float("nan")}}, "int8", recorded)


# --- refused -------------------------------------------------------------------------------------


def refused(arguments, folder, capsys):
    """The one line of a command that is refused and leaves the folder as it was."""
    before = contents(folder)
    assert main(["quantize", str(folder), *arguments]) == 2
    assert contents(folder) == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    return line.removeprefix("error: ")


def test_a_folder_without_images_is_refused(fresh, tmp_path, capsys):
    folder = tmp_path / "images"
    assert refused(["--images", str(folder)], fresh, capsys) == (
        f"{folder}: no such folder; accepted with --images is a folder of images"
    )
    folder.mkdir()
    assert (
        refused(["--images", str(folder)], fresh, capsys)
        == f"{folder}: no files in it; accepted are two images or more"
    )
    image = held_out().images[0]
    (folder / "cut.png").write_bytes(image[:-20])
    line = refused(["--images", str(folder)], fresh, capsys)
    assert line.startswith(f"{folder}: 0 of 1 files can be used, {folder}/cut.png: PNG truncated")
    (folder / "one.png").write_bytes(image)
    (folder / "the same.png").write_bytes(image)
    line = refused(["--images", str(folder)], fresh, capsys)
    assert line.startswith(f"{folder}: 1 of 3 files can be used, 1 repeated, {folder}/cut.png: ")


def test_files_that_are_no_images_are_left_out_and_named(fresh, tmp_path, capsys):
    model, folder = shutil.copytree(fresh, tmp_path / "digits"), tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(training().images[:12]):
        (folder / f"{number}.png").write_bytes(image)
    (folder / "again.png").write_bytes(training().images[0])
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden").write_text("no image")
    os.mkfifo(folder / "pipe")
    assert main(["quantize", str(model), "--images", str(folder), "--least-agreement", "0"]) == 0
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert sorted(lines) == [
        f"left out: {folder}/notes.txt: {reason_of(b'no image')}",
        f"left out: {folder}/pipe: not a file",
    ]
    assert "2 files that could not be read, 1 repeated" in captured.out
    assert "6 images say little" in captured.out
    assert record_of(model)["left_out"] == {"unreadable": 2, "repeated": 1}
    assert record_of(model)["calibration"]["images"] == record_of(model)["agreement"]["openvino"]["images"] == 6


def reason_of(content):
    with pytest.raises(Exception) as refusal:
        decode(content, Limits())
    return str(refusal.value)


def undecided(model, folder, count):
    """Files of images that float32 itself can hardly tell: two digits, one over the other."""
    digits = [cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE) for image in held_out().images]
    pairs = [cv2.addWeighted(one, 0.5, other, 0.5, 0) for one, other in zip(digits, reversed(digits), strict=True)]
    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(len(pairs) // 2)]
    for path, pair in zip(paths, pairs, strict=False):
        cv2.imwrite(str(path), pair)
    best = np.sort(raw_scores("onnxruntime", model.onnx, inputs_of(model, paths)))[:, -2:]
    for number in np.argsort(best[:, 1] - best[:, 0])[count:]:
        paths[number].unlink()


def test_answers_that_do_not_stay_the_same_are_refused_unless_forced(quantised, tmp_path, capsys):
    model, folder = shutil.copytree(quantised, tmp_path / "digits"), tmp_path / "undecided"
    undecided(load_model(model), folder, 40)
    arguments = ["--images", str(folder), "--holdout", "0.8"]
    line = refused(arguments, model, capsys)
    assert line.startswith("openvino: ")
    assert "; onnxruntime: " in line
    assert "; that is below --least-agreement 0.99 and nothing was written; accepted: " in line
    assert main(["quantize", str(model), *arguments, "--force"]) == 0
    for engine, found in record_of(model)["agreement"].items():
        assert found["images"] == 32
        assert found["same"] < 31
        assert f"{engine}: {found['same']} of 32 images (" in line
    assert load_int8(load_model(model)).of("openvino").images == 32


@pytest.mark.parametrize(
    ("option", "value"),
    [("--limit", "1"), ("--limit", "x"), ("--holdout", "0"), ("--holdout", "1"), ("--holdout", "nan"),
     ("--least-agreement", "1.1"), ("--least-agreement", "-1"), ("--method", "best")],
)  # fmt: skip
def test_an_option_out_of_range_is_refused(option, value, capsys):
    with pytest.raises(SystemExit) as end:
        main(["quantize", "digits", "--images", ".", option, value])
    assert end.value.code == 2
    assert f"argument {option}: " in capsys.readouterr().err


def test_a_model_without_an_onnx_file_is_refused(fresh, images, tmp_path, capsys):
    model = shutil.copytree(fresh, tmp_path / "digits")
    facts = yaml.safe_load((model / "model.yml").read_text())
    del facts["files"]["onnx"]
    (model / "model.yml").write_text(yaml.safe_dump(facts))
    assert "has no ONNX file" in refused(["--images", str(images)], model, capsys)


def test_a_damaged_onnx_file_is_refused(fresh, images, tmp_path, capsys):
    model = shutil.copytree(fresh, tmp_path / "digits")
    (model / "serving_server/inference.onnx").write_bytes(b"damaged")
    assert "inference.onnx: SHA-256 is " in refused(["--images", str(images)], model, capsys)


def test_it_is_not_made_where_it_cannot_be_compared(fresh, images, tmp_path, monkeypatch, capsys):
    (tmp_path / "cpuinfo").write_text(FACTS)
    monkeypatch.setattr(precision, "CPU_FACTS", tmp_path / "cpuinfo")
    assert "which needs a CPU with amx_int8 or " in refused(["--images", str(images)], fresh, capsys)


# --- all or nothing ------------------------------------------------------------------------------


def test_interrupted_it_leaves_what_was_there(folder, images, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = contents(folder)
    monkeypatch.setattr(quantize, "compare", interrupt)
    assert main(["quantize", str(folder), "--images", str(images), "--limit", "8"]) == 130
    assert capsys.readouterr().err == "error: interrupted, nothing was written\n"
    assert contents(folder) == before


def test_killed_it_leaves_what_was_there_and_the_next_start_clears_up(fresh, images, tmp_path):
    model = shutil.copytree(fresh, tmp_path / "digits")
    before = contents(model)
    command = [sys.executable, "-m", "serving_models", "quantize", str(model), "--images", str(images)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: list(model.glob(".export.*")) or process.poll() is not None)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert list(model.glob(".export.*"))
    assert {path: content for path, content in contents(model).items() if path.parts[0][0] != "."} == before
    with workspace(model):
        pass
    assert contents(model) == before
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_a_new_file_without_its_record_is_not_taken_for_the_old_one(folder, monkeypatch, images):
    """As a process that is killed between the two renames leaves it."""
    replace = os.replace

    def once(source, target):
        if Path(target).name == RECORD_FILE:
            raise OSError(5, "no more", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", once)
    arguments = ["--images", str(images), "--limit", "8", "--method", "percentile", "--force"]
    assert main(["quantize", str(folder), *arguments]) == 1
    with pytest.raises(ConfigError, match=f"{INT8_FILE} is damaged: its SHA-256 is not the one in {RECORD_FILE}"):
        load_int8(load_model(folder))


def test_scores_that_are_no_numbers_are_not_written(fresh, images, tmp_path, monkeypatch, capsys):
    class NotANumber:
        def __init__(self, engine):
            self._engine = engine

        def run(self, batch):
            return self._engine.run(batch) * np.float32("nan")

    def spoilt(config, model, **options):
        engine = open_engine(config, model, **options)
        return NotANumber(engine) if model.onnx.name == INT8_FILE else engine

    monkeypatch.setattr("serving_models.agreement.open_engine", spoilt)
    assert "are not finite numbers; nothing was written" in refused(
        ["--images", str(images), "--limit", "8"], fresh, capsys
    )


def test_an_engine_that_is_not_installed_is_told_and_not_on_record(fresh, images, tmp_path, monkeypatch, capsys):
    model = shutil.copytree(fresh, tmp_path / "digits")
    monkeypatch.delitem(sys.modules, "service.engines.openvino_runtime", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    arguments = ["--images", str(images), "--limit", "8", "--least-agreement", "0"]
    assert main(["quantize", str(model), *arguments]) == 0
    assert "openvino cannot be imported" in capsys.readouterr().err
    assert list(record_of(model)["agreement"]) == ["onnxruntime"]


def test_an_agreement_is_told_in_one_sentence():
    told = str(Agreement(images=445, same=444, max_abs_diff=0.1312, random_max_abs_diff=0.4))
    assert told == "444 of 445 images (99.78%) answered as in fp32, scores differ by 0.13 at most"


def test_an_image_that_changes_meanwhile_is_named(fresh, images, tmp_path):
    from serving_models.sample_images import batches

    (tmp_path / "image.png").write_bytes(b"no more")
    with pytest.raises(ModelError, match=r"image\.png: has changed while it was used: "):
        next(batches([tmp_path / "image.png"], load_model(fresh), 1))
