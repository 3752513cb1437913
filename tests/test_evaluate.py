"""`evaluate` counts what a model ranks right, and names whatever it could not count."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import ROOT

from service.config import Config
from service.engines import VENDORS
from service.ops.model import load_model
from serving_models.__main__ import main
from serving_models.class_folders import SYNSETS, classes_of
from serving_models.class_labels import IMAGENET_LABELS, read_labels
from serving_models.engine_config import Device, engine_config, usable_cores
from serving_models.evaluate import Evaluation, Evaluator, Unreadable, spread
from serving_models.evaluation_report import NAMED, as_text
from serving_models.labelled_images import LabelledImage, labelled_images

DIGITS = ROOT / "serving_models/bundled/digits"
SAMPLES = DIGITS / "samples"
LABELS = read_labels(DIGITS / "digits_labels.txt")
PAGE = (ROOT / "docs/models.md").read_text()
IMAGENET = read_labels(IMAGENET_LABELS)


@pytest.fixture(scope="module")
def held_out_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits that the bundled model was never trained on, in a folder for each digit, as the page writes them."""
    folder = tmp_path_factory.mktemp("evaluate")
    [program] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True, timeout=60)
    [written] = folder.iterdir()
    return written


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """The ten samples, in a folder for each digit."""
    for label in LABELS:
        (tmp_path / "few" / label).mkdir(parents=True)
        shutil.copy(SAMPLES / f"{label}.png", tmp_path / "few" / label)
    return tmp_path / "few"


@pytest.fixture
def evaluated(digits_model: Path, capsys: pytest.CaptureFixture[str]):
    """Run the command; its status, what it printed as JSON or text, and its standard error."""

    def run(source: Path, *words: str, json_wanted: bool = True) -> tuple[int, dict, str]:
        options = ["--model", str(digits_model), "--engine", "onnxruntime", *words]
        status = main(["evaluate", str(source), *options, *(["--json"] if json_wanted else [])])
        out, err = capsys.readouterr()
        return status, (json.loads(out) if json_wanted and out else {"text": out}), err

    return run


def refusal(evaluated, source: Path, *words: str) -> str:
    status, found, err = evaluated(source, *words)
    assert status == 2 and found == {"text": ""}, found
    (line,) = err.splitlines()
    return line


def listed(folder: Path, *lines: str) -> Path:
    file = folder / "val_list.txt"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


@pytest.mark.parametrize("engine", VENDORS)
def test_each_engine_finds_the_held_out_accuracy_that_training_reports(engine: str, held_out_folder: Path, evaluated):
    status, found, err = evaluated(held_out_folder, "--engine", engine)

    assert (status, err) == (0, "")
    assert (found["engine"], found["images"], found["classes_shown"]) == (engine, 445, 10)
    stated = re.search(r"accuracy: ([\d.]+) %, (\d+) of (\d+)", (DIGITS / "README.md").read_text())
    assert (found["top1_correct"], found["images"]) == (int(stated[2]), int(stated[3]))
    assert f"{found['top1']:.2%}" == f"{stated[1]}%"
    assert found["top5_correct"] >= found["top1_correct"]


def test_the_page_shows_what_is_printed(held_out_folder: Path, evaluated):
    _, found, _ = evaluated(held_out_folder, "--engine", "openvino", "--threads", "2", json_wanted=False)

    lines = [line for line in found["text"].splitlines() if not line.startswith("throughput")]
    assert len(lines) == 5 and "\n".join(lines) in PAGE


def test_batches_of_any_size_count_the_same(held_out_folder: Path, evaluated):
    assert evaluated(held_out_folder, "--batch-size", "64")[1]["top1_correct"] == 437


def test_wrong_answers_are_written_down_with_what_was_answered(held_out_folder: Path, evaluated, tmp_path: Path):
    _, found, _ = evaluated(held_out_folder, "--wrong", str(tmp_path / "wrong.csv"))

    with (tmp_path / "wrong.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == found["images"] - found["top1_correct"]
    for row in rows:
        assert row["image"].split("/")[0] == row["label"] == LABELS[int(row["class_id"])]
        assert row["answered_label"] == LABELS[int(row["answered_class_id"])] != row["label"]
        assert (held_out_folder / row["image"]).is_file()


def test_a_list_as_paddleclas_has_it_gives_the_same_as_folders(held_out_folder: Path, evaluated, tmp_path: Path):
    paths = sorted(held_out_folder.glob("*/*.png"))
    lines = [f"{path.relative_to(held_out_folder)} {LABELS.index(path.parent.name)}" for path in paths]
    file = listed(tmp_path, *lines)

    assert evaluated(held_out_folder, "--list", str(file))[1]["top1_correct"] == 437


def test_paths_of_a_list_alone_begin_in_its_own_folder(evaluated, tmp_path: Path):
    shutil.copy(SAMPLES / "seven.png", tmp_path / "a seven.png")

    status, found, _ = evaluated(listed(tmp_path, "a seven.png 7", "", f"{SAMPLES}/two.png\t2"))

    assert (status, found["images"], found["top1"]) == (0, 2, 1.0)


def test_classes_may_be_folders_named_by_number(few: Path, evaluated):
    for number, label in enumerate(LABELS):
        (few / label).rename(few / f"{number:03}")

    assert evaluated(few)[1]["top1_correct"] == 10


def test_folders_within_a_class_count_and_hidden_files_do_not(few: Path, evaluated):
    (few / "two/more").mkdir()
    shutil.copy(SAMPLES / "two.png", few / "two/more/again.png")
    (few / "two/.DS_Store").write_text("of a file manager")
    (few / ".cache").mkdir()

    assert evaluated(few)[1]["images"] == 11


def test_a_limit_takes_images_of_every_class(held_out_folder: Path, evaluated):
    _, found, _ = evaluated(held_out_folder, "--limit", "20")

    assert (found["images"], found["classes_shown"]) == (20, 10)


def test_a_limit_is_spread_evenly_and_keeps_the_order():
    images = [LabelledImage(Path(str(number)), str(number), 0) for number in range(7)]

    assert [image.name for image in spread(images, 3)] == ["0", "2", "4"]
    assert spread(images, 7) == spread(images, 8) == spread(images, None) == images


def test_files_that_cannot_be_read_are_named_and_are_a_status(few: Path, evaluated, tmp_path: Path):
    content = (SAMPLES / "one.png").read_bytes()
    (few / "one/cut.png").write_bytes(content[: len(content) // 2])
    (few / "two/notes.txt").write_text("no image")
    os.mkfifo(few / "three/pipe.png")  # opening it would wait for ever

    status, found, _ = evaluated(few)
    assert (status, found["images"], found["top1_correct"]) == (1, 10, 10)
    assert [one["name"] for one in found["unreadable"]] == ["one/cut.png", "three/pipe.png", "two/notes.txt"]
    assert "truncated" in found["unreadable"][0]["reason"]
    assert found["unreadable"][1]["reason"] == "not a file"
    assert evaluated(few, "--skip-unreadable")[0] == 0
    text = evaluated(few, json_wanted=False)[1]["text"]
    assert "top-1       100.00% (10 of 10)\n" in text
    assert "not read    3, which are not counted above:\n" in text and "one/cut.png: " in text


def test_a_listed_file_that_is_not_there_is_named_too(evaluated, tmp_path: Path):
    file = listed(tmp_path, f"{SAMPLES}/one.png 1", "gone.png 3", "nul\0.png 3")

    status, found, _ = evaluated(file)

    assert (status, found["images"]) == (1, 1)
    assert found["unreadable"][0] == {"name": "gone.png", "reason": "No such file or directory"}
    assert found["unreadable"][1]["name"] == "nul\0.png"


def test_where_no_file_can_be_read_nothing_was_measured(evaluated, tmp_path: Path):
    status, found, err = evaluated(listed(tmp_path, "gone.png 3"), "--skip-unreadable")

    assert (status, found["top1"]) == (2, None)
    assert "none of 1 files could be read" in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("two.png 10", "line 2: class 10, but the model has 10 classes; accepted are 0 to 9"),
        ("two.png 99999999999", "line 2: class 99999999999, but the model"),
        ("two.png -1", "line 2: 'two.png -1'; accepted are a path and the number of its class"),
        ("two.png", "line 2: 'two.png'; accepted are"),
        ("two.png 0,1,0", "line 2: 'two.png 0,1,0'; accepted are"),
    ],
)
def test_a_line_of_a_list_that_names_no_class_is_told_by_its_number(line: str, message: str, evaluated, tmp_path: Path):
    file = listed(tmp_path, "one.png 1", line)

    assert f"{file}: {message}" in refusal(evaluated, SAMPLES, "--list", str(file))


def test_folders_that_are_no_classes_are_told_and_so_is_what_is_accepted(few: Path, evaluated):
    (few / "seven").rename(few / "sept")
    line = refusal(evaluated, few)
    assert "the class folder 'sept' is not a label of the model (zero … nine), as 9 of 10 class folders are" in line
    assert "or each the number of a class (0 to 9)" in line and "or with --list a file of lines PATH CLASS" in line

    for folder in few.iterdir():
        folder.rename(few / f"chiffre {folder.name}")
    listed(few, "one.png 1")
    line = refusal(evaluated, few)
    assert "is no class of the model; accepted are" in line
    assert line.endswith(f", as {few / 'val_list.txt'}")


def test_two_folders_of_one_class_are_refused(few: Path, evaluated):
    for number, label in enumerate(LABELS):
        (few / label).rename(few / str(number))
    (few / "07").mkdir()

    assert refusal(evaluated, few).endswith(": the class folders '07' and '7' are both class 7"
                                            ", or with --list a file of lines PATH CLASS")  # fmt: skip


def test_numbers_that_are_labels_of_other_classes_are_not_guessed():
    with pytest.raises(ValueError, match=r"'1' is a label of the model .* that of class 0, and also .*, 1: not sure"):
        classes_of(["1", "2"], ["1", "2", "3"])
    assert classes_of(["1", "2"], ["0", "1", "2"]) == {"1": 1, "2": 2}


def test_a_label_of_two_classes_is_not_guessed():
    with pytest.raises(ValueError, match="'crane' may be class 134 or 517"):
        classes_of(["crane"], IMAGENET)
    assert classes_of(["134", "517"], IMAGENET) == {"134": 134, "517": 517}


def test_imagenets_folders_are_known_by_their_wordnet_ids():
    folders = ["n01440764", "n02123045", "n07753592", "n15075141"]

    assert classes_of(folders, IMAGENET) == dict(zip(folders, [0, 281, 954, 999], strict=True))
    assert [IMAGENET[number].split(",")[0] for number in (0, 281, 954, 999)] == [
        "tench",
        "tabby",
        "banana",
        "toilet tissue",
    ]
    with pytest.raises(ValueError, match="'n00000001' is not a WordNet id of ImageNet-1k"):
        classes_of([*folders, "n00000001"], IMAGENET)
    with pytest.raises(ValueError, match="'n01440764' is no class of the model"):
        classes_of(folders, LABELS)


def test_the_wordnet_ids_are_a_thousand_in_class_order():
    synsets = SYNSETS.read_text().split()

    assert len(set(synsets)) == 1000 and synsets == sorted(synsets)
    assert all(re.fullmatch(r"n\d{8}", synset) for synset in synsets)


def test_a_source_that_holds_no_images_is_refused(evaluated, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "classes/one").mkdir(parents=True)

    assert "empty: no folders in it; accepted is a folder with a folder of images for each class" in refusal(
        evaluated, tmp_path / "empty"
    )
    assert "classes: no files in its 1 class folders" in refusal(evaluated, tmp_path / "classes")
    assert "nowhere: no such folder or file" in refusal(evaluated, tmp_path / "nowhere")
    assert "no such folder; accepted with --list" in refusal(evaluated, SAMPLES / "one.png", "--list", "list.txt")
    assert "gone.txt: No such file" in refusal(evaluated, SAMPLES, "--list", str(tmp_path / "gone.txt"))
    assert "val_list.txt: empty" in refusal(evaluated, listed(tmp_path, "", " "))
    assert f"{'x' * 300}: no such folder" in refusal(evaluated, tmp_path / ("x" * 300))


def test_a_class_folder_that_may_not_be_read_is_named(few: Path, monkeypatch: pytest.MonkeyPatch):
    scandir = os.scandir

    def denied(path: str | Path) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "four":  # no folder is closed to root, which tests may be
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(Exception, match=r"few/four: Permission denied$"):
        labelled_images(few, None, LABELS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "tensorflow"], "--engine tensorflow: accepted are paddle, onnxruntime, openvino, auto"),
        (["--engine", "paddle,openvino"], "--engine paddle,openvino: accepted is one"),
        (["--precision", "fp8"], "--precision fp8: accepted are fp32"),
        (["--precision", "bf16"], "precision: bf16 is not built in with native.engine: onnxruntime; accepted: fp32"),
        (["--device", "npu"], "--device npu: accepted are cpu, gpu:N and tensorrt:N"),
        (["--jpeg-decode", "fast"], "--jpeg-decode fast: accepted are exact, scaled"),
        (["--model", "regnet"], "'regnet': no model of that name"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(words: list[str], message: str, few: Path, evaluated):
    assert message in refusal(evaluated, few, *words)


@pytest.mark.parametrize(
    "words", [["--batch-size", "0"], ["--batch-size", "1025"], ["--limit", "x"], ["--threads", "-1"]]
)
def test_a_number_out_of_range_is_told_with_the_range(
    words: list[str], few: Path, evaluated, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as ended:
        evaluated(few, *words)
    assert ended.value.code == 2
    assert f"argument {words[0]}: {words[1]!r}: accepted is a whole number from 1 to" in capsys.readouterr().err


def test_jpegs_are_decoded_as_the_service_is_told_to(few: Path, evaluated):
    found = evaluated(few, "--jpeg-decode", "scaled")[1]

    assert (found["jpeg_decode"], found["top1_correct"]) == ("scaled", 10)
    assert evaluated(few)[1]["jpeg_decode"] == "exact"


def test_five_classes_or_fewer_are_no_measure_of_the_five_best(digits_model: Path):
    model, counted = load_model(digits_model), Evaluation(of=2, images=2, top1=1, top5=2)
    config = evaluator_config(digits_model, batch_size=8)
    text = as_text(counted, dataclasses.replace(model, labels=model.labels[:4]), config)

    assert "top-5       100.00% (2 of 2); the model has 4 classes, so every answer counts as right\n" in text
    assert "counts as right" not in as_text(counted, dataclasses.replace(model, labels=model.labels[:6]), config)


def test_of_many_unreadable_files_some_are_named_and_all_are_counted(digits_model: Path):
    lost = [Unreadable(f"{number}.png", "No such file or directory") for number in range(NAMED + 5)]
    text = as_text(Evaluation(of=25, unreadable=lost), load_model(digits_model), evaluator_config(digits_model))

    assert "top-1       no image was classified\n" in text and "not read    25, which are not counted above:" in text
    assert f"{NAMED - 1}.png: " in text and f"{NAMED}.png: " not in text
    assert text.endswith("and 5 more; --json names all")


def test_a_damaged_model_is_not_measured(digits_model: Path, few: Path, evaluated, tmp_path: Path):
    shutil.copytree(digits_model.parent, tmp_path / "damaged")
    with (tmp_path / "damaged/serving_server/inference.onnx").open("ab") as file:
        file.write(b"x")

    assert "inference.onnx: SHA-256 is" in refusal(evaluated, few, "--model", str(tmp_path / "damaged"))


def test_no_more_images_are_decoded_than_a_batch_ahead(digits_model: Path, held_out_folder: Path):
    taken = 0

    class Counted(list):
        def __iter__(self):
            nonlocal taken
            for image in super().__iter__():
                taken += 1
                yield image

    ahead: list[int] = []
    images = Counted(labelled_images(held_out_folder, None, LABELS))
    counted = evaluator(digits_model, batch_size=4).run(images, lambda so_far: ahead.append(taken - so_far.done))

    assert counted.images == 445
    assert 0 < max(ahead) <= 4 + usable_cores() + 1


def test_ctrl_c_ends_with_what_was_counted(digits_model: Path, held_out_folder: Path):
    def interrupt(_: Evaluation) -> None:
        raise KeyboardInterrupt

    counted = evaluator(digits_model, batch_size=4).run(labelled_images(held_out_folder, None, LABELS), interrupt)

    assert (counted.interrupted, counted.images, counted.of) == (True, 4, 445)


def evaluator_config(model: Path, *, batch_size: int = 8) -> Config:
    options = {"engine": "onnxruntime", "precision": "fp32", "device": Device(), "threads": 1}
    return engine_config(load_model(model).program.parent, batch_size=batch_size, **options)


def evaluator(model: Path, *, batch_size: int) -> Evaluator:
    return Evaluator(evaluator_config(model, batch_size=batch_size))


def test_a_terminal_sees_how_far_it_is_and_a_file_does_not(digits_model: Path, held_out_folder: Path):
    command = [sys.executable, "-m", "serving_models", "evaluate", str(held_out_folder), "--model", str(digits_model)]
    ours, theirs = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [*command, "--engine", "onnxruntime"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    ) as process:
        os.close(theirs)
        shown = _everything(ours)
        out, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    assert "images/s" in shown and "top-1" in shown and "/445" in shown
    assert "\x1b" not in out and out.startswith("model ")


def _everything(descriptor: int) -> str:
    """What a terminal is sent until its other end is closed."""
    pieces = []
    while True:
        try:
            piece = os.read(descriptor, 1 << 16)
        except OSError:  # Linux: EIO, the other end is closed
            piece = b""
        if not piece:
            os.close(descriptor)
            return b"".join(pieces).decode()
        pieces.append(piece)
